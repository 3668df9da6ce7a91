// The registers of each instruction set, with the few operations that the kernels are made of. S registers hold 16 rows: a
// *lane* of 32 bits is a row, with four int8, two int16, one int32 or one float of it.
//
// Which one is compiled in is what -march (GGML_NATIVE, GGML_AVX2, …) allows, as everywhere in ggml-cpu.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VNNI__)
#    define ROWS_AVX512 1
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#    define ROWS_AVX2 1
#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD) && defined(__GNUC__)
#    define ROWS_NEON 1
#endif

#if defined(ROWS_AVX512) || defined(ROWS_AVX2) || defined(ROWS_NEON)
#    define ROWS_SIMD 1
#    if defined(ROWS_NEON)
#        include <arm_neon.h>
#    else
#        include <immintrin.h>
#    endif

namespace rows {

#    define ROWS_INLINE static inline __attribute__((always_inline))

// Keeps a sum in a register and its additions in the order in which they are written: gcc would else compute all products
// of a block first, and spill them.
#    if defined(ROWS_NEON)
#        define ROWS_KEEP(x) asm("" : "+w"(x))
#    elif defined(ROWS_AVX512)
#        define ROWS_KEEP(x) asm("" : "+v"(x))
#    else
#        define ROWS_KEEP(x) asm("" : "+x"(x))
#    endif

// Puts byte i of each 32-bit lane where `pattern` says: a table of shuffles for rows 0 to 3 of a 128-bit part; the parts that
// follow take the next four rows of the same 16 bytes.
enum class place : uint32_t {
    BYTE     = 0x80808000, // zero extended to 32 bits
    BOTH     = 0x80008000, // in both 16-bit halves, zero extended
    LOW_HALF = 0x80808000,
    HIGH_HALF = 0x80008080,
    TOP_BYTES = 0x00800080, // in the upper byte of both halves: shifted right by 8 it is sign extended
};

#    if defined(ROWS_AVX512)

struct isa {
    using ints   = __m512i;
    using floats = __m512;
    static constexpr int  S    = 1;
    static constexpr bool VNNI = true;         // dot() adds up in 32 bits
    static constexpr bool SIGNED_DOT = false;  // of its first factor
    static constexpr const char * NAME = "AVX-512 VNNI";

