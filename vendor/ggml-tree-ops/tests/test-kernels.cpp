// Checks of the kernels of cpu/rows for the instruction set that they are compiled for, without ggml's libraries: so that they
// can be compiled for another processor and run in an emulator.
//
//   c++ -std=c++17 -O2 FLAGS test-kernels.cpp and all of cpu/rows but buffer.cpp and product.cpp
//   test-kernels    for each type: its name and a hash of products, equal on all processors; or what is wrong, and exit status 1
#include "../cpu/rows/form.h"
#include "../cpu/rows/kernels.h"
#include "../cpu/rows/reference.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

// what is needed of ggml's libraries
extern "C" float ggml_fp16_to_fp32(ggml_fp16_t h) {
    const int   exponent = h >> 10 & 31, mantissa = h & 1023;
    const float x = exponent ? ldexpf((float) (1024 + mantissa), exponent - 25) : ldexpf((float) mantissa, -24);
    return h >> 15 ? -x : x;
}

static const std::vector<std::pair<ggml_type, std::string>> TYPES = {
    {GGML_TYPE_Q8_0, "q8_0"}, {GGML_TYPE_Q4_0, "q4_0"}, {GGML_TYPE_Q4_1, "q4_1"}, {GGML_TYPE_Q5_0, "q5_0"}, {GGML_TYPE_Q5_1, "q5_1"},
    {GGML_TYPE_IQ4_NL, "iq4_nl"}, {GGML_TYPE_MXFP4, "mxfp4"}, {GGML_TYPE_Q4_K, "q4_K"}, {GGML_TYPE_Q5_K, "q5_K"}, {GGML_TYPE_Q6_K, "q6_K"},
    {GGML_TYPE_IQ4_XS, "iq4_xs"}, {GGML_TYPE_F16, "f16"}, {GGML_TYPE_BF16, "bf16"}, {GGML_TYPE_F32, "f32"}};

static constexpr int K = 512;

static std::mt19937 random_bits(7);

static uint16_t some_half() { return (uint16_t) ((random_bits() & 1) << 15 | (8 + random_bits() % 8) << 10 | (random_bits() & 1023)); }

// A group of random weights, its quants and then its scales. Floating point numbers in it are of usual sizes.
static std::vector<uint8_t> some_group(ggml_type type, const rows::form & f) {
    std::vector<uint8_t> group(K/f.block*(f.quant_bytes() + f.scale_bytes()));
    for (uint8_t & b : group) {
        b = (uint8_t) random_bits();
    }
    uint8_t * scales = group.data() + K/f.block*f.quant_bytes();
    for (int b = 0; b < K/f.block; ++b, scales += f.scale_bytes()) {
        for (int i = 0; f.n_scales > 0 && i < 16*f.scales[0].count; ++i) {
            const uint16_t half = some_half();
            f.scales[0].size == 2 ? (void) memcpy(scales + 2*i, &half, 2) : (void) (scales[i] = (uint8_t) (118 + random_bits() % 12));
        }
    }
    for (int i = 0; type == GGML_TYPE_F16 && i < 16*K; ++i) {
        const uint16_t half = some_half();
        memcpy(group.data() + 2*i, &half, 2);
    }
    for (int i = 0; (type == GGML_TYPE_F32 || type == GGML_TYPE_BF16) && i < 16*K; ++i) {
        const float    x = (float) (int) random_bits()/(1u << 31);
        const int      size = type == GGML_TYPE_F32 ? 4 : 2;
        memcpy(group.data() + size*i, (const char *) &x + 4 - size, size);
    }
    return group;
}

static std::vector<int32_t> tile_of(const rows::activation_form & a, const std::vector<float> & x, int n_rows) {
    std::vector<int32_t> tile(a.words()*(K/a.block)*n_rows);
    for (int n = 0; n < n_rows; ++n) {
        for (int b = 0; b < K/a.block; ++b) {
            rows::quantise_block(a, x.data() + n*K + b*a.block, tile.data() + b*a.words()*n_rows, n, n_rows);
        }
    }
    return tile;
}

static bool check(ggml_type type, const std::string & name) {
    const rows::form &   f = *rows::form_of(type);
    const rows::kernel * k = rows::kernel_of(type);
    if (!k) {
        printf("%s has no kernel in this build\n", name.c_str());
        return false;
    }
    const std::vector<uint8_t> group  = some_group(type, f);
    const uint8_t *            scales = group.data() + K/f.block*f.quant_bytes();
    std::vector<float>         x(rows::MAX_TILE*K);
    for (float & v : x) {
        v = (float) (int) random_bits()/(1u << 30);
    }
    uint64_t hash = 14695981039346656037ull;
    for (int n = 1; n <= k->max_tile; ++n) {
        const std::vector<int32_t> tile = tile_of(k->activations, x, n);
        float                      found[rows::MAX_TILE][16], right[rows::MAX_TILE][16], *out[rows::MAX_TILE], *twin[rows::MAX_TILE];
        for (int i = 0; i < n; ++i) {
            out[i]  = found[i];
            twin[i] = right[i];
        }
        k->product[n](group.data(), scales, K/f.block, tile.data(), out, {});
        rows::reference_product(type, k->activations, group.data(), scales, K/f.block, tile.data(), n, twin);
        for (int i = 0; i < n; ++i) {
            for (int r = 0; r < 16; ++r) {
                if (memcmp(&found[i][r], &right[i][r], 4) != 0) {
                    printf("%s: row %d of %d, weight row %d: %.9g instead of %.9g\n", name.c_str(), i, n, r, found[i][r], right[i][r]);
                    return false;
                }
                uint32_t bits;
                memcpy(&bits, &found[i][r], 4);
                hash = n == 3 ? (hash ^ bits)*1099511628211ull : hash;
            }
        }
    }
    printf("%s %016llx\n", name.c_str(), (unsigned long long) hash);
    return true;
}

int main() {
    fprintf(stderr, "%s\n", rows::instruction_set());
    bool ok = true;
    for (const auto & [type, name] : TYPES) {
        ok &= check(type, name);
    }
    return ok ? 0 : 1;
}
