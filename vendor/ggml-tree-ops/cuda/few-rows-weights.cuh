// How a thread unpacks quantised weights into the f16 fragments of a matrix instruction: one struct for each type.
//
// 256 columns of a row of weights ("a block" below, also where the type's own blocks are of 32) are shared by four threads:
// thread t has the columns 64t to 64t + 63. It takes them in eight parts, j = 0 to 7: the four columns from 64t + 4j ("low")
// and the four from 64t + 32 + 4j ("high"). Of four columns the first and the third make one half2, the second and the fourth
// the other, as shifts and masks yield them. Activations are laid out in the same order (few-rows-kernel.cuh).
#pragma once

#include "ggml.h"

#include <cuda_fp16.h>

#include <cstdint>

#define FEW_ROWS_DEVICE static __device__ __forceinline__

// ---------------------------------------------------------------- instructions

FEW_ROWS_DEVICE uint32_t few_rows_permute(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }

FEW_ROWS_DEVICE half2 few_rows_as_half2(uint32_t bits) {
    half2 result;
    memcpy(&result, &bits, 4);
    return result;
}

FEW_ROWS_DEVICE uint32_t few_rows_bits(half2 value) {
    uint32_t result;
    memcpy(&result, &value, 4);
    return result;
}

// Both halves of a word of two.
FEW_ROWS_DEVICE half2 few_rows_low_twice(uint32_t word)  { return few_rows_as_half2(few_rows_permute(word, 0, 0x1010)); }
FEW_ROWS_DEVICE half2 few_rows_high_twice(uint32_t word) { return few_rows_as_half2(few_rows_permute(word, 0, 0x3232)); }

FEW_ROWS_DEVICE half2 few_rows_constant(float value) { return __float2half2_rn(value); }

// A mantissa of 10 bits holds an unsigned number q < 1024 as it is, where the exponent is that of 1024: the value is 1024 + q.
static constexpr uint32_t FEW_ROWS_1024 = 0x64006400;

// Bytes 0 and 2, and bytes 1 and 3, as 1024 + byte.
FEW_ROWS_DEVICE half2 few_rows_even_bytes(uint32_t word) { return few_rows_as_half2(few_rows_permute(word, FEW_ROWS_1024, 0x7250)); }
FEW_ROWS_DEVICE half2 few_rows_odd_bytes(uint32_t word)  { return few_rows_as_half2(few_rows_permute(word, FEW_ROWS_1024, 0x7351)); }

// (word & mask) | bits, in one instruction: a compiler that sees two constants makes two of it.
FEW_ROWS_DEVICE uint32_t few_rows_and_or(uint32_t word, uint32_t mask, uint32_t bits) {
    uint32_t result;
    asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(word), "r"(mask), "r"(bits));
    return result;
}

template <int N> FEW_ROWS_DEVICE void few_rows_words(const uint8_t * at, uint32_t (&words)[N]) { // 4-byte aligned
#pragma unroll
    for (int i = 0; i < N; i++) {
        words[i] = ((const uint32_t *) at)[i];
    }
}

template <int N> FEW_ROWS_DEVICE void few_rows_words_of_16(const uint8_t * at, uint32_t (&words)[N]) { // 4N-byte aligned
    if constexpr (N % 4 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const uint4 four = ((const uint4 *) at)[i/4];
            words[i] = four.x, words[i + 1] = four.y, words[i + 2] = four.z, words[i + 3] = four.w;
        }
    } else if constexpr (N == 2) {
        const uint2 two = *(const uint2 *) at;
        words[0] = two.x, words[1] = two.y;
    } else {
        few_rows_words(at, words);
    }
}