    ROWS_INLINE ints zero() { return _mm512_setzero_si512(); }
    ROWS_INLINE ints load(const void * p) { return _mm512_loadu_si512(p); }
    ROWS_INLINE ints broadcast(int32_t x) { return _mm512_set1_epi32(x); }
    ROWS_INLINE ints bytes(int8_t x) { return _mm512_set1_epi8(x); }
    ROWS_INLINE ints sixteen_bytes(const void * p) { return _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *) p)); }
    ROWS_INLINE ints bit_and(ints a, ints b) { return _mm512_and_si512(a, b); }
    ROWS_INLINE ints bit_or(ints a, ints b) { return _mm512_or_si512(a, b); }
    ROWS_INLINE ints bit_xor(ints a, ints b) { return _mm512_xor_si512(a, b); }
    template <int N> ROWS_INLINE ints right16(ints a) { return _mm512_srli_epi16(a, N); }
    template <int N> ROWS_INLINE ints left16(ints a) { return _mm512_slli_epi16(a, N); }
    template <int N> ROWS_INLINE ints left32(ints a) { return _mm512_slli_epi32(a, N); }
    ROWS_INLINE ints signed_right16_by_8(ints a) { return _mm512_srai_epi16(a, 8); }
    ROWS_INLINE ints shuffle(ints table, ints index) { return _mm512_shuffle_epi8(table, index); }
    ROWS_INLINE ints add32(ints a, ints b) { return _mm512_add_epi32(a, b); }
    ROWS_INLINE ints multiply32(ints a, ints b) { return _mm512_mullo_epi32(a, b); }
    ROWS_INLINE ints add_pairs16(ints a, ints b) { return _mm512_madd_epi16(a, b); }
    ROWS_INLINE ints dot(ints sum, ints u8, ints s8) { return _mm512_dpbusd_epi32(sum, u8, s8); }

    // the lower 16 bits of a's lanes, the upper 16 bits of b's
    ROWS_INLINE ints low_high16(ints a, ints b) { return _mm512_mask_mov_epi16(a, 0xAAAAAAAA, b); }

    ROWS_INLINE ints placed(place where, int) {
        const __m128i four = _mm_setr_epi32(0, 0x01010101, 0x02020202, 0x03030303);
        const ints    rows = _mm512_add_epi32(_mm512_broadcast_i32x4(four),
                                              _mm512_setr_epi32(0, 0, 0, 0, 0x04040404, 0x04040404, 0x04040404, 0x04040404,
                                                                0x08080808, 0x08080808, 0x08080808, 0x08080808,
                                                                0x0c0c0c0c, 0x0c0c0c0c, 0x0c0c0c0c, 0x0c0c0c0c));
        return _mm512_or_si512(rows, _mm512_set1_epi32((int) where));
    }

    ROWS_INLINE floats zero_floats() { return _mm512_setzero_ps(); }
    ROWS_INLINE floats broadcast(float x) { return _mm512_set1_ps(x); }
    ROWS_INLINE floats to_floats(ints a) { return _mm512_cvtepi32_ps(a); }
    ROWS_INLINE floats as_floats(ints a) { return _mm512_castsi512_ps(a); }
    ROWS_INLINE floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
    ROWS_INLINE floats multiply(floats a, floats b) { return _mm512_mul_ps(a, b); }
    ROWS_INLINE floats multiply_add(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
    ROWS_INLINE floats multiply_subtract(floats a, floats b, floats c) { return _mm512_fnmadd_ps(a, b, c); }
    ROWS_INLINE floats load_floats(const void * p) { return _mm512_loadu_ps(p); }
    ROWS_INLINE floats load_halves(const void * p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
    ROWS_INLINE ints   load_uint16(const void * p) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *) p)); }
    ROWS_INLINE ints   load_uint8(const void * p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *) p)); }
    ROWS_INLINE void   store(float * p, floats a) { _mm512_storeu_ps(p, a); }
};

#    elif defined(ROWS_NEON)

struct isa {
    using ints   = int32x4_t;
    using floats = float32x4_t;
    static constexpr int  S    = 4;
    static constexpr bool VNNI = true;
    static constexpr bool SIGNED_DOT = true; // unsigned quants are below 128, so they are int8 too
    static constexpr const char * NAME = "NEON dotprod";

    ROWS_INLINE uint8x16_t as_bytes(ints a) { return vreinterpretq_u8_s32(a); }
    ROWS_INLINE uint16x8_t as_words(ints a) { return vreinterpretq_u16_s32(a); }
    ROWS_INLINE ints       of_bytes(uint8x16_t a) { return vreinterpretq_s32_u8(a); }
    ROWS_INLINE ints       of_words(uint16x8_t a) { return vreinterpretq_s32_u16(a); }

