#include "match-trust.h"

#include <algorithm>

// matches of these many tokens and more
static constexpr int32_t lengths[] = { 1, 2, 3, 4, 5, 6, 8, 11, 16, 24 };

// What is believed before anything was seen, by kind, rank and length.
static constexpr double prior[match_trust::n_kinds][2][10] = {
    { { 0.25, 0.42, 0.55, 0.65, 0.70, 0.74, 0.80, 0.80, 0.88, 0.92 },
      { 0.10, 0.12, 0.15, 0.15, 0.15, 0.15, 0.15, 0.15, 0.15, 0.15 } },
    { { 0.40, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.88, 0.92 },
      { 0.20, 0.20, 0.20, 0.20, 0.20, 0.20, 0.20, 0.20, 0.20, 0.20 } },
};

static constexpr double prior_weight = 4.0;  // tokens that the prior counts as
static constexpr double memory       = 40.0; // tokens after which what was seen counts 1/e

match_trust::match_trust() {
    for (int32_t k = 0; k < n_kinds; ++k) {
        for (int32_t r = 0; r < n_ranks; ++r) {
            for (int32_t b = 0; b < n_lengths; ++b) {
                cells[(k*n_ranks + r)*n_lengths + b] = { prior[k][r][b], prior_weight };
            }
        }
    }
}

int32_t match_trust::bucket(int32_t length) {
    return (int32_t) (std::upper_bound(std::begin(lengths), std::end(lengths), std::max(length, 1)) - std::begin(lengths)) - 1;
}

const match_trust::running_chance & match_trust::cell(kind of, int32_t length, int32_t rank) const {
    return cells[(of*n_ranks + std::min(rank, n_ranks - 1))*n_lengths + bucket(length)];
}

void match_trust::learn(kind of, int32_t length, int32_t rank, bool hit) {
    running_chance & c = cells[&cell(of, length, rank) - cells.data()];
    c.weight = std::min(c.weight + 1.0, memory);
    c.chance += ((hit ? 1.0 : 0.0) - c.chance)/c.weight;
}
