// How each type's quants come out of the interleaved form into registers: `quants(q, g, s)` is group g of four values in a
// block at q, for the rows of register s, as unsigned bytes (value + OFFSET) or, if SIGNED, as int8.
#pragma once

#include "activations.h"
#include "isa.h"

#include "ggml.h"

#ifdef ROWS_SIMD

namespace rows {

using ints   = isa::ints;
using floats = isa::floats;

enum class kind { FLOATS, BLOCKS, SUPER_BLOCKS };

ROWS_INLINE ints line(const uint8_t * q, int i, int s) { // 64 bytes hold four bytes of each of 16 rows
    return isa::load(q + 64*i + (64/isa::S)*s);
}

ROWS_INLINE ints low_nibbles(ints a) { return isa::bit_and(a, isa::bytes(15)); }
ROWS_INLINE ints high_nibbles(ints a) { return isa::bit_and(isa::right16<4>(a), isa::bytes(15)); }

// bit FROM of every byte, moved to bit 4
template <int FROM> ROWS_INLINE ints fifth_bit(ints a) {
    const ints bit = isa::bit_and(a, isa::bytes((int8_t) (1 << FROM)));
    if constexpr (FROM < 4) {
        return isa::left16<4 - FROM>(bit);
    } else {
        return isa::right16<FROM - 4>(bit);
    }
}

// bits FROM and FROM + 1 of every byte, moved to bits 4 and 5
template <int FROM> ROWS_INLINE ints two_high_bits(ints a) {
    const ints bits = isa::bit_and(a, isa::bytes((int8_t) (3 << FROM)));
    if constexpr (FROM < 4) {
        return isa::left16<4 - FROM>(bits);
    } else {
        return isa::right16<FROM - 4>(bits);
    }
}

// 16 halves or bytes, those of register s
ROWS_INLINE floats halves(const uint8_t * p, int s) { return isa::load_halves(p + 2*LANES*s); }

// ------------------------------------------------------------------ floating point, one value of k at a time

template <ggml_type TYPE> struct float_type {
    static constexpr int QUANT_BYTES = TYPE == GGML_TYPE_F32 ? 2048 : 1024, SCALE_BYTES = 0; // of 16 rows of a block
    static constexpr kind KIND   = kind::FLOATS;
    static constexpr int  BLOCK  = 32;
    static constexpr bool SIGNED = false;
    static constexpr int  OFFSET = 0;

    template <int K> ROWS_INLINE floats value(const uint8_t * q, int s) {
        if constexpr (TYPE == GGML_TYPE_F32) {
            return isa::load_floats(q + 64*K + 4*LANES*s);
        } else if constexpr (TYPE == GGML_TYPE_F16) {
            return halves(q + 32*K, s);
        } else {
            return isa::as_floats(isa::left32<16>(isa::load_uint16(q + 32*K + 2*LANES*s)));
        }
    }
};

// ------------------------------------------------------------------ blocks of 32 with one scale

struct block_type {
    static constexpr kind KIND   = kind::BLOCKS;
    static constexpr int  BLOCK  = 32;
    static constexpr bool SIGNED = false;
    static constexpr bool MIN    = false; // a second float a block: value = d*q + min

    ROWS_INLINE floats scale(const uint8_t * p, int s) { return halves(p, s); }
    ROWS_INLINE floats min(const uint8_t *, int) { return isa::zero_floats(); }
};

struct q8_0 : block_type {
    static constexpr int QUANT_BYTES = 512, SCALE_BYTES = 32;
    static constexpr bool SIGNED = true;
    static constexpr int  OFFSET = 0;

    template <int G> ROWS_INLINE ints quants(const uint8_t * q, int s) { return line(q, G, s); }
};

struct nibbles : block_type {
    template <int G> ROWS_INLINE ints quants(const uint8_t * q, int s) {
        const ints both = line(q, G%4, s);
        return G < 4 ? low_nibbles(both) : high_nibbles(both);
    }
};

struct q4_0 : nibbles {
    static constexpr int QUANT_BYTES = 256, SCALE_BYTES = 32;
    static constexpr int OFFSET = 8;
};

struct q4_1 : nibbles {
    static constexpr int QUANT_BYTES = 256, SCALE_BYTES = 64;
    static constexpr int  OFFSET = 0;
    static constexpr bool MIN    = true;

    ROWS_INLINE floats min(const uint8_t * p, int s) { return halves(p + 32, s); }
};

struct five_bits : nibbles {
    template <int G> ROWS_INLINE ints quants(const uint8_t * q, int s) {
        return isa::bit_or(nibbles::quants<G>(q, s), fifth_bit<G>(line(q, 4, s)));
    }
};

struct q5_0 : five_bits {
    static constexpr int QUANT_BYTES = 320, SCALE_BYTES = 32;
    static constexpr int OFFSET = 16;
};

struct q5_1 : five_bits { // its values are taken as d*(q - 16) + (min + 16 d): the sums of 16 bits then suffice
    static constexpr int QUANT_BYTES = 320, SCALE_BYTES = 64;
    static constexpr int  OFFSET = 16;
    static constexpr bool MIN    = true;