    ROWS_INLINE ints zero() { return vdupq_n_s32(0); }
    ROWS_INLINE ints load(const void * p) { return of_bytes(vld1q_u8((const uint8_t *) p)); }
    ROWS_INLINE ints broadcast(int32_t x) { return vdupq_n_s32(x); }
    ROWS_INLINE ints bytes(int8_t x) { return vreinterpretq_s32_s8(vdupq_n_s8(x)); }
    ROWS_INLINE ints sixteen_bytes(const void * p) { return load(p); }
    ROWS_INLINE ints bit_and(ints a, ints b) { return vandq_s32(a, b); }
    ROWS_INLINE ints bit_or(ints a, ints b) { return vorrq_s32(a, b); }
    ROWS_INLINE ints bit_xor(ints a, ints b) { return veorq_s32(a, b); }
    template <int N> ROWS_INLINE ints right16(ints a) {
        if constexpr (N == 0) {
            return a;
        } else {
            return of_words(vshrq_n_u16(as_words(a), N));
        }
    }
    template <int N> ROWS_INLINE ints left16(ints a) { return of_words(vshlq_n_u16(as_words(a), N)); }
    template <int N> ROWS_INLINE ints left32(ints a) { return vshlq_n_s32(a, N); }
    ROWS_INLINE ints signed_right16_by_8(ints a) { return vreinterpretq_s32_s16(vshrq_n_s16(vreinterpretq_s16_s32(a), 8)); }
    ROWS_INLINE ints shuffle(ints table, ints index) { return of_bytes(vqtbl1q_u8(as_bytes(table), as_bytes(index))); }
    ROWS_INLINE ints add32(ints a, ints b) { return vaddq_s32(a, b); }
    ROWS_INLINE ints multiply32(ints a, ints b) { return vmulq_s32(a, b); }
    ROWS_INLINE ints add_pairs16(ints a, ints b) {
        const int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
        return vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y));
    }
    ROWS_INLINE ints dot(ints sum, ints a, ints b) { return vdotq_s32(sum, vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b)); }

    // the lower 16 bits of a's lanes, the upper 16 bits of b's
    ROWS_INLINE ints low_high16(ints a, ints b) { return vbslq_s32(vdupq_n_u32(0xffff), a, b); }

    ROWS_INLINE ints placed(place where, int s) { // rows 4*s to 4*s + 3
        const ints rows = {0, 0x01010101, 0x02020202, 0x03030303};
        return vorrq_s32(vaddq_s32(rows, vdupq_n_s32(s * 0x04040404)), vdupq_n_s32((int32_t) where));
    }

    ROWS_INLINE floats zero_floats() { return vdupq_n_f32(0); }
    ROWS_INLINE floats broadcast(float x) { return vdupq_n_f32(x); }
    ROWS_INLINE floats to_floats(ints a) { return vcvtq_f32_s32(a); }
    ROWS_INLINE floats as_floats(ints a) { return vreinterpretq_f32_s32(a); }
    ROWS_INLINE floats add(floats a, floats b) { return vaddq_f32(a, b); }
    ROWS_INLINE floats multiply(floats a, floats b) { return vmulq_f32(a, b); }
    ROWS_INLINE floats multiply_add(floats a, floats b, floats c) { return vfmaq_f32(c, a, b); }
    ROWS_INLINE floats multiply_subtract(floats a, floats b, floats c) { return vfmsq_f32(c, a, b); }
    ROWS_INLINE floats load_floats(const void * p) { return vld1q_f32((const float *) p); }
    ROWS_INLINE floats load_halves(const void * p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t *) p))); }
    ROWS_INLINE ints   load_uint16(const void * p) { return vreinterpretq_s32_u32(vmovl_u16(vld1_u16((const uint16_t *) p))); }
    ROWS_INLINE ints   load_uint8(const void * p) {
        uint32_t four;
        memcpy(&four, p, 4);
        return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))));
    }
    ROWS_INLINE void store(float * p, floats a) { vst1q_f32(p, a); }
};

#    else

struct isa {
    using ints   = __m256i;
    using floats = __m256;
    static constexpr int  S    = 2;
    static constexpr bool SIGNED_DOT = false;
#        if defined(__AVXVNNI__)
    static constexpr bool VNNI = true;
    static constexpr const char * NAME = "AVX-VNNI";
    ROWS_INLINE ints dot(ints sum, ints u8, ints s8) { return _mm256_dpbusd_avx_epi32(sum, u8, s8); }
#        else
    static constexpr bool VNNI = false;
    static constexpr const char * NAME = "AVX2";
    // 16-bit sums of pairs: no pair may exceed 32767
    ROWS_INLINE ints dot(ints sum, ints u8, ints s8) { return _mm256_add_epi16(sum, _mm256_maddubs_epi16(u8, s8)); }
#        endif

