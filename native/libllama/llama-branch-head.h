// Heads that add to the logits of a position a term of the tokens before it in its branch of a draft tree:
//   vanilla  W2 W1[t]                                        t: the token before                       (DSpark)
//   gated    W2 (g * W1[t])                                  g = sigmoid(G [h; W1[t]] + b)              (DSpark)
//   rnn      W2 tanh(o)                                      [a; c; o] = J [s; W1[t]; h] + b            (DSpark)
//            and s' = sigmoid(a) * s + (1 - sigmoid(a)) * tanh(c) is the state of the position after
//   domino   B silu(A [h; s'])                               s' = GRU(s, E[t])                          (Domino)
// h is the drafter's hidden state at the position, after its final norm; s starts as zeros at the block's first position; E are the
// target's embeddings. Formulas: deepspec/modeling/dspark/markov_head.py of DeepSpec, and of Domino specforge's
// modeling/draft/domino.py.
//
// Upstream's graph computes the vanilla head along one chain, each position's most probable token; a tree has many parents and asks for each
// of them. Computed where the logits and the weights are: no row of the vocabulary crosses to the host.
#pragma once

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

    struct llama_branch_head;

    // A node whose children are asked for.
    struct llama_branch_parent {
        llama_token token;
        int32_t     before; // which of the last call's parents its own parent was; -1 for the root
    };

    // Take the head off a drafter's model, before a context of it is made: its graph then leaves the logits as they are without
    // the head. `target` is the model that the drafter is for. NULL if the model has none. Both models must outlive the head.
    // The file has been checked (drafter_file::check): its tensors fit each other.
    LLAMA_API struct llama_branch_head * llama_branch_head_take(struct llama_model * model, const struct llama_model * target);

    LLAMA_API void llama_branch_head_free(struct llama_branch_head * head);

    // For each of `parents`, all of one depth, the k most probable tokens after it at row `row` of the logits of the last decode
    // of `ctx`, a context of the head's model, whose tokens all were outputs. `depth` is that of the children; calls for depths
    // 1, 2, ... follow each other. out: [n_parents][2*k], for each parent k log-probabilities over the whole vocabulary, the
    // largest first, then the k tokens (as floats; -1, after -inf, where there are fewer).
    // Returns 0, -1 if there is no such row or parent, -2 if there is no memory, -3 if computing failed.
    LLAMA_API int32_t llama_branch_head_children(
            struct llama_branch_head         * head,
            struct llama_context             * ctx,
            int32_t                            row,
            int32_t                            depth,
            const struct llama_branch_parent * parents,
            int32_t                            n_parents,
            int32_t                            k,
            float                            * out);

#ifdef __cplusplus
}
#endif
