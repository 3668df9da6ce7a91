// The plain twin of the kernels: the same sums over the same form, one value at a time. What the tests compare with.
#pragma once

#include "kernels.h"

namespace rows {

// As tile_product for a tile of n rows. Equals the kernels of every instruction set bit for bit.
void reference_product(ggml_type type, const activation_form & a_form, const uint8_t * quants, const uint8_t * scales, int64_t n_blocks,
                       const int32_t * tile, int n_rows, float * const * out);

} // namespace rows
