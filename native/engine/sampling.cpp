#include "sampling.h"

#include "llama-tree.h"
#include "top-sampling.h"

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
static llama_token best_at(llama_context * target, int32_t row, int32_t n_top, int32_t n_vocab) {
    if (const float * entries = llama_tree_get_top_ith(target, row)) {
        return (llama_token) entries[n_top];
    }
    return argmax(llama_get_logits_ith(target, row), n_vocab);
}

static bool is_token(llama_token token, int32_t n_vocab) { return token >= 0 && token < n_vocab; }

llama_token decided_at(llama_context * target, int32_t row, int32_t n_top, llama_sampler * sampler, llama_dflash_choice choice) {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(target)));
    if (choice == LLAMA_DFLASH_CHOICE_ARGMAX) {
        const llama_token best = best_at(target, row, n_top, n_vocab);
        if (is_token(best, n_vocab)) { // else the sampler has to decide what no best token means
            return best;
        }
    }
    if (choice == LLAMA_DFLASH_CHOICE_TOP_K && n_top >= TOP_SAMPLING_ENTRIES) {
        const float *     entries = llama_tree_get_top_ith(target, row);
        const llama_token token   = entries ? choose_from_top(sampler, entries, n_top) : -1;
        if (is_token(token, n_vocab)) {
            return token;
        }
    }
    return -1;
}

llama_token sample_at(llama_context * target, int32_t row, int32_t n_top, llama_sampler * sampler, llama_dflash_choice choice) {
    const llama_token token = decided_at(target, row, n_top, sampler, choice);
    if (token < 0) {
        return llama_sampler_sample(sampler, target, row);
    }
    llama_sampler_accept(sampler, token);
    return token;
}