    ROWS_INLINE ints zero() { return _mm256_setzero_si256(); }
    ROWS_INLINE ints load(const void * p) { return _mm256_loadu_si256((const __m256i *) p); }
    ROWS_INLINE ints broadcast(int32_t x) { return _mm256_set1_epi32(x); }
    ROWS_INLINE ints bytes(int8_t x) { return _mm256_set1_epi8(x); }
    ROWS_INLINE ints sixteen_bytes(const void * p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) p)); }
    ROWS_INLINE ints bit_and(ints a, ints b) { return _mm256_and_si256(a, b); }
    ROWS_INLINE ints bit_or(ints a, ints b) { return _mm256_or_si256(a, b); }
    ROWS_INLINE ints bit_xor(ints a, ints b) { return _mm256_xor_si256(a, b); }
    template <int N> ROWS_INLINE ints right16(ints a) { return _mm256_srli_epi16(a, N); }
    template <int N> ROWS_INLINE ints left16(ints a) { return _mm256_slli_epi16(a, N); }
    template <int N> ROWS_INLINE ints left32(ints a) { return _mm256_slli_epi32(a, N); }
    ROWS_INLINE ints signed_right16_by_8(ints a) { return _mm256_srai_epi16(a, 8); }
    ROWS_INLINE ints shuffle(ints table, ints index) { return _mm256_shuffle_epi8(table, index); }
    ROWS_INLINE ints add32(ints a, ints b) { return _mm256_add_epi32(a, b); }
    ROWS_INLINE ints multiply32(ints a, ints b) { return _mm256_mullo_epi32(a, b); }
    ROWS_INLINE ints add_pairs16(ints a, ints b) { return _mm256_madd_epi16(a, b); }

    // the lower 16 bits of a's lanes, the upper 16 bits of b's
    ROWS_INLINE ints low_high16(ints a, ints b) { return _mm256_blend_epi16(a, b, 0xAA); }

    ROWS_INLINE ints placed(place where, int s) { // rows 8*s to 8*s + 7
        const ints rows = _mm256_setr_epi32(0, 0x01010101, 0x02020202, 0x03030303, 0x04040404, 0x05050505, 0x06060606, 0x07070707);
        return _mm256_or_si256(_mm256_add_epi32(rows, _mm256_set1_epi32(s * 0x08080808)), _mm256_set1_epi32((int) where));
    }

    ROWS_INLINE floats zero_floats() { return _mm256_setzero_ps(); }
    ROWS_INLINE floats broadcast(float x) { return _mm256_set1_ps(x); }
    ROWS_INLINE floats to_floats(ints a) { return _mm256_cvtepi32_ps(a); }
    ROWS_INLINE floats as_floats(ints a) { return _mm256_castsi256_ps(a); }
    ROWS_INLINE floats add(floats a, floats b) { return _mm256_add_ps(a, b); }
    ROWS_INLINE floats multiply(floats a, floats b) { return _mm256_mul_ps(a, b); }
    ROWS_INLINE floats multiply_add(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
    ROWS_INLINE floats multiply_subtract(floats a, floats b, floats c) { return _mm256_fnmadd_ps(a, b, c); }
    ROWS_INLINE floats load_floats(const void * p) { return _mm256_loadu_ps((const float *) p); }
    ROWS_INLINE floats load_halves(const void * p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)); }
    ROWS_INLINE ints   load_uint16(const void * p) { return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *) p)); }
    ROWS_INLINE ints   load_uint8(const void * p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *) p)); }
    ROWS_INLINE void   store(float * p, floats a) { _mm256_storeu_ps(p, a); }
};

#    endif

constexpr int LANES = 16 / isa::S; // rows in a register

} // namespace rows
#endif
