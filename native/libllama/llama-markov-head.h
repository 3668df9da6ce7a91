// DSpark's Markov head for draft trees. It adds to the logits of a position a term of the token before it, W2 W1[token].
// Upstream's graph does so along one chain, each position's most probable token; a tree has many parents and asks for each
// of them. Computed where the logits and the weights are: no row of the vocabulary crosses to the host.
#pragma once

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

    struct llama_markov_head;

    // Take the head off a DSpark drafter's model, before a context of it is made: its graph then leaves the logits as they
    // are without the head. NULL if the model has none. The model must outlive the head.
    LLAMA_API struct llama_markov_head * llama_markov_head_take(struct llama_model * model);

    LLAMA_API void llama_markov_head_free(struct llama_markov_head * head);

    // For each of `parents` the k most probable tokens at row `row` of the logits of the last decode of `ctx`, a context of
    // the head's model, whose tokens all were outputs. out: [n_parents][2*k], for each parent k log-probabilities over the
    // whole vocabulary, the largest first, then the k tokens (as floats; -1, after -inf, where there are fewer).
    // Returns 0, -1 if there is no such row, -2 if there is no memory, -3 if computing failed.
    LLAMA_API int32_t llama_markov_head_children(
            struct llama_markov_head * head,
            struct llama_context     * ctx,
            int32_t                    row,
            const llama_token        * parents,
            int32_t                    n_parents,
            int32_t                    k,
            float                    * out);

#ifdef __cplusplus
}
#endif
