#include "tree/beam.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace {
struct beam_node {
    double      score; // log-probability of the path
    float       logprob;
    llama_token token;
    int32_t     parent;
    int32_t     depth;
    bool        on_spine;
    int32_t     asked = -1; // which of its depth's parents it was, if its children were asked for
};

class beam {
public:
    explicit beam(const beam_request & request) : request(request), nodes({ { 0.0, 0.0f, request.root, -1, 0, true } }), chosen({ 0 }) {}

    // Appends the nodes at depth - 1 that are worth to be expanded, and takes note where they are in `asked`.
    void ask(int32_t depth, int32_t id, std::vector<beam_parent> & asked) {
        parents.clear();
        if (depth > request.depth || request.n_nodes <= 0) {
            return;
        }
        for (const int32_t i : chosen) { // they are in descending score
            if (nodes[i].depth == depth - 1) {
                parents.push_back(i);
            }
        }
        if (keeps_spine()) {
            std::stable_partition(parents.begin(), parents.end(), [&](int32_t i) { return nodes[i].on_spine; });
        }
        parents.resize(std::min(parents.size(), (size_t) std::max(request.width, 1)));
        double mass = 0.0;
        for (const int32_t i : parents) {
            mass += std::exp(nodes[i].score);
        }
        if (mass < request.least_mass) {
            parents.clear();
        }
        for (const int32_t i : parents) {
            nodes[i].asked = (int32_t) asked.size();
            asked.push_back({ id, nodes[i].token, nodes[i].parent < 0 ? -1 : nodes[nodes[i].parent].asked });
        }
    }

    // The children of what was asked for last.
    void grow(int32_t depth, const std::vector<position_candidates> & children) {
        for (const int32_t parent : parents) {
            const position_candidates & found = children[nodes[parent].asked];
            const size_t n = request.chain ? std::min(found.tokens.size(), (size_t) 1) : found.tokens.size();
            for (size_t c = 0; c < n; ++c) {
                const float logprob = std::min(found.logprobs[c], 0.0f);
                chosen.push_back((int32_t) nodes.size());
                nodes.push_back({ nodes[parent].score + logprob, logprob, found.tokens[c], parent, depth, nodes[parent].on_spine && c == 0 });
            }
        }
        keep_best();
    }

    draft_tree tree() const {
        draft_tree tree;
        std::vector<int32_t> index(nodes.size(), -1); // of a node in the tree
        for (const int32_t i : chosen) {
            const beam_node & node = nodes[i];
            index[i] = tree.n_nodes();
            tree.tokens .push_back(node.token);
            tree.parents.push_back(node.parent < 0 ? -1 : index[node.parent]);
            tree.depth  .push_back(node.depth);
            tree.logprob.push_back(node.logprob);
            tree.prob   .push_back(std::exp(node.score));
        }
        return tree;
    }

private:
    bool keeps_spine() const { return request.spine && request.n_nodes >= request.depth; }

    void keep_best() {
        // stable: of equal ones the parent stays before its child
        std::stable_sort(chosen.begin(), chosen.end(), [&](int32_t a, int32_t b) { return nodes[a].score > nodes[b].score; });
        const auto    is_kept = [&](int32_t i) { return keeps_spine() && nodes[i].on_spine; };
        const int32_t n_spine = (int32_t) std::count_if(chosen.begin(), chosen.end(), is_kept);
        int32_t room = request.n_nodes + 1 - n_spine; // of the others
        chosen.erase(std::remove_if(chosen.begin(), chosen.end(), [&](int32_t i) { return !is_kept(i) && room-- <= 0; }), chosen.end());
    }

    beam_request           request;
    std::vector<beam_node> nodes;   // all that were found, parents before children
    std::vector<int32_t>   chosen;  // the best of these, the best first
    std::vector<int32_t>   parents; // that are being expanded
};
}

std::vector<draft_tree> grow_beams(const std::vector<beam_request> & requests, beam_scores & scores) {
    std::vector<beam> beams(requests.begin(), requests.end());
    int32_t k = 1;
    for (const beam_request & request : requests) {
        k = std::max(k, request.chain ? 1 : request.n_nodes);
    }
    for (int32_t depth = 1;; ++depth) {
        std::vector<beam_parent> asked;
        for (size_t i = 0; i < beams.size(); ++i) {
            beams[i].ask(depth, (int32_t) i, asked);
        }
        if (asked.empty()) {
            break;
        }
        const auto children = scores.children(depth, asked, k);
        for (beam & beam : beams) {
            beam.grow(depth, children);
        }
    }
    std::vector<draft_tree> trees;
    for (const beam & beam : beams) {
        trees.push_back(beam.tree());
    }
    return trees;
}
