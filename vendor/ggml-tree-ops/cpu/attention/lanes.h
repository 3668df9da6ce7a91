// Eight floats side by side, in the registers of each instruction set or in plain C++.
#pragma once

#include "ggml-cpu-impl.h"
#include "simd-mappings.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#    define LANES_AVX2 1
#    include <immintrin.h>
#elif defined(__aarch64__) && defined(__ARM_NEON)
#    define LANES_NEON 1
#    include <arm_neon.h>
#endif

namespace attention {

#if defined(LANES_AVX2)

struct lanes {
    __m256 v;

    static lanes zero() { return {_mm256_setzero_ps()}; }
    static lanes all(float x) { return {_mm256_set1_ps(x)}; }
    static lanes load(const float * p) { return {_mm256_loadu_ps(p)}; }
    static lanes load(const ggml_fp16_t * p) { return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p))}; }
    void         store(float * p) const { _mm256_storeu_ps(p, v); }

    static lanes multiply_add(lanes a, lanes b, lanes c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
    static lanes add(lanes a, lanes b) { return {_mm256_add_ps(a.v, b.v)}; }
    static lanes subtract(lanes a, lanes b) { return {_mm256_sub_ps(a.v, b.v)}; }
    static lanes larger(lanes a, lanes b) { return {_mm256_max_ps(a.v, b.v)}; }

    // a where x is below the limit's lanes is zero
    static lanes zero_below(lanes a, lanes x, lanes limit) { return {_mm256_and_ps(a.v, _mm256_cmp_ps(x.v, limit.v, _CMP_GE_OQ))}; }

    // a times 2^n, n in the low bits of `shifted`: bits are added to the exponent
    static lanes times_power(lanes a, lanes shifted) {
        return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), _mm256_slli_epi32(_mm256_castps_si256(shifted.v), 23)))};
    }

    // lane i: the sum of the lanes of x[i], of each in the same order: ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))
    static lanes sums(const lanes (&x)[8]) {
        const __m256 a = _mm256_hadd_ps(_mm256_hadd_ps(x[0].v, x[1].v), _mm256_hadd_ps(x[2].v, x[3].v));
        const __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(x[4].v, x[5].v), _mm256_hadd_ps(x[6].v, x[7].v));
        return {_mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31))};
    }
};

#elif defined(LANES_NEON)

struct lanes {
    float32x4_t a, b;

    static lanes zero() { return all(0.0f); }
    static lanes all(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
    static lanes load(const float * p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
    static lanes load(const ggml_fp16_t * p) {
        const float16x8_t h = vreinterpretq_f16_u16(vld1q_u16(p));
        return {vcvt_f32_f16(vget_low_f16(h)), vcvt_f32_f16(vget_high_f16(h))};
    }
    void store(float * p) const { vst1q_f32(p, a); vst1q_f32(p + 4, b); }

    static lanes multiply_add(lanes x, lanes y, lanes z) { return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b)}; }
    static lanes add(lanes x, lanes y) { return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b)}; }
    static lanes subtract(lanes x, lanes y) { return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b)}; }
    static lanes larger(lanes x, lanes y) { return {vmaxq_f32(x.a, y.a), vmaxq_f32(x.b, y.b)}; }
    static lanes zero_below(lanes x, lanes y, lanes limit) { return {masked(x.a, vcgeq_f32(y.a, limit.a)), masked(x.b, vcgeq_f32(y.b, limit.b))}; }
    static lanes times_power(lanes x, lanes shifted) { return {times_power(x.a, shifted.a), times_power(x.b, shifted.b)}; }

    static lanes sums(const lanes (&x)[8]) {
        float32x4_t four[8];
        for (int i = 0; i < 4; ++i) {
            four[i]     = vpaddq_f32(x[2*i].a, x[2*i + 1].a);
            four[i + 4] = vpaddq_f32(x[2*i].b, x[2*i + 1].b);
        }
        return {vaddq_f32(vpaddq_f32(four[0], four[1]), vpaddq_f32(four[4], four[5])),
                vaddq_f32(vpaddq_f32(four[2], four[3]), vpaddq_f32(four[6], four[7]))};
    }

private:
    static float32x4_t masked(float32x4_t x, uint32x4_t mask) { return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x), mask)); }
    static float32x4_t times_power(float32x4_t x, float32x4_t n) {
        return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x), vshlq_n_s32(vreinterpretq_s32_f32(n), 23)));
    }
};

#else

struct lanes {
    float x[8];

    template <class F> static lanes each(F && f) {
        lanes out;
        for (int i = 0; i < 8; ++i) {
            out.x[i] = f(i);
        }
        return out;
    }

    static lanes zero() { return all(0.0f); }
    static lanes all(float v) { return each([&](int) { return v; }); }
    static lanes load(const float * p) { return each([&](int i) { return p[i]; }); }
    static lanes load(const ggml_fp16_t * p) { return each([&](int i) { return GGML_CPU_FP16_TO_FP32(p[i]); }); }
    void         store(float * p) const { memcpy(p, x, sizeof(x)); }

    static lanes multiply_add(lanes a, lanes b, lanes c) { return each([&](int i) { return fmaf(a.x[i], b.x[i], c.x[i]); }); }
    static lanes add(lanes a, lanes b) { return each([&](int i) { return a.x[i] + b.x[i]; }); }
    static lanes subtract(lanes a, lanes b) { return each([&](int i) { return a.x[i] - b.x[i]; }); }
    static lanes larger(lanes a, lanes b) { return each([&](int i) { return a.x[i] > b.x[i] ? a.x[i] : b.x[i]; }); }
    static lanes zero_below(lanes a, lanes v, lanes limit) { return each([&](int i) { return v.x[i] >= limit.x[i] ? a.x[i] : 0.0f; }); }
    static lanes times_power(lanes a, lanes shifted) {
        return each([&](int i) {
            uint32_t bits, n;
            memcpy(&bits, a.x + i, 4);
            memcpy(&n, shifted.x + i, 4);
            bits += n << 23;
            float out;
            memcpy(&out, &bits, 4);
            return out;
        });
    }
    static lanes sums(const lanes (&v)[8]) {
        return each([&](int i) {
            const float * a = v[i].x;
            return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]));
        });
    }
};

#endif

// e^x for x <= 0, to about one unit in the last place; 0 below -86
static inline lanes exponential(lanes x) {
    const lanes shift = lanes::all(12582912.0f); // 1.5*2^23: the nearest integer is in the low bits of a sum with it
    const lanes shifted = lanes::multiply_add(x, lanes::all(1.44269504f), shift), n = lanes::subtract(shifted, shift);
    lanes       r       = lanes::multiply_add(n, lanes::all(-0.693145752f), x);
    r                   = lanes::multiply_add(n, lanes::all(-1.42860677e-6f), r);
    lanes p = lanes::all(1.0f/5040);
    for (float c : {1.0f/720, 1.0f/120, 1.0f/24, 1.0f/6, 0.5f, 1.0f, 1.0f}) {
        p = lanes::multiply_add(p, r, lanes::all(c));
    }
    return lanes::zero_below(lanes::times_power(p, shifted), x, lanes::all(-86.0f));
}

} // namespace attention
