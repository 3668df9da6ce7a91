// What the kernels of all types share: unrolled loops, dot products of a span, prefetching.
#pragma once

#include "kernels.h"
#include "types.h"

#include <utility>

#ifdef ROWS_SIMD

namespace rows {

constexpr int S = isa::S;

template <int... I, class F> ROWS_INLINE void unrolled(std::integer_sequence<int, I...>, F && f) {
    (f(std::integral_constant<int, I>()), ...);
}

// f(integral_constant<int, 0>) to f(integral_constant<int, N - 1>), in order, each a copy of its own
template <int N, class F> ROWS_INLINE void unroll(F && f) {
    unrolled(std::make_integer_sequence<int, N>(), f);
}

class fetcher {
public:
    fetcher(prefetch ahead, int64_t n_blocks) : at(ahead.from), step(ahead.bytes / n_blocks), end(at) {}

    ROWS_INLINE void block(fetcher & f) {
        f.end += f.step;
        for (; f.at < f.end; f.at += 64) {
            __builtin_prefetch(f.at);
        }
    }

private:
    const uint8_t * at;
    size_t          step;
    const uint8_t * end;
};

// acc[s][n] += groups FROM to FROM + COUNT - 1 of a block: products in 32 bits, or in pairs of 16 bits that sum() adds
template <class T, int N, int FROM, int COUNT> ROWS_INLINE void dot(ints (&acc)[S][N], const uint8_t * q, const int32_t * a) {
    constexpr activation_form A = activations_of<T>();
    unroll<COUNT>([&](auto i) __attribute__((always_inline)) {
        constexpr int G = FROM + decltype(i)::value;
        ints w[S];
        for (int s = 0; s < S; ++s) {
            w[s] = T::template quants<G>(q, s);
        }
        if constexpr (A.wide) {
            ints even[S], odd[S];
            for (int s = 0; s < S; ++s) {
                even[s] = isa::signed_right16_by_8(isa::left16<8>(w[s]));
                odd[s]  = isa::signed_right16_by_8(w[s]);
            }
            for (int n = 0; n < N; ++n) {
                const ints x = isa::broadcast(a[2*G*N + n]);
                for (int s = 0; s < S; ++s) {
                    acc[s][n] = isa::add32(acc[s][n], isa::add_pairs16(even[s], x));
                    ROWS_KEEP(acc[s][n]);
                }
            }
            for (int n = 0; n < N; ++n) {
                const ints x = isa::broadcast(a[(2*G + 1)*N + n]);
                for (int s = 0; s < S; ++s) {
                    acc[s][n] = isa::add32(acc[s][n], isa::add_pairs16(odd[s], x));
                    ROWS_KEEP(acc[s][n]);
                }
            }
        } else {
            if constexpr (T::SIGNED && !isa::SIGNED_DOT) {
                for (int s = 0; s < S; ++s) {
                    w[s] = isa::bit_xor(w[s], isa::bytes((int8_t) -128));
                }
            }
            for (int n = 0; n < N; ++n) {
                const ints x = isa::broadcast(a[G*N + n]);
                for (int s = 0; s < S; ++s) {
                    acc[s][n] = isa::dot(acc[s][n], w[s], x);
                    ROWS_KEEP(acc[s][n]);
                }
            }
        }
    });
}

// acc[s][n] = the correction of the span, or zero
template <int N> ROWS_INLINE void start(ints (&acc)[S][N], const int32_t * correction) {
    for (int n = 0; n < N; ++n) {
        for (int s = 0; s < S; ++s) {
            acc[s][n] = correction ? isa::broadcast(correction[n]) : isa::zero();
        }
    }
}

ROWS_INLINE float float_at(const int32_t * p) {
    float x;
    memcpy(&x, p, 4);
    return x;
}

template <int N> ROWS_INLINE void store(const floats (&sum)[S][N], float * const * out) {
    for (int n = 0; n < N; ++n) {
        for (int s = 0; s < S; ++s) {
            isa::store(out[n] + LANES*s, sum[s][n]);
        }
    }
}

// Rows of activations that are computed together: as many as leave room for the weights in the registers (measured; not for NEON).
constexpr int TILE_OF_FLOATS       = isa::S == 1 ? 8 : isa::S == 2 ? 6 : 4;
constexpr int TILE_OF_BLOCKS       = isa::S == 1 ? 8 : isa::S == 2 ? 6 : 4;
constexpr int TILE_OF_SUPER_BLOCKS = isa::S == 1 ? 8 : 4;
constexpr int TILE_OF_WIDE_SUPER_BLOCKS = isa::S == 2 && !isa::VNNI ? 3 : TILE_OF_SUPER_BLOCKS; // two registers of each weight

template <template <class, int> class PRODUCT, class T, int... N> kernel make_kernel(std::integer_sequence<int, N...>) {
    return {activations_of<T>(), (int) sizeof...(N), {nullptr, PRODUCT<T, N + 1>::run...}};
}

// The kernel that PRODUCT<T, N>::run, for N from 1 to TILE, make up.
template <template <class, int> class PRODUCT, class T, int TILE> const kernel * kernel_for() {
    static const kernel k = make_kernel<PRODUCT, T>(std::make_integer_sequence<int, TILE>());
    return &k;
}

} // namespace rows

#endif
