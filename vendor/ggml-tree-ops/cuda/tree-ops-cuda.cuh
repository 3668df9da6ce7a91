// The tree ops (ggml-tree-ops.h) on an NVIDIA GPU: what ggml-cuda.cu calls for them.
#pragma once

#include "ggml-cuda/common.cuh"

#if defined(GGML_USE_HIP) || defined(GGML_USE_MUSA)
// These backends compile ggml-cuda.cu too, but not tree-ops-cuda.cu, which counts on warps of 32: the CPU computes the ops.
static inline bool ggml_cuda_tree_op_supported(const ggml_tensor *) { return false; }
static inline bool ggml_cuda_tree_op_compute(ggml_backend_cuda_context &, ggml_tensor *) { return false; }
static inline int  ggml_cuda_tree_op_try_fuse(ggml_backend_cuda_context &, const ggml_cgraph *, int) { return 0; }
#else
// Whether a kernel takes this one, if it is a tree op at all.
bool ggml_cuda_tree_op_supported(const ggml_tensor * dst);

// Starts the kernel of a tree op; false for any other op.
bool ggml_cuda_tree_op_compute(ggml_backend_cuda_context & ctx, ggml_tensor * dst);

// Starts one kernel for node `i` and some of those after it, where we have one. Returns how many nodes to skip; 0: none.
int ggml_cuda_tree_op_try_fuse(ggml_backend_cuda_context & ctx, const ggml_cgraph * graph, int i);
#endif
