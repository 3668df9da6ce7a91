#include "tree/branch-tree.h"

#include <algorithm>
#include <cmath>

namespace {
struct branch_node {
    double      score; // log-probability of the path
    float       logprob;
    llama_token token;
    int32_t     parent;
    int32_t     depth;
    int32_t     asked = -1; // which of its depth's parents it was, if its children were asked for
};
}

static draft_tree as_tree(const std::vector<branch_node> & nodes, const std::vector<int32_t> & chosen) {
    draft_tree tree;
    std::vector<int32_t> index(nodes.size(), -1); // of a node in the tree
    for (const int32_t i : chosen) {
        const branch_node & node = nodes[i];
        index[i] = tree.n_nodes();
        tree.tokens .push_back(node.token);
        tree.parents.push_back(node.parent < 0 ? -1 : index[node.parent]);
        tree.depth  .push_back(node.depth);
        tree.logprob.push_back(node.logprob);
        tree.prob   .push_back(std::exp(node.score));
    }
    return tree;
}

// Best first, but a depth at a time, so that a head scores all parents of a depth at once. A path is never more probable
// than its beginning: what is among the `budget` best nodes of all depths has its parent among those of the depths above.
draft_tree build_tree(llama_token root, branch_scores & scores, int32_t n_positions, int32_t budget, bool chain) {
    std::vector<branch_node> nodes  = { { 0.0, 0.0f, root, -1, 0 } };
    std::vector<int32_t>     chosen = { 0 };
    std::vector<int32_t>     parents = chosen; // the chosen nodes of the depth above

    for (int32_t depth = 1; depth <= n_positions && !parents.empty() && budget > 0; ++depth) {
        std::vector<branch_parent> asked;
        for (const int32_t i : parents) {
            nodes[i].asked = (int32_t) asked.size();
            asked.push_back({ nodes[i].token, nodes[i].parent < 0 ? -1 : nodes[nodes[i].parent].asked });
        }
        const auto children = scores.children(depth, asked, chain ? 1 : budget);
        for (size_t p = 0; p < parents.size(); ++p) {
            for (size_t c = 0; c < children[p].tokens.size(); ++c) {
                const float logprob = std::min(children[p].logprobs[c], 0.0f);
                chosen.push_back((int32_t) nodes.size());
                nodes.push_back({ nodes[parents[p]].score + logprob, logprob, children[p].tokens[c], parents[p], depth });
            }
        }
        // stable: of equal ones the parent stays before its child
        std::stable_sort(chosen.begin(), chosen.end(), [&](int32_t a, int32_t b) { return nodes[a].score > nodes[b].score; });
        chosen.resize(std::min(chosen.size(), (size_t) budget + 1));

        parents.clear();
        std::copy_if(chosen.begin(), chosen.end(), std::back_inserter(parents), [&](int32_t i) { return nodes[i].depth == depth; });
    }
    return as_tree(nodes, chosen);
}
