// Copies that follow one another in a graph, as those of the nodes' inputs that a verifying forward keeps, in one launch.
#pragma once

#include "ggml-cuda/common.cuh"

// Have two tensors memory in common? Then a kernel must not write one while others of its blocks still read the other.
static inline bool overlap(const ggml_tensor * a, const ggml_tensor * b) {
    const char * a_first = (const char *) a->data;
    const char * b_first = (const char *) b->data;
    return a_first < b_first + ggml_nbytes(b) && b_first < a_first + ggml_nbytes(a);
}

// Starts one kernel for the copies from node `i` on, where these are two or more and none needs another's result. Returns
// how many nodes to skip; 0: nothing was started.
int ggml_cuda_fuse_small_copies(ggml_backend_cuda_context & ctx, const ggml_cgraph * graph, int i);