// From a multiple of two bytes after `at`, which is 4-byte aligned. Reads up to two bytes before and after. (Not by rounding a
// pointer down: a compiler then no longer knows that it points to shared memory.)
template <int N> FEW_ROWS_DEVICE void few_rows_words_of_2(const uint8_t * at, int offset, uint32_t (&words)[N]) {
    const uint32_t   selector = offset & 2 ? 0x5432 : 0x3210;
    const uint32_t * aligned  = (const uint32_t *) (at + (offset & ~3));
    uint32_t word = aligned[0];
#pragma unroll
    for (int i = 0; i < N; i++) {
        const uint32_t next = aligned[i + 1];
        words[i] = few_rows_permute(word, next, selector);
        word = next;
    }
}

// One part of a thread's columns: low 0 and 2, low 1 and 3, high 0 and 2, high 1 and 3.
struct few_rows_part {
    half2 low02, low13, high02, high13;
};

// ---------------------------------------------------------------- types

// BYTES   of 256 columns of a row
// PITCH   between rows in shared memory; chosen so that the threads of a warp read from different banks
// scales  what a thread needs for its 64 columns
// raw     the words of N parts from part j0 on
// Both are loaded from `offset` bytes after a multiple of 16.
template <ggml_type type> struct few_rows_weights;

// Scales and mins of Q4_K and Q5_K: d and dmin, then 6 bits for each 32 columns.
struct few_rows_scales_k {
    half2 scale_low, scale_high, min_low, min_high; // mins are negated

    FEW_ROWS_DEVICE few_rows_scales_k load(const uint8_t * row, int, int t) {
        uint32_t head[4];
        few_rows_words_of_16(row, head);
        const int      shift = 16*(t & 1);
        const uint32_t a = head[1] >> shift, b = head[2] >> shift, c = head[3] >> shift;
        const bool     first = t < 2;
        const uint32_t scales = first ? a & 0x3F3F : (c & 0x0F0F) | ((a >> 2) & 0x3030);
        const uint32_t mins   = first ? b & 0x3F3F : ((c >> 4) & 0x0F0F) | ((b >> 2) & 0x3030);
        const half2 k1024 = few_rows_as_half2(FEW_ROWS_1024);
        const half2 s = __hmul2(__hsub2(few_rows_as_half2(few_rows_permute(scales, FEW_ROWS_1024, 0x7150)), k1024), few_rows_low_twice(head[0]));
        const half2 m = __hmul2(__hsub2(k1024, few_rows_as_half2(few_rows_permute(mins, FEW_ROWS_1024, 0x7150))), few_rows_high_twice(head[0]));
        return { few_rows_low_twice(few_rows_bits(s)), few_rows_high_twice(few_rows_bits(s)),
                 few_rows_low_twice(few_rows_bits(m)), few_rows_high_twice(few_rows_bits(m)) };
    }
};

template <> struct few_rows_weights<GGML_TYPE_Q4_K> {
    static constexpr int BYTES = 144, PITCH = 144;
    using scales = few_rows_scales_k;

    template <int N> struct raw {
        uint32_t q[N];

        __device__ __forceinline__ void load(const uint8_t * row, int, int t, int j0) {
            few_rows_words_of_16(row + 16 + 32*t + 4*j0, q);
        }
        __device__ __forceinline__ few_rows_part part(int i, int, const scales & s) const {
            const half2    k1024 = few_rows_as_half2(FEW_ROWS_1024), k64 = few_rows_constant(-64.0f), k16th = few_rows_constant(1/16.0f);
            const uint32_t even = q[i], odd = q[i] >> 8;
            const half2 low02  = __hsub2(few_rows_as_half2(few_rows_and_or(even, 0x000F000F, FEW_ROWS_1024)), k1024);
            const half2 low13  = __hsub2(few_rows_as_half2(few_rows_and_or(odd, 0x000F000F, FEW_ROWS_1024)), k1024);
            const half2 high02 = __hfma2(few_rows_as_half2(few_rows_and_or(even, 0x00F000F0, FEW_ROWS_1024)), k16th, k64); // 1024 + 16q
            const half2 high13 = __hfma2(few_rows_as_half2(few_rows_and_or(odd, 0x00F000F0, FEW_ROWS_1024)), k16th, k64);
            return { __hfma2(low02,  s.scale_low,  s.min_low),  __hfma2(low13,  s.scale_low,  s.min_low),
                     __hfma2(high02, s.scale_high, s.min_high), __hfma2(high13, s.scale_high, s.min_high) };
        }
    };
};