    ROWS_INLINE floats min(const uint8_t * p, int s) {
        return isa::multiply_add(isa::broadcast(16.0f), halves(p, s), halves(p + 32, s));
    }
};

ROWS_INLINE ints iq4_values() {
    alignas(16) static constexpr int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return isa::sixteen_bytes(values);
}

struct iq4_nl : nibbles {
    static constexpr int QUANT_BYTES = 256, SCALE_BYTES = 32;
    static constexpr bool SIGNED = true;
    static constexpr int  OFFSET = 0;

    template <int G> ROWS_INLINE ints quants(const uint8_t * q, int s) {
        return isa::shuffle(iq4_values(), nibbles::quants<G>(q, s));
    }
};

struct mxfp4 : nibbles {
    static constexpr int QUANT_BYTES = 256, SCALE_BYTES = 16;
    static constexpr int OFFSET = 12;

    template <int G> ROWS_INLINE ints quants(const uint8_t * q, int s) {
        alignas(16) static constexpr int8_t values[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
        return isa::shuffle(isa::sixteen_bytes(values), nibbles::quants<G>(q, s));
    }

    // half of 2^(e - 127): exponent bits e - 1, or a denormal for e = 0 and 1
    ROWS_INLINE floats scale(const uint8_t * p, int s) {
        float d[16];
        for (int r = 0; r < 16; ++r) {
            const uint32_t bits = p[r] < 2 ? 0x00200000u << p[r] : (uint32_t) (p[r] - 1) << 23;
            memcpy(d + r, &bits, 4);
        }
        return isa::load_floats(d + LANES*s);
    }
};

// ------------------------------------------------------------------ super-blocks of 256 with integer scales

// The integer scales of a super-block, widened: one for every SPAN values, and for some types minima of 32 values, two in a
// word. For 16-bit sums a scale is in both halves of its word.
struct wide_scales {
    ints scale[16][isa::S];
    ints min[4][isa::S];
};

constexpr bool SUMS_OF_16_BITS = !isa::VNNI;

struct super_type {
    static constexpr kind KIND   = kind::SUPER_BLOCKS;
    static constexpr int  BLOCK  = 256;
    static constexpr bool SIGNED = false;
    static constexpr int  OFFSET = 0;
    static constexpr int  SPAN   = 32;
    static constexpr bool MIN    = false;
    static constexpr bool OFFSET_IN_MINS = false; // the offset is taken out by sum(scale*sums of activations), as a minimum
};

// 8 scales and 8 minima of 6 bits in 12 bytes of each row
ROWS_INLINE void six_bits(const uint8_t * packed, uint8_t (&scales)[8][16], uint8_t (&mins)[8][16]) {
    constexpr int N = 64/isa::S;
    for (int s = 0; s < isa::S; ++s) {
        const ints a = isa::load(packed + N*s), b = isa::load(packed + 64 + N*s), c = isa::load(packed + 128 + N*s);
        const ints six = isa::bytes(63), top = isa::bytes(0x30);
        const ints parts[4] = {
            isa::bit_and(a, six),
            isa::bit_or(low_nibbles(c), isa::bit_and(isa::right16<2>(a), top)),
            isa::bit_and(b, six),
            isa::bit_or(high_nibbles(c), isa::bit_and(isa::right16<2>(b), top)),
        };
        memcpy(scales[0] + N*s, &parts[0], N);
        memcpy(scales[4] + N*s, &parts[1], N);
        memcpy(mins[0] + N*s, &parts[2], N);
        memcpy(mins[4] + N*s, &parts[3], N);
    }
}

struct k_type : super_type { // Q4_K, Q5_K
    static constexpr bool MIN = true;

    ROWS_INLINE floats scale(const uint8_t * p, int s) { return halves(p, s); }
    ROWS_INLINE floats min(const uint8_t * p, int s) { return halves(p + 32, s); }

    ROWS_INLINE void scales(const uint8_t * p, wide_scales & wide) {
        uint8_t scales[8][16], mins[8][16];
        six_bits(p + 64, scales, mins);
        for (int s = 0; s < isa::S; ++s) {
            const ints one = isa::placed(SUMS_OF_16_BITS ? place::BOTH : place::BYTE, s);
            const ints low = isa::placed(place::LOW_HALF, s), high = isa::placed(place::HIGH_HALF, s);
            for (int j = 0; j < 8; ++j) {
                wide.scale[j][s] = isa::shuffle(isa::sixteen_bytes(scales[j]), one);
            }
            for (int j = 0; j < 4; ++j) {
                wide.min[j][s] = isa::bit_or(isa::shuffle(isa::sixteen_bytes(mins[2*j]), low),
                                             isa::shuffle(isa::sixteen_bytes(mins[2*j + 1]), high));
            }
        }
    }
};

struct q4_k : k_type {
    static constexpr int QUANT_BYTES = 2048, SCALE_BYTES = 256;
    template <int G> ROWS_INLINE ints quants(const uint8_t * q, int s) { // 64 values in 8 lines: low nibbles, high nibbles
        const ints both = line(q, (G/16)*8 + G%8, s);
        return G%16 < 8 ? low_nibbles(both) : high_nibbles(both);
    }
};

struct q5_k : k_type {
    static constexpr int QUANT_BYTES = 2560, SCALE_BYTES = 256;
    static constexpr int  OFFSET         = SUMS_OF_16_BITS ? 16 : 0;
    static constexpr bool OFFSET_IN_MINS = SUMS_OF_16_BITS;

