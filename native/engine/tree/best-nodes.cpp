#include "best-nodes.h"

#include <algorithm>
#include <functional>

void keep_best_nodes(const std::vector<draft_tree *> & trees, int32_t n) {
    std::vector<int32_t> kept(trees.size(), 0); // nodes of each tree beside its root
    for (int32_t i = 0; i < n; ++i) {
        int32_t best = -1;
        double  prob = -1.0;
        for (size_t t = 0; t < trees.size(); ++t) {
            if (kept[t] + 1 < trees[t]->n_nodes() && trees[t]->prob[kept[t] + 1] > prob) {
                best = (int32_t) t;
                prob = trees[t]->prob[kept[t] + 1];
            }
        }
        if (best < 0) {
            break;
        }
        kept[best] += 1;
    }
    for (size_t t = 0; t < trees.size(); ++t) {
        trees[t]->truncate(kept[t]);
    }
}

std::vector<double> best_probabilities(const std::vector<draft_tree *> & trees) {
    std::vector<double> res;
    for (const draft_tree * tree : trees) {
        res.insert(res.end(), tree->prob.begin() + 1, tree->prob.end());
    }
    std::sort(res.begin(), res.end(), std::greater<double>());
    return res;
}
