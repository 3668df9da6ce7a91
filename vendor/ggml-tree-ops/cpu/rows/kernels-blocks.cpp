// Products of the types whose blocks are 32 values with one scale.
#include "kernel-parts.h"

namespace rows {

#ifdef ROWS_SIMD

namespace {

template <class T, int N> struct blocks_product {
    static void run(const uint8_t * q, const uint8_t * scales, int64_t n_blocks, const int32_t * a, float * const * out, prefetch ahead) {
        constexpr activation_form A = activations_of<T>();
        constexpr int CORRECTION = A.quant_words(), D = CORRECTION + A.corrections();
        fetcher f(ahead, n_blocks);
        floats  sum[S][N];
        for (int n = 0; n < N; ++n) {
            for (int s = 0; s < S; ++s) {
                sum[s][n] = isa::zero_floats();
            }
        }
        for (int64_t b = 0; b < n_blocks; ++b, q += T::QUANT_BYTES, scales += T::SCALE_BYTES, a += A.words()*N) {
            fetcher::block(f);
            ints acc[S][N];
            start<N>(acc, A.span ? a + CORRECTION*N : nullptr);
            dot<T, N, 0, 8>(acc, q, a);
            for (int s = 0; s < S; ++s) {
                const floats d = T::scale(scales, s);
                for (int n = 0; n < N; ++n) {
                    const ints   total = !A.wide && SUMS_OF_16_BITS ? isa::add_pairs16(acc[s][n], isa::broadcast(0x00010001)) : acc[s][n];
                    const floats both  = isa::multiply(d, isa::broadcast(float_at(a + D*N + n)));
                    sum[s][n] = isa::multiply_add(isa::to_floats(total), both, sum[s][n]);
                }
                if constexpr (T::MIN) {
                    const floats m = T::min(scales, s);
                    for (int n = 0; n < N; ++n) {
                        sum[s][n] = isa::multiply_add(m, isa::broadcast(float_at(a + (D + 1)*N + n)), sum[s][n]);
                    }
                }
            }
        }
        store<N>(sum, out);
    }
};

} // namespace

const kernel * kernel_of_blocks(ggml_type type) {
    switch (type) {
        case GGML_TYPE_Q8_0:    return kernel_for<blocks_product, q8_0, TILE_OF_BLOCKS>();
        case GGML_TYPE_Q4_0:    return kernel_for<blocks_product, q4_0, TILE_OF_BLOCKS>();
        case GGML_TYPE_Q4_1:    return kernel_for<blocks_product, q4_1, TILE_OF_BLOCKS>();
        case GGML_TYPE_Q5_0:    return kernel_for<blocks_product, q5_0, TILE_OF_BLOCKS>();
        case GGML_TYPE_Q5_1:    return kernel_for<blocks_product, q5_1, TILE_OF_BLOCKS>();
        case GGML_TYPE_IQ4_NL:  return kernel_for<blocks_product, iq4_nl, TILE_OF_BLOCKS>();
        case GGML_TYPE_MXFP4:   return kernel_for<blocks_product, mxfp4, TILE_OF_BLOCKS>();
        default:                return nullptr;
    }
}

#else

const kernel * kernel_of_blocks(ggml_type) { return nullptr; }

#endif

} // namespace rows