    template <int G> ROWS_INLINE ints quants(const uint8_t * q, int s) { // bit j of line 32 + g%8: sub-block j
        return isa::bit_or(q4_k::quants<G>(q, s), fifth_bit<G/8>(line(q, 32 + G%8, s)));
    }
};

struct q6_k : super_type {
    static constexpr int QUANT_BYTES = 3072, SCALE_BYTES = 288;
    static constexpr int OFFSET = 32;
    static constexpr int SPAN   = 16;

    ROWS_INLINE floats scale(const uint8_t * p, int s) { return halves(p, s); }
    ROWS_INLINE floats min(const uint8_t *, int) { return isa::zero_floats(); }

    ROWS_INLINE void scales(const uint8_t * p, wide_scales & wide) {
        for (int s = 0; s < isa::S; ++s) {
            const ints top = isa::placed(place::TOP_BYTES, s);
            for (int j = 0; j < 16; ++j) {
                ints x = isa::signed_right16_by_8(isa::shuffle(isa::sixteen_bytes(p + 32 + 16*j), top));
                if (!SUMS_OF_16_BITS) { // int32: the pair's sum with (1, 0) extends the sign
                    x = isa::add_pairs16(x, isa::broadcast(1));
                }
                wide.scale[j][s] = x;
            }
        }
    }

    template <int G> ROWS_INLINE ints quants(const uint8_t * q, int s) { // 128 values: 16 lines of nibbles, 8 of two bits
        constexpr int HALF = G/32, SUB = (G/8)%4;
        const ints    both = line(q, 16*HALF + 8*(SUB%2) + G%8, s);
        return isa::bit_or(SUB < 2 ? low_nibbles(both) : high_nibbles(both), two_high_bits<2*SUB>(line(q, 32 + 8*HALF + G%8, s)));
    }
};

struct iq4_xs : super_type {
    static constexpr int QUANT_BYTES = 2048, SCALE_BYTES = 128;
    static constexpr bool SIGNED = true;

    ROWS_INLINE floats scale(const uint8_t * p, int s) { return halves(p, s); }
    ROWS_INLINE floats min(const uint8_t *, int) { return isa::zero_floats(); }

    ROWS_INLINE void scales(const uint8_t * p, wide_scales & wide) {
        for (int s = 0; s < isa::S; ++s) {
            const ints high = isa::load_uint16(p + 32 + 2*LANES*s);
            for (int j = 0; j < 8; ++j) {
                const ints low  = isa::load_uint8(p + 64 + 16*(j/2) + LANES*s);
                const ints four = isa::bit_and(j%2 ? isa::right16<4>(low) : low, isa::broadcast(15));
                ints       two  = high;
                switch (j) { // bits 2j and 2j + 1 to bits 4 and 5
                    case 0: two = isa::left16<4>(two); break;
                    case 1: two = isa::left16<2>(two); break;
                    case 2: break;
                    case 3: two = isa::right16<2>(two); break;
                    case 4: two = isa::right16<4>(two); break;
                    case 5: two = isa::right16<6>(two); break;
                    case 6: two = isa::right16<8>(two); break;
                    case 7: two = isa::right16<10>(two); break;
                }
                wide.scale[j][s] = isa::add32(isa::bit_or(four, isa::bit_and(two, isa::broadcast(0x30))), isa::broadcast(-32));
            }
        }
    }

    template <int G> ROWS_INLINE ints quants(const uint8_t * q, int s) {
        const ints both = line(q, (G/8)*4 + G%4, s);
        return isa::shuffle(iq4_values(), G%8 < 4 ? low_nibbles(both) : high_nibbles(both));
    }
};

// What the kernel of a type wants of the activations.
template <class T> constexpr activation_form activations_of() {
    activation_form form;
    form.block = T::BLOCK;
    if constexpr (T::KIND == kind::FLOATS) {
        form.floats = true;
        return form;
    } else {
        form.wide = T::SIGNED && SUMS_OF_16_BITS;
        if (!form.wide) {
            form.offset = !T::SIGNED ? T::OFFSET : isa::SIGNED_DOT ? 0 : 128;
            form.halves = SUMS_OF_16_BITS;
        }
        if constexpr (T::KIND == kind::BLOCKS) {
            form.span = form.offset ? 32 : 0;
            form.sum  = T::MIN;
        } else {
            form.span      = form.offset ? T::SPAN : 0;
            form.pair_sums = T::MIN;
        }
        return form;
    }
}

} // namespace rows

#endif
