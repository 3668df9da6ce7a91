#include "activations.h"

#include "isa.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace rows {

namespace {

float largest(const float * x, int n) {
    float most = 0;
#ifdef ROWS_SIMD
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256       m    = _mm256_setzero_ps();
    for (int k = 0; k < n; k += 8) {
        m = _mm256_max_ps(m, _mm256_andnot_ps(sign, _mm256_loadu_ps(x + k)));
    }
    float lanes[8];
    _mm256_storeu_ps(lanes, m);
    for (float v : lanes) {
        most = std::max(most, v);
    }
#else
    for (int k = 0; k < n; ++k) {
        most = std::max(most, std::fabs(x[k]));
    }
#endif
    return most;
}

void to_int8(const float * x, float scale, int8_t * q, int n) {
#ifdef ROWS_SIMD
    const __m256  s     = _mm256_set1_ps(scale);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int k = 0; k < n; k += 32) {
        __m256i i[4];
        for (int j = 0; j < 4; ++j) {
            i[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + k + 8*j), s));
        }
        const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(i[0], i[1]), _mm256_packs_epi32(i[2], i[3]));
        _mm256_storeu_si256((__m256i *) (q + k), _mm256_permutevar8x32_epi32(packed, order));
    }
#else
    for (int k = 0; k < n; ++k) {
        q[k] = (int8_t) std::max(-128.0f, std::min(127.0f, nearbyintf(x[k]*scale)));
    }
#endif
}

int sum_of(const int8_t * q, int n) {
    int s = 0;
    for (int k = 0; k < n; ++k) {
        s += q[k];
    }
    return s;
}

int32_t two_int16(int low, int high) {
    return (int32_t) ((uint32_t) (uint16_t) low | (uint32_t) (uint16_t) high << 16);
}

int32_t correction(const activation_form & form, const int8_t * q) {
    if (!form.halves) {
        return -form.offset*sum_of(q, form.span);
    }
    int low = 0, high = 0;
    for (int k = 0; k < form.span; k += 4) {
        low  += q[k] + q[k + 1];
        high += q[k + 2] + q[k + 3];
    }
    return two_int16(-form.offset*low, -form.offset*high);
}

void store_words(const activation_form & form, const int8_t * q, int32_t * tile, int N) {
    for (int k = 0; k < form.block; k += 4) {
        if (form.wide) {
            tile[(k/2)*N]     = two_int16(q[k], q[k + 2]);
            tile[(k/2 + 1)*N] = two_int16(q[k + 1], q[k + 3]);
        } else {
            memcpy(tile + (k/4)*N, q + k, 4);
        }
    }
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
    int8_t      q[256];
    const float most = largest(x, form.block);
    const float d    = most/127.0f;
    to_int8(x, most > 0 ? 127.0f/most : 0.0f, q, form.block);

    store_words(form, q, tile, N);
    tile += form.quant_words()*N;
    for (int i = 0; i < form.corrections(); ++i, tile += N) {
        *tile = correction(form, q + i*form.span);
    }
    for (int i = 0; i < form.pairs(); ++i, tile += N) {
        *tile = two_int16(sum_of(q + 64*i, 32), sum_of(q + 64*i + 32, 32));
    }
    memcpy(tile, &d, 4);
    if (form.sum) {
        const float sum = d*(float) sum_of(q, form.block);
        memcpy(tile + N, &sum, 4);
    }
}

} // namespace rows
