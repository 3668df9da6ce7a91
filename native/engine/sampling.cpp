#include "sampling.h"

#include "llama-tree.h"

#include <algorithm>
#include <cmath>

static llama_token argmax(const float * logits, int32_t n) {
    constexpr int32_t lanes = 16;
    float best[lanes];
    std::fill(best, best + lanes, -INFINITY);
    int32_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        for (int32_t l = 0; l < lanes; ++l) {
            best[l] = logits[i + l] > best[l] ? logits[i + l] : best[l];
        }
    }
    float max = *std::max_element(best, best + lanes);
    for (; i < n; ++i) {
        max = std::max(max, logits[i]);
    }
    return (llama_token) (std::find(logits, logits + n, max) - logits);
}

// The token of the largest logit, or something that is no token if every logit is NaN or -inf.
static llama_token best_at(llama_context * target, int32_t row, int32_t n_vocab) {
    if (const float * entries = llama_tree_get_top_ith(target, row)) {
        return (llama_token) entries[1];
    }
    return argmax(llama_get_logits_ith(target, row), n_vocab);
}

llama_token sample_at(llama_context * target, int32_t row, llama_sampler * sampler, bool greedy) {
    const int32_t     n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(target)));
    const llama_token best    = greedy ? best_at(target, row, n_vocab) : -1;
    if (best < 0 || best >= n_vocab) { // not greedy, or the sampler has to decide what no best token means
        return llama_sampler_sample(sampler, target, row);
    }
    llama_sampler_accept(sampler, best);
    return best;
}
