// ggml_top_logprobs() (ggml-top-logprobs.h) in ggml's CUDA backend.
#pragma once

#include "ggml-cuda/common.cuh"

#if defined(GGML_USE_HIP) || defined(GGML_USE_MUSA)
// As in tree-ops-cuda.cuh: these backends compile ggml-cuda.cu, but not top-logprobs-cuda.cu. The CPU computes the op.
static inline bool ggml_cuda_supports_top_logprobs(const ggml_tensor *) { return false; }
static inline void ggml_cuda_op_top_logprobs(ggml_backend_cuda_context &, ggml_tensor *) { GGML_ABORT("unreachable: not supported"); }
#else
bool ggml_cuda_supports_top_logprobs(const ggml_tensor * op);

void ggml_cuda_op_top_logprobs(ggml_backend_cuda_context & ctx, ggml_tensor * dst);
#endif
