// Copies that follow one another in a graph, as those of the nodes' inputs that a verifying forward keeps, in one launch.
#pragma once

#include "ggml-cuda/common.cuh"

// Starts one kernel for the copies from node `i` on, where these are two or more and none needs another's result. Returns
// how many nodes to skip; 0: nothing was started.
int ggml_cuda_fuse_small_copies(ggml_backend_cuda_context & ctx, const ggml_cgraph * graph, int i);
