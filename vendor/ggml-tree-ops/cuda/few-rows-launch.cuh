// Starts few_rows_kernel for one type of weights; a .cu file in few-rows/ for each, as each takes long to compile.
#pragma once

#include "few-rows-kernel.cuh"
#include "ggml-cuda/common.cuh"

static constexpr int FEW_ROWS_MAX_TOKENS = 64;
static constexpr int FEW_ROWS_SLOTS      = 2;
static constexpr int FEW_ROWS_WARPS      = 12; // a different number is a different order of sums

// How many eights of tokens a kernel is made for that serves this many.
static constexpr int few_rows_eights(int64_t n_tokens) {
    const int eights = (int) ((n_tokens + 7)/8);
    return eights <= 4 ? eights : eights <= 6 ? 6 : 8;
}

template <ggml_type type> static constexpr size_t few_rows_bytes() { // of shared memory, that a thread block needs at least
    return few_rows_shape<type, 1, FEW_ROWS_SLOTS, FEW_ROWS_WARPS>::bytes(1);
}

// `product.max_tiles` is set here.
template <ggml_type type> void few_rows_launch(few_rows_product product, cudaStream_t stream);

#define FEW_ROWS_EXTERN(type) extern template void few_rows_launch<type>(few_rows_product product, cudaStream_t stream);
FEW_ROWS_EXTERN(GGML_TYPE_Q4_0)
FEW_ROWS_EXTERN(GGML_TYPE_Q8_0)
FEW_ROWS_EXTERN(GGML_TYPE_Q4_K)
FEW_ROWS_EXTERN(GGML_TYPE_Q5_K)
FEW_ROWS_EXTERN(GGML_TYPE_Q6_K)
FEW_ROWS_EXTERN(GGML_TYPE_IQ4_XS)
#undef FEW_ROWS_EXTERN

#ifdef FEW_ROWS_INSTANCE

template <ggml_type type, int N8> static void few_rows_launch_tokens(few_rows_product & product, cudaStream_t stream) {
    using shape = few_rows_shape<type, N8, FEW_ROWS_SLOTS, FEW_ROWS_WARPS>;
    using most  = few_rows_shape<type, FEW_ROWS_MAX_TOKENS/8, FEW_ROWS_SLOTS, FEW_ROWS_WARPS>;
    constexpr int MAX_TILES = 24;
    const auto &  device    = ggml_cuda_info().devices[ggml_cuda_get_device()];
    const int     limit     = (int) std::min<size_t>(device.smpbo, 227*1024);
    // No more tiles at once than with most tokens: the order of the sums depends on it. And no more than a block has: shared
    // memory is taken from the L1 cache, which holds the activations.
    const int n_thread_blocks = std::min(device.nsm, product.n_tiles);
    const int n_tiles = (product.n_tiles + n_thread_blocks - 1)/n_thread_blocks;
    product.max_tiles = std::min({ MAX_TILES, n_tiles, (limit - shape::RINGS)/most::SUMS + 1 });

    // One thread block on a multiprocessor, and no more: else blocks of the next product that start early (they copy weights
    // ahead) end up two on one multiprocessor and none on another. For 8 tokens registers would leave room for two.
    const int alone = (int) device.smpbo/2 + 1024;
    const int bytes = N8 == 1 ? std::max(shape::bytes(product.max_tiles), std::min(alone, limit)) : shape::bytes(product.max_tiles);

    const auto kernel = few_rows_kernel<type, N8, FEW_ROWS_SLOTS, FEW_ROWS_WARPS>;
    CUDA_SET_SHARED_MEMORY_LIMIT(kernel, limit);
    ggml_cuda_kernel_launch(kernel, ggml_cuda_kernel_launch_params(dim3(n_thread_blocks), dim3(32*FEW_ROWS_WARPS), bytes, stream), product);
}

template <ggml_type type> void few_rows_launch(few_rows_product product, cudaStream_t stream) {
    switch (few_rows_eights(product.n_tokens)) {
        case 1:  return few_rows_launch_tokens<type, 1>(product, stream);
        case 2:  return few_rows_launch_tokens<type, 2>(product, stream);
        case 3:  return few_rows_launch_tokens<type, 3>(product, stream);
        case 4:  return few_rows_launch_tokens<type, 4>(product, stream);
        case 6:  return few_rows_launch_tokens<type, 6>(product, stream);
        default: return few_rows_launch_tokens<type, 8>(product, stream);
    }
}

template void few_rows_launch<FEW_ROWS_INSTANCE>(few_rows_product product, cudaStream_t stream);

#endif
