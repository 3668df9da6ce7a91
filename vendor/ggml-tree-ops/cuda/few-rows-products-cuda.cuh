// Products of quantised weights with a few rows of activations ("tokens": 2, for some types 4, to 64) in ggml's CUDA
// backend: by few-rows-kernel.cuh where it applies and is known to be faster, by ggml's own kernels everywhere else.
//
// GGML_CUDA_FEW_ROWS=0 turns it off, =1 turns it on for every NVIDIA GPU from compute capability 8.0 on; without the variable
// it is on for those where it was measured (9.0).
#pragma once

#include "ggml-cuda/common.cuh"

#if defined(GGML_USE_HIP) || defined(GGML_USE_MUSA)
static inline bool ggml_cuda_few_rows_product(ggml_backend_cuda_context &, const ggml_tensor *, const ggml_tensor *, ggml_tensor *) { return false; }
static inline void ggml_cuda_gather_few_rows_products(ggml_cgraph *, int) {}
#else
static constexpr int GGML_CUDA_FEW_ROWS_MOST = 64; // tokens

// Whether the kernel can compute a GGML_OP_MUL_MAT where it has 1 to GGML_CUDA_FEW_ROWS_MOST tokens.
bool ggml_cuda_has_few_rows_kernel(const ggml_tensor * t);

// Computes a GGML_OP_MUL_MAT, or returns false: nothing was started.
bool ggml_cuda_few_rows_product(ggml_backend_cuda_context & ctx, const ggml_tensor * src0, const ggml_tensor * src1, ggml_tensor * dst);

// Computes node `i` of a graph and those after it that are such products of the same activations, where they are two or more, or
// where node `i` is the norm (and its weights) or the SwiGLU that makes the activations: these are then converted as they are made.
// Returns how many nodes to skip; 0: nothing was started.
int ggml_cuda_fuse_few_rows_products(ggml_backend_cuda_context & ctx, const ggml_cgraph * graph, int i);

// Before a graph gets its memory: moves products with the same activations (q, k and v; the inputs of a recurrent layer) up to
// the first of them, so that they are fused.
void ggml_cuda_gather_few_rows_products(ggml_cgraph * graph, int device);
#endif
