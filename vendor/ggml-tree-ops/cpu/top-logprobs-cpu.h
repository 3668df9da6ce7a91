// The op of ggml-top-logprobs.h on the CPU: what ggml-cpu.c calls for it.
#pragma once

#include "ggml-cpu-impl.h"
#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

void ggml_compute_forward_top_logprobs(const struct ggml_compute_params * params, struct ggml_tensor * dst);

#ifdef __cplusplus
}
#endif
