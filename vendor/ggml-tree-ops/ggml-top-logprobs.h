// The most probable entries of every row of logits: what a draft needs of a position (its best tokens and how probable
// they are), and greedy decoding of a node (its best token), without the row itself leaving the device.
#pragma once

#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// The k largest logits of every row as log-probabilities, normalised over the whole row.
//
//   logits  F32 [n, n_rows], contiguous
//   result  F32 [2*k, n_rows]: k log-probabilities, the largest first, then the k indices, as floats (exact below 2^24)
//
// Of equal logits the one with the smaller index comes first. NaN and -inf are no candidates: where a row has fewer than
// k others, the rest is -inf with the index -1. Aborts where types or shapes differ from this, and for k < 1.
//
// An op with a number of its own, not a GGML_OP_CUSTOM, whose parameters are a function's address: a graph may be computed
// by another process (RPC), where an address means nothing. A backend that doesn't know it leaves it to the CPU.
GGML_API struct ggml_tensor * ggml_top_logprobs(struct ggml_context * ctx, struct ggml_tensor * logits, int32_t k);

// The same with the logits as they are, for sampling: a log-probability is rounded, and would be sampled differently.
GGML_API struct ggml_tensor * ggml_top_logits(struct ggml_context * ctx, struct ggml_tensor * logits, int32_t k);

// Was this tensor made by one of the two?
GGML_API bool ggml_is_top_logprobs(const struct ggml_tensor * tensor);

// Are its entries logits, not log-probabilities?
GGML_API bool ggml_top_entries_are_logits(const struct ggml_tensor * tensor);

// One row on the CPU: logits [n], out [2*k].
GGML_API void ggml_top_logprobs_row(const float * logits, int64_t n, int32_t k, float * out);
GGML_API void ggml_top_logits_row(const float * logits, int64_t n, int32_t k, float * out);

// log(sum(exp(logits))) of [n], whose largest is `max`.
GGML_API double ggml_log_sum_exp(const float * logits, int64_t n, float max);

#ifdef __cplusplus
}
#endif
