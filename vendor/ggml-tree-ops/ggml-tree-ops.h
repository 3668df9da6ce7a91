// Gated DeltaNet over a forest of candidate tokens: what a hybrid model needs to verify the draft trees of several sequences
// in one forward, and to keep each one's accepted path afterwards.
//
// The recurrence is that of Gated DeltaNet (arXiv 2412.06464); the trees are draft trees (DDTree, arXiv 2604.12989).
// Verifying leaves the committed states alone and writes no state of a node: the path is recomputed from its inputs once
// it is accepted (SpecLA, arXiv 2607.16673).
//
// Bits. Every node goes through the same sequence of rounded operations as in ggml_ssm_conv and ggml_gated_delta_net
// over the tokens of its root path: the results are equal bit for bit (the tests in tests/ check it).
//
// Forests. `parents[i]` is the index of node i's parent, smaller than i. A root has -1 - s: it continues the sequence whose
// state is number s of `states`, so -1 is a root of the first one. The nodes of one tree need not be neighbours, several
// roots may share a state. States are read where a recurrent memory has them: a row of it for each sequence, which no copy
// has to gather. Parents, paths and rows are data, known when the graph runs; they are the caller's to check. An index that
// is out of range is harmless: a parent of node i that is i or more makes it a root of the first state, a state's number
// that is not in [0, n_states) means a state of zeros (a new sequence's), an entry of a path that is not in [0, n_tokens)
// is skipped, and a state is not written to a row that does not exist.
#pragma once

#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// ggml_ssm_conv over a forest. Tap d_conv-1 of node i reads its own input, tap d_conv-2 its parent's, and so on; past the
// root the taps read the inputs that its sequence carries, the last one first.
//
//   inputs   F32 [d_inner, n_tokens], rows contiguous
//   states   F32 [(d_conv-1)*d_inner, n_states], contiguous: d_conv-1 carried inputs, channel after channel
//   kernel   F32 [d_conv, d_inner], contiguous
//   parents  I32 [n_tokens]
//   result   F32 [d_inner, n_tokens]
//
// Aborts, with what was found and expected, where types or shapes differ from this (as all ops do).
GGML_API struct ggml_tensor * ggml_ssm_conv_tree(
        struct ggml_context * ctx,
        struct ggml_tensor  * inputs,
        struct ggml_tensor  * states,
        struct ggml_tensor  * kernel,
        struct ggml_tensor  * parents);

// The carried inputs after a path of nodes, for each of some sequences: the last d_conv-1 of those before and the path's.
//
//   inputs, states  as above, n_tokens being all nodes
//   path            I32 [n_path, n_seqs]: nodes from the root on; -1 fills up where a sequence has a shorter path
//   rows            I32 [2, n_seqs]: the number of the state before, and of the one that is written (in place)
//   result          F32 [(d_conv-1)*d_inner, n_seqs]
GGML_API struct ggml_tensor * ggml_ssm_conv_tree_persist(
        struct ggml_context * ctx,
        struct ggml_tensor  * inputs,
        struct ggml_tensor  * states,
        struct ggml_tensor  * path,
        struct ggml_tensor  * rows);

// The same, written to `states`, of which the result is a view. No sequence's state may be written where another's is read.
GGML_API struct ggml_tensor * ggml_ssm_conv_tree_persist_inplace(
        struct ggml_context * ctx,
        struct ggml_tensor  * inputs,
        struct ggml_tensor  * states,
        struct ggml_tensor  * path,
        struct ggml_tensor  * rows);

// ggml_gated_delta_net over a forest: node i's recurrence starts from its parent's state, a root's from its sequence's.
//
//   q, k     F32 [S, H_k, n_tokens]: value head h reads head h % H_k
//   v        F32 [S, H,   n_tokens]
//   g        F32 [1, H,   n_tokens], or [S, H, n_tokens] (a gate per channel, KDA); log of the decay
//   beta     F32 [1, H,   n_tokens]
//   states   F32 [S, S, H, n_states], each transposed as in ggml_gated_delta_net; they are read only
//   parents  I32 [n_tokens]
//   result   F32 [S*H, n_tokens]: the attention of every node, no state
//
// Rows of q, k and v have to be contiguous, the rest contiguous as a whole. Aborts where types or shapes differ.
GGML_API struct ggml_tensor * ggml_gated_delta_net_tree(
        struct ggml_context * ctx,
        struct ggml_tensor  * q,
        struct ggml_tensor  * k,
        struct ggml_tensor  * v,
        struct ggml_tensor  * g,
        struct ggml_tensor  * beta,
        struct ggml_tensor  * states,
        struct ggml_tensor  * parents);

// The state after a path of nodes, for each of some sequences: the recurrence over k, v, g and beta of these nodes only,
// in the path's order.
//
//   k, v, g, beta, states  as above, n_tokens being all nodes
//   path, rows             as in ggml_ssm_conv_tree_persist
//   result                 F32 [S, S, H, n_seqs]
GGML_API struct ggml_tensor * ggml_gated_delta_net_tree_persist(
        struct ggml_context * ctx,
        struct ggml_tensor  * k,
        struct ggml_tensor  * v,
        struct ggml_tensor  * g,
        struct ggml_tensor  * beta,
        struct ggml_tensor  * states,
        struct ggml_tensor  * path,
        struct ggml_tensor  * rows);

// The same, written to `states`, of which the result is a view. No sequence's state may be written where another's is read.
GGML_API struct ggml_tensor * ggml_gated_delta_net_tree_persist_inplace(
        struct ggml_context * ctx,
        struct ggml_tensor  * k,
        struct ggml_tensor  * v,
        struct ggml_tensor  * g,
        struct ggml_tensor  * beta,
        struct ggml_tensor  * states,
        struct ggml_tensor  * path,
        struct ggml_tensor  * rows);

// For backends: whether a persist op writes to `states`.
GGML_API bool ggml_tree_op_is_inplace(const struct ggml_tensor * op);

#ifdef __cplusplus
}
#endif
