// The tree ops (ggml-tree-ops.h) on the CPU: what ggml-cpu.c calls for them.
#pragma once

#include "ggml-cpu-impl.h"
#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// Bytes of params->wdata that `dst` needs when n_tasks threads compute it.
size_t ggml_tree_op_work_size(const struct ggml_tensor * dst, int n_tasks);

void ggml_compute_forward_ssm_conv_tree(const struct ggml_compute_params * params, struct ggml_tensor * dst);
void ggml_compute_forward_ssm_conv_tree_persist(const struct ggml_compute_params * params, struct ggml_tensor * dst);
void ggml_compute_forward_gated_delta_net_tree(const struct ggml_compute_params * params, struct ggml_tensor * dst);
void ggml_compute_forward_gated_delta_net_tree_persist(const struct ggml_compute_params * params, struct ggml_tensor * dst);

#ifdef __cplusplus
}
#endif
