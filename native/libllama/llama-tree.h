// Draft trees in libllama: decode many candidate continuations of one sequence or of several in one forward, keep one path
// of each.
//
// A tree is a set of token nodes of one sequence: a root, and nodes that each have one parent that comes before them. A
// forest is a batch of trees, one for each of some sequences ("lanes"), of any sizes; a tree may be a root alone, which is
// plain decoding in the same forward. A node sits at position n_past + depth, where n_past is the number of committed
// tokens of its sequence, and attends to that sequence's committed prefix, to its ancestors and to itself. Siblings share
// a position.
//
// Between llama_tree_decode() and llama_tree_commit() or llama_tree_discard() a sequence is pending: every other decode,
// sequence or state call that touches it fails, says so in the log and changes nothing. Other sequences are free meanwhile:
// they can be decoded (in a forest, too), removed, copied, saved and loaded. Calls that touch the whole context (clearing
// it, keeping one sequence, saving or loading all) count as touching every sequence. Logits, layer inputs and top outputs
// are those of the context's last decode, of whichever sequences that was.
//
// Verification of a tree in one pass: SpecInfer (arXiv 2305.09781, section 4); trees from DFlash drafts:
// DDTree (arXiv 2604.12989, section 3).
#pragma once

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

    // True if the context's memory can hold a tree and its graph can compute one: it is asked, whatever the architecture.
    // Otherwise the caller verifies chains.
    LLAMA_API bool llama_tree_supported(struct llama_context * ctx);

    // Make room for forests of up to n_nodes nodes (of all sequences together), which hybrid models need beside their
    // caches: llama_tree_decode() does it too, when a forest comes that is larger than any before, or when one comes while
    // trees of others are pending. Logs how much it is, and what upstream's snapshots of recurrent states (n_rs_seq) would
    // take for trees of that depth. Returns 0, or -1 if there is no memory or a tree is pending.
    LLAMA_API int32_t llama_tree_reserve(struct llama_context * ctx, int32_t n_nodes, int32_t depth);

    // True if the model's graph exposes the input of layer il, which a drafter reads as a feature; il = n_layer is the output
    // of the last layer, before the final norm. Ask before llama_set_embeddings_layer_inp(), which aborts where it is false.
    LLAMA_API bool llama_tree_has_layer_inp(struct llama_context * ctx, int32_t il);

    // Decode the nodes of `batch` (tokens, at most n_ubatch of all sequences together) in one forward.
    //   batch.pos    NULL, or n_past + depth for every node
    //   batch.seq_id NULL: all are of sequence 0; or a single id for every node. Nodes of a sequence need not be neighbours
    //   batch.logits NULL to get the logits of every node, or a flag per node
    //   parents      [batch.n_tokens] indices in the batch: -1 for a sequence's first node, its root; 0 <= parents[i] < i
    //                and of the same sequence for its other ones
    // Logits, layer inputs and top outputs are read as after llama_decode(), by index in the batch.
    // Returns 0 on success; the sequences are then pending.
    //   1: no room in the memory for that many nodes, 2: aborted by the abort callback,
    //  -1: bad input, -2: allocation failed, -3: compute failed. On all of these the memory is as before.
    LLAMA_API int32_t llama_tree_decode(struct llama_context * ctx, struct llama_batch batch, const int32_t * parents);

    // Keep the nodes of `path` ([n_path] indices in the batch: the sequence's root, then child after child) and drop the
    // rest of its tree: its memory is then as if the path's tokens had been decoded in order. The sequences of a forest are
    // committed or discarded one by one, in any order, whatever becomes of the others. Returns 0, or on failure
    //   -1: bad input, -2: allocation failed: the sequence stays pending and nothing has changed,
    //   -3: it failed half way: the sequence was removed, so that nothing can go on from a broken state.
    LLAMA_API int32_t llama_tree_commit(struct llama_context * ctx, llama_seq_id seq_id, const int32_t * path, int32_t n_path);

    // Drop every node of the sequence's tree: its memory is as if nothing had been decoded. Returns 0, or -1 if it is not
    // pending.
    LLAMA_API int32_t llama_tree_discard(struct llama_context * ctx, llama_seq_id seq_id);

    // True between a successful llama_tree_decode() and the commit or discard that ends it. seq_id < 0: for any sequence.
    LLAMA_API bool llama_tree_pending(const struct llama_context * ctx, llama_seq_id seq_id);

    // True if the model's logits are computed on a GPU or another device with memory of its own.
    LLAMA_API bool llama_tree_outputs_on_device(const struct llama_model * model);

    // The device that computes the model's logits; NULL: the CPU.
    LLAMA_API ggml_backend_dev_t llama_tree_output_device(const struct llama_model * model);

    // From the next decode on, only the n_top best entries of every row of logits come to the host (0: whole rows, as ever).
    // llama_get_logits_ith() still gives a row: it is copied when it is asked for. A batch that doesn't fit into one
    // ubatch gives whole rows.
    LLAMA_API void llama_tree_set_top(struct llama_context * ctx, int32_t n_top);

    // The same with the entries' logits in place of their log-probabilities.
    LLAMA_API void llama_tree_set_top_logits(struct llama_context * ctx, int32_t n_top);

    // The best entries of the i-th token's row: n_top log-probabilities over the whole vocabulary (or logits), the largest
    // first, then their n_top token ids (as floats; -1, after -inf, where a row has fewer). NULL if the last decode left
    // whole rows, or none for this token.
    LLAMA_API const float * llama_tree_get_top_ith(struct llama_context * ctx, int32_t i);

    // One more drafter of `target` wants the inputs of layer il (or, with false, one less): decodes leave them as long as
    // anybody does. Returns 0, or -1 if there is no memory.
    LLAMA_API int32_t llama_tree_want_layer_inp(struct llama_context * target, int32_t il, bool wanted);

    // From the next decode on, the inputs of these layers of `target` go to a store of n_rows rows on the device of
    // `drafter`'s first layer, and to the host only where another drafter wants them there. Each drafter's context has a
    // store of its own. The layers must have been asked for with llama_tree_want_layer_inp(); `drafter` must be a context with
    // target as its ctx_other. n_layers = 0: as before, for this drafter. Returns 0, or -1 if there is no memory.
    LLAMA_API int32_t llama_tree_keep_features(
            struct llama_context * target, struct llama_context * drafter, const int32_t * layers, int32_t n_layers, int32_t n_rows);

    // Token i of the target's next batch goes to row `row` + i of the drafter's store; it must have room for all of them.
    LLAMA_API void llama_tree_place_features(struct llama_context * target, const struct llama_context * drafter, int32_t row);

    // Decode the features in `rows` of the store, of positions pos of sequences seq_ids (NULL: all of sequence 0), on the
    // drafter's context: [n], n at most its n_ubatch. Of several sequences only where they share one cache (kv_unified).
    // The target's decode must be over (llama_synchronize). Returns as llama_decode().
    LLAMA_API int32_t llama_tree_inject(
            struct llama_context * drafter, const int32_t * rows, const llama_pos * pos, const llama_seq_id * seq_ids, int32_t n);

    // For a context that decodes batches with outputs and without in turn: keep the graphs of both, in a compute buffer
    // each, and on a device for as long as it can be done.
    LLAMA_API void llama_tree_keep_both_graphs(struct llama_context * ctx);

    // What the last failing llama_tree_* call of this thread, or a call refused because of a pending tree, complained
    // about. Never NULL. Valid until the thread's next such call.
    LLAMA_API const char * llama_tree_last_error(void);

#ifdef __cplusplus
}
#endif