template <> struct few_rows_weights<GGML_TYPE_Q5_K> {
    static constexpr int BYTES = 176, PITCH = 176;
    using scales = few_rows_scales_k;

    template <int N> struct raw {
        uint32_t q[N], h[N]; // h: a fifth bit, bit 0 for low and bit 1 for high

        __device__ __forceinline__ void load(const uint8_t * row, int, int t, int j0) {
            few_rows_words_of_16(row + 48 + 32*t + 4*j0, q);
            few_rows_words_of_16(row + 16 + 4*j0, h);
#pragma unroll
            for (int i = 0; i < N; i++) {
                h[i] >>= 2*t;
            }
        }
        __device__ __forceinline__ few_rows_part part(int i, int, const scales & s) const {
            const half2    k1024 = few_rows_as_half2(FEW_ROWS_1024), k64 = few_rows_constant(-64.0f), k16th = few_rows_constant(1/16.0f);
            const uint32_t even = q[i], odd = q[i] >> 8;
            const half2 low02  = __hsub2(few_rows_as_half2(few_rows_and_or(h[i] << 4, 0x00100010, few_rows_and_or(even, 0x000F000F, FEW_ROWS_1024))), k1024);
            const half2 low13  = __hsub2(few_rows_as_half2(few_rows_and_or(h[i] >> 4, 0x00100010, few_rows_and_or(odd, 0x000F000F, FEW_ROWS_1024))), k1024);
            const half2 high02 = __hfma2(few_rows_as_half2(few_rows_and_or(h[i] << 7, 0x01000100, few_rows_and_or(even, 0x00F000F0, FEW_ROWS_1024))), k16th, k64);
            const half2 high13 = __hfma2(few_rows_as_half2(few_rows_and_or(h[i] >> 1, 0x01000100, few_rows_and_or(odd, 0x00F000F0, FEW_ROWS_1024))), k16th, k64);
            return { __hfma2(low02,  s.scale_low,  s.min_low),  __hfma2(low13,  s.scale_low,  s.min_low),
                     __hfma2(high02, s.scale_high, s.min_high), __hfma2(high13, s.scale_high, s.min_high) };
        }
    };
};

template <> struct few_rows_weights<GGML_TYPE_Q6_K> {
    static constexpr int BYTES = 210, PITCH = 240;

    struct scales { // of 16 columns each
        half2 low0, low1, high0, high1;

        FEW_ROWS_DEVICE scales load(const uint8_t * row, int offset, int t) {
            uint32_t eights[1];
            few_rows_words_of_2(row + 192 + 4*t, offset, eights);
            const uint32_t d       = *(const uint16_t *) (row + 208 + offset);
            const uint32_t biased  = eights[0] ^ 0x80808080;
            const half2    k1152   = few_rows_constant(1152.0f);
            const half2    d_twice = few_rows_low_twice(d);
            const uint32_t even = few_rows_bits(__hmul2(__hsub2(few_rows_even_bytes(biased), k1152), d_twice));
            const uint32_t odd  = few_rows_bits(__hmul2(__hsub2(few_rows_odd_bytes(biased),  k1152), d_twice));
            return { few_rows_low_twice(even), few_rows_low_twice(odd), few_rows_high_twice(even), few_rows_high_twice(odd) };
        }
    };

    template <int N> struct raw {
        uint32_t low[N], high[N]; // the six bits of a column in a byte

        __device__ __forceinline__ void load(const uint8_t * row, int offset, int t, int j0) {
            uint32_t h[N];
            few_rows_words_of_2(row + 64*(t >> 1) + 4*j0,       offset, low);
            few_rows_words_of_2(row + 64*(t >> 1) + 4*j0 + 32,  offset, high);
            few_rows_words_of_2(row + 32*(t >> 1) + 4*j0 + 128, offset, h);
            const int shift = 4*(t & 1);
#pragma unroll
            for (int i = 0; i < N; i++) {
                h[i] >>= shift;
                low[i]  = few_rows_and_or(low[i]  >> shift, 0x0F0F0F0F, (h[i] << 4) & 0x30303030);
                high[i] = few_rows_and_or(high[i] >> shift, 0x0F0F0F0F, (h[i] << 2) & 0x30303030);
            }
        }
        __device__ __forceinline__ few_rows_part part(int i, int j, const scales & s) const {
            const half2 k1056 = few_rows_constant(1056.0f);
            const half2 scale_low = j < 4 ? s.low0 : s.low1, scale_high = j < 4 ? s.high0 : s.high1;
            return { __hmul2(__hsub2(few_rows_even_bytes(low[i]),  k1056), scale_low),  __hmul2(__hsub2(few_rows_odd_bytes(low[i]),  k1056), scale_low),
                     __hmul2(__hsub2(few_rows_even_bytes(high[i]), k1056), scale_high), __hmul2(__hsub2(few_rows_odd_bytes(high[i]), k1056), scale_high) };
        }
    };
};

