// Numbers of rounds with draft trees, of a request or of all.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <vector>

struct server_tree_counts {
    uint64_t rounds   = 0; // forward passes over trees
    uint64_t nodes    = 0; // verified beside the roots
    uint64_t accepted = 0; // of these, on accepted paths
    uint64_t tokens   = 0; // sampled

    std::vector<uint64_t> lengths; // [i]: rounds that gave i + 1 tokens

    double acceptance_length() const { return rounds > 0 ? (double) tokens/rounds : 0.0; }

    void add_round(uint64_t n_nodes, uint64_t n_tokens);
    void add(const server_tree_counts & other);

    // As counters and a histogram of Prometheus.
    void write_metrics(std::ostream & out) const;
};
