#include "reference.h"

#include <cmath>
#include <cstring>

namespace rows {

namespace {

float half_at(const uint8_t * p, int row) {
    ggml_fp16_t h;
    memcpy(&h, p + 2*row, 2);
    return ggml_fp16_to_fp32(h);
}

float float_at(const int32_t * p) {
    float x;
    memcpy(&x, p, 4);
    return x;
}

// Value k of row r, without its scale, and the integer scale and minimum that belong to it.
struct element {
    int value, scale = 1, min = 0;
};

struct block {
    ggml_type       type;
    const uint8_t * q;
    const uint8_t * s;

    uint8_t byte(int word, int r, int i) const { return q[64*word + 4*r + i]; }

    element at(int k, int r) const;
    float   d(int r) const;
    float   m(int r) const; // what is multiplied by the minimum, or the block's minimum itself
};

constexpr int IQ4[16]   = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int MXFP4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

int nibble(uint8_t byte, bool high) { return high ? byte >> 4 : byte & 15; }

// nibbles of a block of 32: values 0 to 15 in the low ones, 16 to 31 in the high ones
int nibble_of_32(const block & b, int k, int r) { return nibble(b.byte((k % 16)/4, r, k % 4), k >= 16); }

int fifth_bit_of_32(const block & b, int k, int r) { return (b.byte(4, r, k % 4) >> (k/4)) & 1; }

element k_type_at(const block & b, int k, int r) {
    const int j = k/32, l = k % 32;
    auto six = [&](int i) { return b.s[64 + 16*i + r]; };
    element e;
    e.value = nibble(b.byte((j/2)*8 + l/4, r, l % 4), j % 2);
    e.scale = j < 4 ? six(j) & 63 : (six(j + 4) & 15) | (six(j - 4) >> 6) << 4;
    e.min   = j < 4 ? six(j + 4) & 63 : six(j + 4) >> 4 | (six(j) >> 6) << 4;
    if (b.type == GGML_TYPE_Q5_K) {
        e.value += 16*((b.byte(32 + l/4, r, l % 4) >> j) & 1);
    }
    return e;
}

element q6_k_at(const block & b, int k, int r) {
    const int half = k/128, sub = (k % 128)/32, l = k % 32;
    const int low = nibble(b.byte(16*half + 8*(sub % 2) + l/4, r, l % 4), sub >= 2);
    const int top = (b.byte(32 + 8*half + l/4, r, l % 4) >> 2*sub) & 3;
    return {low + 16*top - 32, (int8_t) b.s[32 + 16*(k/16) + r]};
}

element iq4_xs_at(const block & b, int k, int r) {
    const int j = k/32, l = k % 32;
    uint16_t  high;
    memcpy(&high, b.s + 32 + 2*r, 2);
    const int low = nibble(b.s[64 + 16*(j/2) + r], j % 2);
    return {IQ4[nibble(b.byte(4*j + (l % 16)/4, r, l % 4), l >= 16)], (low | ((high >> 2*j) & 3) << 4) - 32};
}

element block::at(int k, int r) const {
    switch (type) {
        case GGML_TYPE_Q8_0:   return {(int8_t) byte(k/4, r, k % 4)};
        case GGML_TYPE_Q4_0:   return {nibble_of_32(*this, k, r) - 8};
        case GGML_TYPE_Q4_1:   return {nibble_of_32(*this, k, r)};
        case GGML_TYPE_Q5_0:
        case GGML_TYPE_Q5_1:   return {nibble_of_32(*this, k, r) + 16*fifth_bit_of_32(*this, k, r) - 16};
        case GGML_TYPE_IQ4_NL: return {IQ4[nibble_of_32(*this, k, r)]};
        case GGML_TYPE_MXFP4:  return {MXFP4[nibble_of_32(*this, k, r)]};
        case GGML_TYPE_Q4_K:
        case GGML_TYPE_Q5_K:   return k_type_at(*this, k, r);
        case GGML_TYPE_Q6_K:   return q6_k_at(*this, k, r);
        default:               return iq4_xs_at(*this, k, r);
    }
}

float block::d(int r) const {
    return type == GGML_TYPE_MXFP4 ? ldexpf(1.0f, s[r] - 128) : half_at(s, r);
}

float block::m(int r) const {
    return type == GGML_TYPE_Q5_1 ? fmaf(16.0f, half_at(s, r), half_at(s + 32, r)) : half_at(s + 32, r);
}

int quant(const activation_form & a, const int32_t * tile, int k, int n, int n_rows) {
    if (a.wide) {
        int16_t two[2];
        memcpy(two, tile + (2*(k/4) + k % 2)*n_rows + n, 4);
        return two[(k % 4)/2];
    }
    int8_t four[4];
    memcpy(four, tile + (k/4)*n_rows + n, 4);
    return four[k % 4];
}

// The sum over a block, added to `sum` as the kernels do.
float add_block(const block & b, const activation_form & a, const int32_t * tile, int r, int n, int n_rows, float sum) {
    const bool super = a.block == 256;
    int32_t    total = 0, mins = 0;
    for (int k = 0; k < a.block; ++k) {
        const element e = b.at(k, r);
        const int     x = quant(a, tile, k, n, n_rows);
        total += e.scale*e.value*x;
        mins  += e.min*x;
    }
    const int32_t * d  = tile + (a.quant_words() + a.corrections() + a.pairs())*n_rows + n;
    const float     da = float_at(d);
    sum = fmaf((float) total, b.d(r)*da, sum);
    if (a.pair_sums) {
        return fmaf(-(float) mins, half_at(b.s + 32, r)*da, sum);
    }
    return !super && a.sum ? fmaf(b.m(r), float_at(d + n_rows), sum) : sum;
}

float weight(ggml_type type, const uint8_t * q, int k, int r) {
    uint32_t bits = 0;
    if (type == GGML_TYPE_F32) {
        memcpy(&bits, q + 64*k + 4*r, 4);
    } else if (type == GGML_TYPE_BF16) {
        memcpy((uint8_t *) &bits + 2, q + 32*k + 2*r, 2);
    } else {
        return half_at(q + 32*k, r);
    }
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

float add_block_of_floats(ggml_type type, const uint8_t * q, const int32_t * tile, int r, int n, int n_rows, float sum) {
    float part = 0;
    for (int k = 0; k < 32; ++k) {
        part = fmaf(weight(type, q, k, r), float_at(tile + k*n_rows + n), part);
    }
    return sum + part;
}

} // namespace

void reference_product(ggml_type type, const activation_form & a, const uint8_t * quants, const uint8_t * scales, int64_t n_blocks,
                       const int32_t * tile, int n_rows, float * const * out) {
    const form & f = *form_of(type);
    for (int n = 0; n < n_rows; ++n) {
        for (int r = 0; r < GROUP; ++r) {
            float sum = 0;
            for (int64_t i = 0; i < n_blocks; ++i) {
                const int32_t * t = tile + i*a.words()*n_rows;
                const uint8_t * q = quants + i*f.quant_bytes();
                sum = a.floats ? add_block_of_floats(type, q, t, r, n, n_rows, sum)
                               : add_block({type, q, scales + i*f.scale_bytes()}, a, t, r, n, n_rows, sum);
            }
            out[n][r] = sum;
        }
    }
}

} // namespace rows
