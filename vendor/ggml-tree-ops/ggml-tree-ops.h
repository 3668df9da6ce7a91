// Gated DeltaNet over a tree of candidate tokens: what a hybrid model needs to verify a draft tree in one forward, and
// to keep the accepted path afterwards.
//
// The recurrence is that of Gated DeltaNet (arXiv 2412.06464); the tree is a draft tree (DDTree, arXiv 2604.12989).
// Verifying leaves the committed state alone and writes no state of a node: the path is recomputed from its inputs once
// it is accepted (SpecLA, arXiv 2607.16673).
//
// Bits. Every node goes through the same sequence of rounded operations as in ggml_ssm_conv and ggml_gated_delta_net
// over the tokens of its root path: the results are equal bit for bit (the tests in tests/ check it).
//
// Trees. `parents[i]` is the index of node i's parent, smaller than i, or -1: a root, which continues the sequence as it
// is. There may be several roots. Parents and paths are data, known when the graph runs; they are the caller's to check.
// An index that is out of range is harmless: a parent that is not in [0, i) makes node i a root, an entry of a path that
// is not in [0, n_tokens) is skipped.
#pragma once

#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// ggml_ssm_conv over a tree. Tap d_conv-1 of node i reads its own column, tap d_conv-2 its parent's, and so on; past the
// root the taps read the carried columns, the last one first.
//
//   conv_input  F32 [d_conv-1 + n_tokens, d_inner, n_seqs]: d_conv-1 carried columns, then one a node
//   kernel      F32 [d_conv, d_inner], contiguous
//   parents     I32 [n_tokens, n_seqs], contiguous
//   result      F32 [d_inner, n_tokens, n_seqs]
//
// Aborts, with what was found and expected, where types or shapes differ from this (as all ops do).
GGML_API struct ggml_tensor * ggml_ssm_conv_tree(
        struct ggml_context * ctx,
        struct ggml_tensor  * conv_input,
        struct ggml_tensor  * kernel,
        struct ggml_tensor  * parents);

// ggml_gated_delta_net over a tree: node i's recurrence starts from its parent's state, a root's from `state`.
//
//   q, k     F32 [S, H_k, n_tokens, n_seqs_k]: value head h reads head h % H_k, sequence s reads s / (n_seqs / n_seqs_k)
//   v        F32 [S, H,   n_tokens, n_seqs]
//   g        F32 [1, H,   n_tokens, n_seqs], or [S, H, n_tokens, n_seqs] (a gate per channel, KDA); log of the decay
//   beta     F32 [1, H,   n_tokens, n_seqs]
//   state    F32 [S, S, H, n_seqs], transposed as in ggml_gated_delta_net; it is read only
//   parents  I32 [n_tokens, n_seqs]
//   result   F32 [S*H, n_tokens*n_seqs]: the attention of every node, no state
//
// Rows of q, k and v have to be contiguous, the rest contiguous as a whole. Aborts where types or shapes differ.
GGML_API struct ggml_tensor * ggml_gated_delta_net_tree(
        struct ggml_context * ctx,
        struct ggml_tensor  * q,
        struct ggml_tensor  * k,
        struct ggml_tensor  * v,
        struct ggml_tensor  * g,
        struct ggml_tensor  * beta,
        struct ggml_tensor  * state,
        struct ggml_tensor  * parents);

// The state after a path of nodes: the recurrence over k, v, g and beta of these nodes only, in the path's order.
//
//   k, v, g, beta, state  as above, n_tokens being the nodes of the tree
//   path                  I32 [n_path, n_seqs]: nodes from the root on; -1 fills up where a sequence has a shorter path
//   result                F32 [S, S, H, n_seqs]
GGML_API struct ggml_tensor * ggml_gated_delta_net_tree_persist(
        struct ggml_context * ctx,
        struct ggml_tensor  * k,
        struct ggml_tensor  * v,
        struct ggml_tensor  * g,
        struct ggml_tensor  * beta,
        struct ggml_tensor  * state,
        struct ggml_tensor  * path);

// The same, written over `state`; the result is a view of it.
GGML_API struct ggml_tensor * ggml_gated_delta_net_tree_persist_inplace(
        struct ggml_context * ctx,
        struct ggml_tensor  * k,
        struct ggml_tensor  * v,
        struct ggml_tensor  * g,
        struct ggml_tensor  * beta,
        struct ggml_tensor  * state,
        struct ggml_tensor  * path);

#ifdef __cplusplus
}
#endif
