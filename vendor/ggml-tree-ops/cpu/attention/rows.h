// What attention of some rows (a row: one head of one query) over a tile of cells is made of. Every number of a row is
// computed from the cells that it sees, one after the other, and does not depend on other rows nor on hidden cells.
#pragma once

#include "lanes.h"

#include <algorithm>

namespace attention {

constexpr int CELLS = 256; // that a query sees in a part
constexpr int TILE  = 32;  // cells whose K or V is converted to floats at once

// n values of a cell, as floats.
static inline void convert(bool half, const char * from, float * to, int64_t n) {
    for (int64_t d = 0; d < n; d += 8) {
        (half ? lanes::load((const ggml_fp16_t *) from + d) : lanes::load((const float *) from + d)).store(to + d);
    }
}

// Products of q with eight cells in a row.
static inline void eight_products(const float * q, const float * cells, int64_t n, float * out) {
    lanes sum[8];
    for (lanes & s : sum) {
        s = lanes::zero();
    }
    for (int64_t d = 0; d < n; d += 8) {
        const lanes x = lanes::load(q + d);
        for (int i = 0; i < 8; ++i) {
            sum[i] = lanes::multiply_add(x, lanes::load(cells + i*n + d), sum[i]);
        }
    }
    lanes::sums(sum).store(out);
}

// sum[d] += p[i]*cells[at[i] - first][d] for i in [from, to), in order; WIDE*8 values of d
template <int WIDE>
static inline void add_columns(const float * p, const int32_t * at, int from, int to, const float * cells, int64_t first, int64_t n, float * sum) {
    lanes acc[WIDE];
    for (int j = 0; j < WIDE; ++j) {
        acc[j] = lanes::load(sum + 8*j);
    }
    for (int i = from; i < to; ++i) {
        const lanes   weight = lanes::all(p[i]);
        const float * cell   = cells + (at[i] - first)*n;
        for (int j = 0; j < WIDE; ++j) {
            acc[j] = lanes::multiply_add(weight, lanes::load(cell + 8*j), acc[j]);
        }
    }
    for (int j = 0; j < WIDE; ++j) {
        acc[j].store(sum + 8*j);
    }
}

static inline void add_cells(const float * p, const int32_t * at, int from, int to, const float * cells, int64_t first, int64_t n, float * sum) {
    int64_t d = 0;
    for (; d + 64 <= n; d += 64) {
        add_columns<8>(p, at, from, to, cells + d, first, n, sum + d);
    }
    for (; d < n; d += 8) {
        add_columns<1>(p, at, from, to, cells + d, first, n, sum + d);
    }
}

// Scores become weights e^(score - largest): the largest and the weights' sum. Room for whole lanes after n is needed.
static inline void weigh(float * scores, int n, float & largest, float & sum) {
    const int whole = (n + 7)/8*8;
    std::fill(scores + n, scores + whole, -INFINITY);
    lanes most = lanes::all(-INFINITY);
    for (int i = 0; i < whole; i += 8) {
        most = lanes::larger(most, lanes::load(scores + i));
    }
    float each[8];
    most.store(each);
    largest = *std::max_element(each, each + 8);
    lanes total[8] = {lanes::zero(), lanes::zero(), lanes::zero(), lanes::zero(), lanes::zero(), lanes::zero(), lanes::zero(), lanes::zero()};
    for (int i = 0; i < whole; i += 8) {
        const lanes w = exponential(lanes::subtract(lanes::load(scores + i), lanes::all(largest)));
        w.store(scores + i);
        total[0] = lanes::add(total[0], w);
    }
    lanes::sums(total).store(each);
    sum = each[0];
}

} // namespace attention
