#include "form.h"

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"

#include <cstring>

namespace rows {

namespace {

template <int N, int M> constexpr form make(int block, int bytes, const segment (&q)[N], const segment (&s)[M]) {
    return {block, bytes, N, M, q, s};
}

constexpr int D = sizeof(ggml_half);

// quants first, then scales
constexpr segment q8_0[]   = {{offsetof(block_q8_0, qs), 4, 8}};
constexpr segment q4_0[]   = {{offsetof(block_q4_0, qs), 4, 4}};
constexpr segment q4_1[]   = {{offsetof(block_q4_1, qs), 4, 4}};
constexpr segment q5_0[]   = {{offsetof(block_q5_0, qs), 4, 4}, {offsetof(block_q5_0, qh), 4, 1, true}};
constexpr segment q5_1[]   = {{offsetof(block_q5_1, qs), 4, 4}, {offsetof(block_q5_1, qh), 4, 1, true}};
constexpr segment iq4_nl[] = {{offsetof(block_iq4_nl, qs), 4, 4}};
constexpr segment mxfp4[]  = {{offsetof(block_mxfp4, qs), 4, 4}};
constexpr segment q4_k[]   = {{offsetof(block_q4_K, qs), 4, 32}};
constexpr segment q5_k[]   = {{offsetof(block_q5_K, qs), 4, 32}, {offsetof(block_q5_K, qh), 4, 8}};
constexpr segment q6_k[]   = {{offsetof(block_q6_K, ql), 4, 32}, {offsetof(block_q6_K, qh), 4, 16}};
constexpr segment iq4_xs[] = {{offsetof(block_iq4_xs, qs), 4, 32}};
constexpr segment f32[]    = {{0, 4, 32}};
constexpr segment f16[]    = {{0, 2, 32}};
constexpr segment none[]   = {{0, 0, 0}};

constexpr segment one_half[]      = {{0, D, 1}};
constexpr segment two_halves[]    = {{0, D, 2}};
constexpr segment one_byte[]      = {{offsetof(block_mxfp4, e), 1, 1}};
constexpr segment k_scales[]      = {{0, D, 2}, {offsetof(block_q4_K, scales), 1, K_SCALE_SIZE}};
constexpr segment q6_k_scales[]   = {{offsetof(block_q6_K, d), D, 1}, {offsetof(block_q6_K, scales), 1, QK_K / 16}};
constexpr segment iq4_xs_scales[] = {{offsetof(block_iq4_xs, d), D, 1}, {offsetof(block_iq4_xs, scales_h), 2, 1},
                                     {offsetof(block_iq4_xs, scales_l), 1, QK_K / 64}};

static_assert(offsetof(block_q8_0, d) == 0 && offsetof(block_q4_0, d) == 0 && offsetof(block_q5_0, d) == 0 &&
              offsetof(block_iq4_nl, d) == 0 && offsetof(block_q4_1, qs) == 2*D && offsetof(block_q5_1, qh) == 2*D &&
              offsetof(block_q4_K, scales) == 2*D, "the scales come first in these blocks");
static_assert(offsetof(block_q5_K, scales) == offsetof(block_q4_K, scales), "k_scales serves both");

constexpr form FORM_Q8_0   = make(QK8_0, sizeof(block_q8_0), q8_0, one_half);
constexpr form FORM_Q4_0   = make(QK4_0, sizeof(block_q4_0), q4_0, one_half);
constexpr form FORM_Q4_1   = make(QK4_1, sizeof(block_q4_1), q4_1, two_halves);
constexpr form FORM_Q5_0   = make(QK5_0, sizeof(block_q5_0), q5_0, one_half);
constexpr form FORM_Q5_1   = make(QK5_1, sizeof(block_q5_1), q5_1, two_halves);
constexpr form FORM_IQ4_NL = make(QK4_NL, sizeof(block_iq4_nl), iq4_nl, one_half);
constexpr form FORM_MXFP4  = make(QK_MXFP4, sizeof(block_mxfp4), mxfp4, one_byte);
constexpr form FORM_Q4_K   = make(QK_K, sizeof(block_q4_K), q4_k, k_scales);
constexpr form FORM_Q5_K   = make(QK_K, sizeof(block_q5_K), q5_k, k_scales);
constexpr form FORM_Q6_K   = make(QK_K, sizeof(block_q6_K), q6_k, q6_k_scales);
constexpr form FORM_IQ4_XS = make(QK_K, sizeof(block_iq4_xs), iq4_xs, iq4_xs_scales);
constexpr form FORM_F32    = make(32, 32 * 4, f32, none);
constexpr form FORM_F16    = make(32, 32 * 2, f16, none);

uint32_t spread_fifth_bits(uint32_t bits) {
    uint32_t out = 0;
    for (int k = 0; k < 32; ++k) {
        out |= ((bits >> k) & 1) << (8 * (k % 4) + k / 4);
    }
    return out;
}

uint32_t gather_fifth_bits(uint32_t spread) {
    uint32_t bits = 0;
    for (int k = 0; k < 32; ++k) {
        bits |= ((spread >> (8 * (k % 4) + k / 4)) & 1) << k;
    }
    return bits;
}

// The two directions: GROUP_BYTE and FILE_BYTE are uint8_t where they are written to, const where they are read.
template <int SIZE> void copy(uint8_t * beside, const uint8_t * file) { memcpy(beside, file, SIZE); }
template <int SIZE> void copy(const uint8_t * beside, uint8_t * file) { memcpy(file, beside, SIZE); }

template <int SIZE, class GROUP_BYTE, class FILE_BYTE> void copy_elements(GROUP_BYTE * beside, FILE_BYTE * file, int count) {
    for (int i = 0; i < count; ++i) {
        copy<SIZE>(beside + (size_t) i * GROUP * SIZE, file + (size_t) i * SIZE);
    }
}

void copy_fifth_bits(uint8_t * beside, const uint8_t * file) {
    uint32_t word;
    memcpy(&word, file, 4);
    word = spread_fifth_bits(word);
    memcpy(beside, &word, 4);
}

void copy_fifth_bits(const uint8_t * beside, uint8_t * file) {
    uint32_t word;
    memcpy(&word, beside, 4);
    word = gather_fifth_bits(word);
    memcpy(file, &word, 4);
}

template <class GROUP_BYTE, class FILE_BYTE>
void copy_segments(const segment * segments, int n, GROUP_BYTE * beside, FILE_BYTE * file, int row) {
    for (int i = 0; i < n; ++i) {
        const segment & s = segments[i];
        GROUP_BYTE *    a = beside + row * s.size;
        FILE_BYTE *     b = file + s.offset;
        if (s.fifth_bits) {
            copy_fifth_bits(a, b);
        } else if (s.size == 4) {
            copy_elements<4>(a, b, s.count);
        } else if (s.size == 2) {
            copy_elements<2>(a, b, s.count);
        } else {
            copy_elements<1>(a, b, s.count);
        }
        beside += (size_t) GROUP * s.size * s.count;
    }
}

template <class GROUP_BYTE, class FILE_BYTE> void copy_row(const layout & where, GROUP_BYTE * group, FILE_BYTE * file_row, int row) {
    const form & f      = *where.f;
    GROUP_BYTE * quants = group;
    GROUP_BYTE * scales = group + where.n_blocks * f.quant_bytes();
    for (int64_t b = 0; b < where.n_blocks; ++b) {
        copy_segments(f.quants, f.n_quants, quants, file_row, row);
        copy_segments(f.scales, f.n_scales, scales, file_row, row);
        quants += f.quant_bytes();
        scales += f.scale_bytes();
        file_row += f.block_bytes;
    }
}

} // namespace

const form * form_of(ggml_type type) {
    switch (type) {
        case GGML_TYPE_Q8_0:   return &FORM_Q8_0;
        case GGML_TYPE_Q4_0:   return &FORM_Q4_0;
        case GGML_TYPE_Q4_1:   return &FORM_Q4_1;
        case GGML_TYPE_Q5_0:   return &FORM_Q5_0;
        case GGML_TYPE_Q5_1:   return &FORM_Q5_1;
        case GGML_TYPE_IQ4_NL: return &FORM_IQ4_NL;
        case GGML_TYPE_MXFP4:  return &FORM_MXFP4;
        case GGML_TYPE_Q4_K:   return &FORM_Q4_K;
        case GGML_TYPE_Q5_K:   return &FORM_Q5_K;
        case GGML_TYPE_Q6_K:   return &FORM_Q6_K;
        case GGML_TYPE_IQ4_XS: return &FORM_IQ4_XS;
        case GGML_TYPE_F32:    return &FORM_F32;
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16:   return &FORM_F16;
        default:               return nullptr;
    }
}

void pack(const layout & where, void * group, const void * file_rows, size_t row_bytes, int n_rows) {
    if (n_rows < GROUP) {
        memset(group, 0, where.group_bytes());
    }
    for (int r = 0; r < n_rows; ++r) {
        copy_row(where, (uint8_t *) group, (const uint8_t *) file_rows + r * row_bytes, r);
    }
}

void unpack(const layout & where, const void * group, void * file_rows, size_t row_bytes, int n_rows) {
    for (int r = 0; r < n_rows; ++r) {
        copy_row(where, (const uint8_t *) group, (uint8_t *) file_rows + r * row_bytes, r);
    }
}

} // namespace rows
