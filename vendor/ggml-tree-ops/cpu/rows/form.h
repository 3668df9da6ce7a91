// The form in which weights wait for products of few rows of activations: 16 weight rows side by side.
//
// A *group* is 16 rows. Its quants come first, block after block, then its scales, block after block:
//     quants[n_blocks][words][16 rows][4 bytes], scales[n_blocks][…][16 rows]
// so that one 64-byte load (two of 32 bytes) brings four values of 16 rows, and the scales of 16 rows are one load too. Every
// byte of the file's blocks is kept as it is: only their order changes (and that of Q5_0's and Q5_1's fifth bits), so a
// tensor takes as much memory as in the file, and comes back exactly. Rows after the last one are zero.
#pragma once

#include "ggml.h"

#include <cstddef>
#include <cstdint>

namespace rows {

constexpr int GROUP = 16; // weight rows side by side

// `count` elements of `size` bytes, `offset` bytes into a file's block, each put beside the other rows' element.
struct segment {
    int  offset, size, count;
    bool fifth_bits = false; // a word of 32 bits, bit k for value k: bit k moves to bit k/4 of byte k%4
};

struct form {
    int            block;       // values in a block: 32 or 256
    int            block_bytes; // of one row in the file
    int            n_quants, n_scales;
    const segment *quants, *scales;

    size_t quant_bytes() const { return bytes(quants, n_quants); } // of 16 rows of a block
    size_t scale_bytes() const { return bytes(scales, n_scales); }

private:
    static size_t bytes(const segment * s, int n) {
        size_t sum = 0;
        for (int i = 0; i < n; ++i) {
            sum += (size_t) GROUP * s[i].size * s[i].count;
        }
        return sum;
    }
};

// The form of a type, or null if there is none.
const form * form_of(ggml_type type);

// Where things are in a tensor of rows of n_blocks blocks.
struct layout {
    const form * f;
    int64_t      n_blocks;

    size_t          group_bytes() const { return n_blocks * (size_t) GROUP * f->block_bytes; }
    const uint8_t * quants(const void * data, int64_t group) const { return (const uint8_t *) data + group * group_bytes(); }
    const uint8_t * scales(const void * data, int64_t group) const {
        return quants(data, group) + n_blocks * f->quant_bytes();
    }
};

// Rows of the file (`n_rows` of them, at most 16, row_bytes apart) into a group, and back.
void pack(const layout & where, void * group, const void * file_rows, size_t row_bytes, int n_rows);
void unpack(const layout & where, const void * group, void * file_rows, size_t row_bytes, int n_rows);

} // namespace rows
