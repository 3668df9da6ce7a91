// ggml_top_logprobs() (ggml-top-logprobs.h) in ggml's CUDA backend.
#pragma once

#include "ggml-cuda/common.cuh"

bool ggml_cuda_supports_top_logprobs(const ggml_tensor * op);

void ggml_cuda_op_top_logprobs(ggml_backend_cuda_context & ctx, ggml_tensor * dst);
