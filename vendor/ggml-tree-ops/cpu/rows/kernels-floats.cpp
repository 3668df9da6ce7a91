// Products of weights in F32, F16 and BF16 with activations as they are.
#include "kernel-parts.h"

namespace rows {

#ifdef ROWS_SIMD

namespace {

template <class T, int N> struct floats_product {
    static void run(const uint8_t * q, const uint8_t *, int64_t n_blocks, const int32_t * a, float * const * out, prefetch ahead) {
        fetcher f(ahead, n_blocks);
        floats  sum[S][N];
        for (int n = 0; n < N; ++n) {
            for (int s = 0; s < S; ++s) {
                sum[s][n] = isa::zero_floats();
            }
        }
        for (int64_t b = 0; b < n_blocks; ++b, q += T::QUANT_BYTES, a += 32*N) {
            fetcher::block(f);
            floats part[S][N];
            for (int n = 0; n < N; ++n) {
                for (int s = 0; s < S; ++s) {
                    part[s][n] = isa::zero_floats();
                }
            }
            unroll<32>([&](auto k) __attribute__((always_inline)) {
                constexpr int K = decltype(k)::value;
                floats w[S];
                for (int s = 0; s < S; ++s) {
                    w[s] = T::template value<K>(q, s);
                }
                for (int n = 0; n < N; ++n) {
                    const floats x = isa::broadcast(float_at(a + K*N + n));
                    for (int s = 0; s < S; ++s) {
                        part[s][n] = isa::multiply_add(w[s], x, part[s][n]);
                    }
                }
            });
            for (int n = 0; n < N; ++n) {
                for (int s = 0; s < S; ++s) {
                    sum[s][n] = isa::add(sum[s][n], part[s][n]);
                }
            }
        }
        store<N>(sum, out);
    }
};

} // namespace

const kernel * kernel_of_floats(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32:     return kernel_for<floats_product, float_type<GGML_TYPE_F32>, TILE_OF_FLOATS>();
        case GGML_TYPE_F16:     return kernel_for<floats_product, float_type<GGML_TYPE_F16>, TILE_OF_FLOATS>();
        case GGML_TYPE_BF16:    return kernel_for<floats_product, float_type<GGML_TYPE_BF16>, TILE_OF_FLOATS>();
        default:                return nullptr;
    }
}

#else

const kernel * kernel_of_floats(ggml_type) { return nullptr; }

#endif

} // namespace rows
