// A draft tree and how its nodes are chosen from per-position log-probabilities.
#pragma once

#include "llama.h"

#include <cstdint>
#include <vector>

// The most probable tokens of one position of the block, by descending log-probability over the whole vocabulary.
struct position_candidates {
    std::vector<llama_token> tokens;
    std::vector<float>       logprobs;
};

// Log-softmax of `logits` [n_vocab] and its k best tokens. Tokens of logit -inf (outside a reduced draft vocabulary)
// have probability 0 and are never candidates; neither are NaN.
position_candidates top_candidates(const float * logits, int32_t n_vocab, int32_t k);

// The first k of a row that ggml_top_logprobs() has left: n_entries log-probabilities, n_entries ids.
position_candidates candidates_of(const float * entries, int32_t n_entries, int32_t k);

struct draft_tree {
    // index 0 is the root
    std::vector<llama_token> tokens;
    std::vector<int32_t>     parents;
    std::vector<int32_t>     depth;
    std::vector<float>       logprob; // given the parent
    std::vector<double>      prob;    // of the whole path from the root

    int32_t n_nodes() const { return (int32_t) tokens.size(); }

    // the child of `node` that carries `token`, or -1
    int32_t child(int32_t node, llama_token token) const;

    // keep the root and the first n_drafted nodes beside it: a tree again, as parents come first
    void truncate(int32_t n_drafted);
};

// The `budget` nodes of highest path probability, where the probability of a path is the product of its tokens'
// per-position probabilities: best-first search as in DDTree (arXiv 2604.12989, section 3.2). Nodes are in descending
// path probability. With `chain` only the best token of every position is taken.
draft_tree build_tree(llama_token root, const std::vector<position_candidates> & positions, int32_t budget, bool chain);
