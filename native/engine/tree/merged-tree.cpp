#include "merged-tree.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace {
struct merged_node {
    llama_token token;
    int32_t     parent;
    int32_t     depth;
    double      given_parent;
    double      prob;
    std::vector<node_offer> offers;
    std::vector<int32_t>    children;
};

class merger {
public:
    explicit merger(llama_token root) { nodes.push_back({ root, -1, 0, 1.0, 1.0, {}, {} }); }

    void add(const proposal & proposal) {
        const draft_tree & tree = *proposal.tree;
        std::vector<int32_t> index(tree.n_nodes(), 0); // of its nodes here
        std::vector<int32_t> n_children(tree.n_nodes(), 0);
        std::vector<int32_t> off_spine(tree.n_nodes(), 0);
        for (int32_t i = 1; i < tree.n_nodes(); ++i) {
            const int32_t parent = tree.parents[i];
            const int32_t rank   = n_children[parent]++; // siblings come in descending probability
            off_spine[i] = off_spine[parent] + (rank > 0);

            const node_place place = { tree.depth[i], rank, off_spine[i] };
            const double     prob  = proposal.odds ? proposal.odds->probability(tree.logprob[i], place) : std::exp(tree.logprob[i]);
            index[i] = child(index[parent], tree.tokens[i]);
            nodes[index[i]].given_parent = std::max(nodes[index[i]].given_parent, prob);
            nodes[index[i]].offers.push_back({ proposal.drafter, tree.logprob[i], place });
        }
    }

    merged_tree result() {
        for (merged_node & node : nodes) { // parents come first
            double sum = 0.0;
            for (const int32_t child : node.children) {
                sum += nodes[child].given_parent;
            }
            for (const int32_t child : node.children) {
                nodes[child].prob = node.prob*nodes[child].given_parent/std::max(1.0, sum);
            }
        }
        std::vector<int32_t> order(nodes.size());
        std::iota(order.begin(), order.end(), 0);
        // stable: of equal ones the parent stays before its child
        std::stable_sort(order.begin() + 1, order.end(), [&](int32_t a, int32_t b) { return nodes[a].prob > nodes[b].prob; });

        merged_tree res;
        std::vector<int32_t> index(nodes.size(), -1);
        for (const int32_t i : order) {
            const merged_node & node = nodes[i];
            index[i] = res.tree.n_nodes();
            res.tree.tokens .push_back(node.token);
            res.tree.parents.push_back(node.parent < 0 ? -1 : index[node.parent]);
            res.tree.depth  .push_back(node.depth);
            res.tree.logprob.push_back(node.offers.empty() ? 0.0f : node.offers[0].logprob);
            res.tree.prob   .push_back(node.prob);
            res.offers.push_back(node.offers);
        }
        return res;
    }

private:
    int32_t child(int32_t parent, llama_token token) {
        for (const int32_t i : nodes[parent].children) {
            if (nodes[i].token == token) {
                return i;
            }
        }
        const int32_t i = (int32_t) nodes.size();
        nodes.push_back({ token, parent, nodes[parent].depth + 1, 0.0, 0.0, {}, {} });
        nodes[parent].children.push_back(i);
        return i;
    }

    std::vector<merged_node> nodes; // the root first, parents before their children
};
}

merged_tree merge(llama_token root, const std::vector<proposal> & proposals) {
    merger merger(root);
    for (const proposal & proposal : proposals) {
        merger.add(proposal);
    }
    return merger.result();
}
