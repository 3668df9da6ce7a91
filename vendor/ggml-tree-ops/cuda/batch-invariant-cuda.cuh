// GGML_CUDA_BATCH_INVARIANT=1: what ggml's CUDA backend computes for a token (a row of activations, a query) does not depend on
// how many others are computed with it, so that trees, chains, forests and plain decoding agree bit for bit. See
// docs/exactness.md for what that takes and costs.
//
// Every kernel of a graph but those of products and of attention computes each row in the same order anyway, as long as
// nothing is fused (what is fused depends on the number of rows).
#pragma once

#include "ggml-cuda/common.cuh"

#if defined(GGML_USE_HIP) || defined(GGML_USE_MUSA)
static inline bool ggml_cuda_batch_invariant() { return false; }
template <typename F> static inline bool ggml_cuda_invariant_product(ggml_backend_cuda_context &, const ggml_tensor *, F) { return false; }
template <typename F> static inline bool ggml_cuda_invariant_experts(ggml_backend_cuda_context &, const ggml_tensor *, F) { return false; }
static inline bool ggml_cuda_invariant_attention(ggml_backend_cuda_context &, ggml_tensor *) { return false; }
#else
bool ggml_cuda_batch_invariant();

using ggml_cuda_product_t = void (*)(ggml_backend_cuda_context &, const ggml_tensor *, const ggml_tensor *, ggml_tensor *);
using ggml_cuda_experts_t = void (*)(ggml_backend_cuda_context &, ggml_tensor *);

// Each computes the op where the mode is on, or returns false: nothing was started. `usual` is what computes the op otherwise;
// it is called with single rows, and is to ask here first.
bool ggml_cuda_invariant_product(ggml_backend_cuda_context & ctx, const ggml_tensor * dst, ggml_cuda_product_t usual);
bool ggml_cuda_invariant_experts(ggml_backend_cuda_context & ctx, const ggml_tensor * dst, ggml_cuda_experts_t usual);
bool ggml_cuda_invariant_attention(ggml_backend_cuda_context & ctx, ggml_tensor * dst); // GGML_OP_FLASH_ATTN_EXT
#endif
