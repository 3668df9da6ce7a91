#include "tree/draft-tree.h"

#include "ggml-top-logprobs.h"

#include <algorithm>
#include <cmath>
#include <queue>

position_candidates candidates_of(const float * entries, int32_t n_entries, int32_t k) {
    position_candidates res;
    for (int32_t i = 0; i < std::min(n_entries, k) && std::isfinite(entries[i]); ++i) {
        res.logprobs.push_back(entries[i]);
        res.tokens.push_back((llama_token) entries[n_entries + i]);
    }
    return res;
}

position_candidates top_candidates(const float * logits, int32_t n_vocab, int32_t k) {
    std::vector<float> entries(2*k);
    ggml_top_logprobs_row(logits, n_vocab, k, entries.data());
    return candidates_of(entries.data(), k, k);
}

int32_t draft_tree::child(int32_t node, llama_token token) const {
    for (int32_t i = node + 1; i < n_nodes(); ++i) {
        if (parents[i] == node && tokens[i] == token) {
            return i;
        }
    }
    return -1;
}

void draft_tree::truncate(int32_t n_drafted) {
    const size_t n = std::min<size_t>(tokens.size(), n_drafted + 1);
    tokens.resize(n);
    parents.resize(n);
    depth.resize(n);
    logprob.resize(n);
    prob.resize(n);
}

namespace {
struct candidate {
    double  score; // log-probability of the path
    int32_t parent;
    int32_t depth;
    int32_t rank;  // among the tokens of its position

    bool operator<(const candidate & other) const { return score < other.score; }
};
}

draft_tree build_tree(llama_token root, const std::vector<position_candidates> & positions, int32_t budget, bool chain) {
    draft_tree tree;
    tree.tokens  = { root };
    tree.parents = { -1 };
    tree.depth   = { 0 };
    tree.logprob = { 0.0f };
    tree.prob    = { 1.0 };

    std::priority_queue<candidate> open;
    const auto offer = [&](double above, int32_t parent, int32_t depth, int32_t rank) {
        if (depth <= (int32_t) positions.size() && rank < (int32_t) positions[depth - 1].tokens.size()) {
            open.push({ above + positions[depth - 1].logprobs[rank], parent, depth, rank });
        }
    };
    offer(0.0, 0, 1, 0);

    while (!open.empty() && tree.n_nodes() <= budget) {
        const candidate best = open.top();
        open.pop();

        const auto  & position = positions[best.depth - 1];
        const float   logprob  = position.logprobs[best.rank];
        const int32_t node     = tree.n_nodes();

        tree.tokens .push_back(position.tokens[best.rank]);
        tree.parents.push_back(best.parent);
        tree.depth  .push_back(best.depth);
        tree.logprob.push_back(logprob);
        tree.prob   .push_back(std::exp(best.score));

        offer(best.score, node, best.depth + 1, 0);
        if (!chain) {
            offer(best.score - logprob, best.parent, best.depth, best.rank + 1);
        }
    }
    return tree;
}