// Scales of types of 32 columns a block that begin with d: thread t has the blocks 2t and 2t + 1.
template <int BLOCK> struct few_rows_scales_32 {
    half2 low, high;

    FEW_ROWS_DEVICE few_rows_scales_32 load(const uint8_t * row, int offset, int t) {
        return { few_rows_low_twice(*(const uint16_t *) (row + 2*BLOCK*t)), few_rows_low_twice(*(const uint16_t *) (row + 2*BLOCK*t + BLOCK)) };
    }
};

template <> struct few_rows_weights<GGML_TYPE_Q8_0> {
    static constexpr int BYTES = 272, PITCH = 272;
    using scales = few_rows_scales_32<34>;

    template <int N> struct raw {
        uint32_t low[N], high[N];

        __device__ __forceinline__ void load(const uint8_t * row, int, int t, int j0) {
            uint32_t words[N + 1];
            few_rows_words(row + 68*t + 4*j0, words);
            few_rows_words(row + 68*t + 36 + 4*j0, high);
#pragma unroll
            for (int i = 0; i < N; i++) {
                low[i]  = few_rows_permute(words[i], words[i + 1], 0x5432) ^ 0x80808080;
                high[i] ^= 0x80808080;
            }
        }
        __device__ __forceinline__ few_rows_part part(int i, int, const scales & s) const {
            const half2 k1152 = few_rows_constant(1152.0f);
            return { __hmul2(__hsub2(few_rows_even_bytes(low[i]),  k1152), s.low),  __hmul2(__hsub2(few_rows_odd_bytes(low[i]),  k1152), s.low),
                     __hmul2(__hsub2(few_rows_even_bytes(high[i]), k1152), s.high), __hmul2(__hsub2(few_rows_odd_bytes(high[i]), k1152), s.high) };
        }
    };
};

