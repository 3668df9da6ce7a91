// Products of the types whose blocks are 256 values with integer scales inside.
#include "kernel-parts.h"

namespace rows {

#ifdef ROWS_SIMD

namespace {

template <class T, int N> struct super_blocks_product {
    static void run(const uint8_t * q, const uint8_t * scales, int64_t n_blocks, const int32_t * a, float * const * out, prefetch ahead) {
        constexpr activation_form A = activations_of<T>();
        constexpr int CORRECTION = A.quant_words(), PAIRS = CORRECTION + A.corrections(), D = PAIRS + A.pairs();
        constexpr int GROUPS = T::SPAN/4;
        fetcher f(ahead, n_blocks);
        floats  sum[S][N];
        for (int n = 0; n < N; ++n) {
            for (int s = 0; s < S; ++s) {
                sum[s][n] = isa::zero_floats();
            }
        }
        for (int64_t b = 0; b < n_blocks; ++b, q += T::QUANT_BYTES, scales += T::SCALE_BYTES, a += A.words()*N) {
            fetcher::block(f);
            wide_scales wide;
            T::scales(scales, wide);
            ints total[S][N];
            start<N>(total, nullptr);
            unroll<256/T::SPAN>([&](auto j) __attribute__((always_inline)) {
                constexpr int J = decltype(j)::value;
                ints acc[S][N];
                start<N>(acc, A.span ? a + (CORRECTION + J)*N : nullptr);
                dot<T, N, J*GROUPS, GROUPS>(acc, q, a);
                for (int s = 0; s < S; ++s) {
                    for (int n = 0; n < N; ++n) {
                        const ints scaled = !A.wide && SUMS_OF_16_BITS ? isa::add_pairs16(acc[s][n], wide.scale[J][s])
                                                                       : isa::multiply32(acc[s][n], wide.scale[J][s]);
                        total[s][n] = isa::add32(total[s][n], scaled);
                    }
                }
            });
            for (int s = 0; s < S; ++s) {
                const floats d = T::scale(scales, s);
                for (int n = 0; n < N; ++n) {
                    const floats da = isa::broadcast(float_at(a + D*N + n));
                    if constexpr (T::MIN) {
                        ints mins = isa::zero();
                        for (int j = 0; j < 4; ++j) {
                            mins = isa::add32(mins, isa::add_pairs16(wide.min[j][s], isa::broadcast(a[(PAIRS + j)*N + n])));
                        }
                        if constexpr (T::OFFSET_IN_MINS) {
                            ints offset = isa::zero();
                            for (int j = 0; j < 4; ++j) { // the scales of sub-blocks 2j and 2j + 1 in one word
                                const ints two = isa::low_high16(wide.scale[2*j][s], wide.scale[2*j + 1][s]);
                                offset = isa::add32(offset, isa::add_pairs16(two, isa::broadcast(a[(PAIRS + j)*N + n])));
                            }
                            total[s][n] = isa::add32(total[s][n], isa::left32<4>(offset));
                        }
                        sum[s][n] = isa::multiply_add(isa::to_floats(total[s][n]), isa::multiply(d, da), sum[s][n]);
                        sum[s][n] = isa::multiply_subtract(isa::to_floats(mins), isa::multiply(T::min(scales, s), da), sum[s][n]);
                    } else {
                        sum[s][n] = isa::multiply_add(isa::to_floats(total[s][n]), isa::multiply(d, da), sum[s][n]);
                    }
                }
            }
        }
        store<N>(sum, out);
    }
};

} // namespace

const kernel * kernel_of_super_blocks(ggml_type type) {
    switch (type) {
        case GGML_TYPE_Q4_K:    return kernel_for<super_blocks_product, q4_k, TILE_OF_SUPER_BLOCKS>();
        case GGML_TYPE_Q5_K:    return kernel_for<super_blocks_product, q5_k, TILE_OF_SUPER_BLOCKS>();
        case GGML_TYPE_Q6_K:    return kernel_for<super_blocks_product, q6_k, TILE_OF_SUPER_BLOCKS>();
        case GGML_TYPE_IQ4_XS:  return kernel_for<super_blocks_product, iq4_xs, TILE_OF_WIDE_SUPER_BLOCKS>();
        default:                return nullptr;
    }
}

#else

const kernel * kernel_of_super_blocks(ggml_type) { return nullptr; }

#endif

} // namespace rows
