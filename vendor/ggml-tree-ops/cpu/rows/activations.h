// Rows of activations as the kernels read them. Up to MAX_TILE rows make a *tile*; in it, block after block, the N rows lie
// side by side in 32-bit words, so that one word is broadcast to all weight rows:
//     quants[words][N], corrections[…][N], pair sums[…][N], d[N], sum[N]
// Blocks are those of the weights' type (32 or 256 values), with one scale: d = (largest absolute value)/127.
#pragma once

#include <cstdint>

namespace rows {

constexpr int MAX_TILE = 8;

struct activation_form {
    bool floats    = false; // values as they are, no scale
    bool wide      = false; // int16: words (0, 2), (1, 3) of every four values; else int8, four in a word
    int  block     = 32;
    int  offset    = 0;     // the weights' unsigned quants are their values + offset: the correction takes it out again
    int  span      = 0;     // values that share a correction word; 0: none
    bool halves    = false; // corrections are two int16, for 16-bit sums of the values (0, 1) and (2, 3) of every four
    bool pair_sums = false; // sums of 32 values, two int16 in a word
    bool sum       = false; // d times the sum of the block's quants, as a float

    constexpr int quant_words() const { return floats ? block : wide ? block/2 : block/4; }
    constexpr int corrections() const { return span ? block/span : 0; }
    constexpr int pairs() const { return pair_sums ? block/64 : 0; }
    constexpr int words() const { return floats ? block : quant_words() + corrections() + pairs() + 1 + (sum ? 1 : 0); }
};

// One block of row n of a tile of N. x: block values, tile: the block's words()*N words.
void quantise_block(const activation_form & form, const float * x, int32_t * tile, int n, int N);

} // namespace rows