template <> struct few_rows_weights<GGML_TYPE_Q4_0> {
    static constexpr int BYTES = 144, PITCH = 144;
    using scales = few_rows_scales_32<18>;

    // Of a byte, the low four bits are of one of the block's first 16 columns (parts 0 to 3), the others of one of its last.
    template <int N> struct raw {
        uint32_t low[N], high[N];

        __device__ __forceinline__ void load(const uint8_t * row, int, int t, int j0) {
            const int first = j0 & 3, shift = j0 & 4;
            constexpr int n = N < 4 ? N : 4;
            uint32_t words[n + 1], more[n];
            few_rows_words(row + 36*t + 4*first, words);
            few_rows_words(row + 36*t + 20 + 4*first, more);
#pragma unroll
            for (int i = 0; i < N; i++) {
                const int by = N > 4 ? (i & 4) : shift;
                low[i]  = few_rows_permute(words[i % n], words[i % n + 1], 0x5432) >> by;
                high[i] = more[i % n] >> by;
            }
        }
        __device__ __forceinline__ few_rows_part part(int i, int, const scales & s) const {
            const half2 k1032 = few_rows_constant(1032.0f);
            return { value(low[i],  s.low,  k1032), value(low[i]  >> 8, s.low,  k1032),
                     value(high[i], s.high, k1032), value(high[i] >> 8, s.high, k1032) };
        }
        FEW_ROWS_DEVICE half2 value(uint32_t word, half2 scale, half2 offset) {
            return __hmul2(__hsub2(few_rows_as_half2(few_rows_and_or(word, 0x000F000F, FEW_ROWS_1024)), offset), scale);
        }
    };
};

template <> struct few_rows_weights<GGML_TYPE_IQ4_XS> {
    static constexpr int BYTES = 136, PITCH = 144;

    struct scales {
        half2 low, high;

        FEW_ROWS_DEVICE scales load(const uint8_t * row, int offset, int t) {
            const uint32_t d_and_high = *(const uint32_t *) (row + offset);
            const uint32_t low_bits   = row[offset + 4 + t];
            const uint32_t high_bits  = d_and_high >> (16 + 4*t);
            const uint32_t both       = (low_bits & 0xF) | ((high_bits & 3) << 4) | ((low_bits & 0xF0) << 12) | ((high_bits & 0xC) << 18);
            const uint32_t s = few_rows_bits(__hmul2(__hsub2(few_rows_as_half2(both | FEW_ROWS_1024), few_rows_constant(1056.0f)), few_rows_low_twice(d_and_high)));
            return { few_rows_low_twice(s), few_rows_high_twice(s) };
        }
    };

    template <int N> struct raw {
        uint32_t low[N], high[N]; // a table's entries + 128, in bytes

        __device__ __forceinline__ void load(const uint8_t * row, int offset, int t, int j0) {
            const int first = j0 & 3, shift = j0 & 4;
            constexpr int n = N < 4 ? N : 4;
            uint32_t words[n], more[n];
            few_rows_words(row + offset + 8 + 32*t + 4*first, words);
            few_rows_words(row + offset + 24 + 32*t + 4*first, more);
#pragma unroll
            for (int i = 0; i < N; i++) {
                const int by = N > 4 ? (i & 4) : shift;
                low[i]  = looked_up(words[i % n] >> by);
                high[i] = looked_up(more[i % n] >> by);
            }
        }
        // kvalues_iq4nl + 128, for the low four bits of each byte
        FEW_ROWS_DEVICE uint32_t looked_up(uint32_t word) {
            const uint32_t indices = word & 0x07070707;
            const uint32_t packed  = (indices | (indices >> 4)) & 0x00FF00FF; // two selectors in a byte
            const uint32_t selector = few_rows_permute(packed, 0, 0x4420);
            const uint32_t negative = few_rows_permute(0x3F2D1801, 0x766A5D4F, selector);
            const uint32_t positive = few_rows_permute(0xA6998D81, 0xF1D9C5B5, selector);
            const uint32_t mask     = ((word >> 3) & 0x01010101)*0xFF;
            return (negative & ~mask) | (positive & mask);
        }
        __device__ __forceinline__ few_rows_part part(int i, int, const scales & s) const {
            const half2 k1152 = few_rows_constant(1152.0f);
            return { __hmul2(__hsub2(few_rows_even_bytes(low[i]),  k1152), s.low),  __hmul2(__hsub2(few_rows_odd_bytes(low[i]),  k1152), s.low),
                     __hmul2(__hsub2(few_rows_even_bytes(high[i]), k1152), s.high), __hmul2(__hsub2(few_rows_odd_bytes(high[i]), k1152), s.high) };
        }
    };
};
