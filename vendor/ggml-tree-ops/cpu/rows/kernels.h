// Products of a group of 16 weight rows with a tile of rows of activations.
//
// Every result is one sum over the blocks of k in order, and within a block an integer (or, for floating point weights, a sum
// in order of k): it does not depend on the number of rows in the tile.
#pragma once

#include "activations.h"
#include "form.h"

#include <cstddef>
#include <cstdint>

namespace rows {

// What is fetched into the cache meanwhile: `bytes` from `from` on, evenly over the blocks.
struct prefetch {
    const uint8_t * from  = nullptr;
    size_t          bytes = 0;
};

// out[n]: 16 results of row n of the tile
using tile_product = void (*)(const uint8_t * quants, const uint8_t * scales, int64_t n_blocks, const int32_t * tile,
                              float * const * out, prefetch ahead);

struct kernel {
    activation_form activations;
    int             max_tile;              // rows of activations that are best computed together
    tile_product    product[MAX_TILE + 1]; // by rows of activations, 1 to max_tile
};

// The kernel of a type, or null where there is none for it in this build.
const kernel * kernel_of(ggml_type type);

// Its parts, a file each.
const kernel * kernel_of_floats(ggml_type type);
const kernel * kernel_of_blocks(ggml_type type);
const kernel * kernel_of_super_blocks(ggml_type type);

// "AVX2", …, or "none"
const char * instruction_set();

} // namespace rows
