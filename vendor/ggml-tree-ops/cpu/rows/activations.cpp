#include "activations.h"

#include "isa.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace rows {

namespace {

int32_t two_int16(int low, int high) {
    return (int32_t) ((uint32_t) (uint16_t) low | (uint32_t) (uint16_t) high << 16);
}

// What 32 quants become: 8 words (16 if wide), and sums over 16 or 32 of them.
struct words_of_32 {
    int32_t words[16];
    int32_t sums[2];   // of values 0 to 15, 16 to 31
    int32_t halves[2]; // the same for the values (0, 1) and (2, 3) of every four: two int16
};

#if defined(ROWS_AVX2) || defined(ROWS_AVX512)

float largest(const float * x, int n) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256       m    = _mm256_setzero_ps();
    for (int k = 0; k < n; k += 8) {
        m = _mm256_max_ps(m, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + k)));
    }
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}

words_of_32 quantise_32(const activation_form & form, const float * x, float scale) {
    const __m256  s     = _mm256_set1_ps(scale);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    __m256i       i[4];
    for (int j = 0; j < 4; ++j) {
        i[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8*j), s));
    }
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(i[0], i[1]), _mm256_packs_epi32(i[2], i[3]));
    const __m256i q      = _mm256_permutevar8x32_epi32(packed, order);

    words_of_32 out;
    if (form.wide) {
        const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8), odd = _mm256_srai_epi16(q, 8);
        const __m256i low = _mm256_unpacklo_epi32(even, odd), high = _mm256_unpackhi_epi32(even, odd);
        _mm256_storeu_si256((__m256i *) out.words, _mm256_permute2x128_si256(low, high, 0x20));
        _mm256_storeu_si256((__m256i *) (out.words + 8), _mm256_permute2x128_si256(low, high, 0x31));
    } else {
        _mm256_storeu_si256((__m256i *) out.words, q);
    }
    // pairs of int8 in 16 bits, then dwords added within each 128-bit half
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
    pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0x4e));
    pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, 0xb1));
    const __m256i sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    out.halves[0] = _mm_cvtsi128_si32(_mm256_castsi256_si128(pairs));
    out.halves[1] = _mm_cvtsi128_si32(_mm256_extracti128_si256(pairs, 1));
    out.sums[0]   = _mm_cvtsi128_si32(_mm256_castsi256_si128(sums));
    out.sums[1]   = _mm_cvtsi128_si32(_mm256_extracti128_si256(sums, 1));
    return out;
}

#elif defined(ROWS_NEON)

float largest(const float * x, int n) {
    float32x4_t m = vdupq_n_f32(0);
    for (int k = 0; k < n; k += 4) {
        m = vmaxq_f32(m, vabsq_f32(vld1q_f32(x + k)));
    }
    return vmaxvq_f32(m);
}

words_of_32 quantise_32(const activation_form &, const float * x, float scale) { // no form is wide or in halves here
    words_of_32 out = {};
    for (int half = 0; half < 2; ++half) {
        int16x4_t four[4];
        for (int j = 0; j < 4; ++j) {
            four[j] = vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 16*half + 4*j), scale)));
        }
        const int8x16_t q = vcombine_s8(vqmovn_s16(vcombine_s16(four[0], four[1])), vqmovn_s16(vcombine_s16(four[2], four[3])));
        vst1q_s8((int8_t *) (out.words + 4*half), q);
        out.sums[half] = vaddlvq_s8(q);
    }
    return out;
}

#else

float largest(const float * x, int n) {
    float most = 0;
    for (int k = 0; k < n; ++k) {
        most = std::max(most, std::fabs(x[k]));
    }
    return most;
}

words_of_32 quantise_32(const activation_form & form, const float * x, float scale) {
    int8_t q[32];
    for (int k = 0; k < 32; ++k) {
        q[k] = (int8_t) std::max(-128.0f, std::min(127.0f, nearbyintf(x[k]*scale)));
    }
    words_of_32 out;
    for (int g = 0; g < 8; ++g) {
        if (form.wide) {
            out.words[2*g]     = two_int16(q[4*g], q[4*g + 2]);
            out.words[2*g + 1] = two_int16(q[4*g + 1], q[4*g + 3]);
        } else {
            memcpy(out.words + g, q + 4*g, 4);
        }
    }
    for (int half = 0; half < 2; ++half) {
        int low = 0, high = 0;
        for (int k = 16*half; k < 16*half + 16; k += 4) {
            low  += q[k] + q[k + 1];
            high += q[k + 2] + q[k + 3];
        }
        out.sums[half]   = low + high;
        out.halves[half] = two_int16(low, high);
    }
    return out;
}

#endif

// -offset times the sums over the parts of 16 values from `from` on, as the form wants it
int32_t correction(const activation_form & form, const words_of_32 & w, int from, int to) {
    int sum = 0, low = 0, high = 0;
    for (int i = from; i < to; ++i) {
        sum += w.sums[i];
        low += (int16_t) w.halves[i];
        high += w.halves[i] >> 16;
    }
    return form.halves ? two_int16(-form.offset*low, -form.offset*high) : -form.offset*sum;
}

} // namespace

void quantise_block(const activation_form & form, const float * x, int32_t * tile, int n, int N) {
    tile += n;
    if (form.floats) {
        for (int k = 0; k < form.block; ++k) {
            memcpy(tile + k*N, x + k, 4);
        }
        return;
    }
    const float most = largest(x, form.block);
    const float d = most/127.0f, scale = most > 0 ? 127.0f/most : 0.0f;
    const int   words = form.wide ? 16 : 8;
    int32_t *   corrections = tile + form.quant_words()*N;
    int32_t *   pairs       = corrections + form.corrections()*N;
    int32_t *   scales      = pairs + form.pairs()*N;
    int         sum         = 0; // of the block, or of the 32 before
    for (int k = 0; k < form.block; k += 32) {
        const words_of_32 w = quantise_32(form, x + k, scale);
        for (int i = 0; i < words; ++i, tile += N) {
            *tile = w.words[i];
        }
        for (int i = 0; form.span && i < 32/form.span; ++i, corrections += N) {
            *corrections = form.span == 16 ? correction(form, w, i, i + 1) : correction(form, w, 0, 2);
        }
        const int here = w.sums[0] + w.sums[1];
        if (form.pair_sums && k % 64 == 32) {
            *pairs = two_int16(sum, here);
            pairs += N;
        }
        sum = here;
    }
    memcpy(scales, &d, 4);
    if (form.sum) {
        const float d_sum = d*(float) sum;
        memcpy(scales + N, &d_sum, 4);
    }
}

} // namespace rows
