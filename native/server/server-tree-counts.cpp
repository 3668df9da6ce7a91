#include "server-tree-counts.h"

#include <algorithm>
#include <ostream>
#include <string>

void server_tree_counts::add_round(uint64_t n_nodes, uint64_t n_tokens) {
    rounds   += 1;
    nodes    += n_nodes;
    accepted += n_tokens - 1;
    tokens   += n_tokens;
    lengths.resize(std::max<size_t>(lengths.size(), n_tokens));
    lengths[n_tokens - 1] += 1;
}

void server_tree_counts::add(const server_tree_counts & other) {
    rounds   += other.rounds;
    nodes    += other.nodes;
    accepted += other.accepted;
    tokens   += other.tokens;
    lengths.resize(std::max(lengths.size(), other.lengths.size()));
    for (size_t i = 0; i < other.lengths.size(); ++i) {
        lengths[i] += other.lengths[i];
    }
}

// upper bounds of the histogram's buckets, in tokens of a round
static constexpr uint64_t bounds[] = { 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32 };

static uint64_t rounds_up_to(const std::vector<uint64_t> & lengths, uint64_t n_tokens) {
    uint64_t n = 0;
    for (size_t i = 0; i < std::min<size_t>(lengths.size(), n_tokens); ++i) {
        n += lengths[i];
    }
    return n;
}

void server_tree_counts::write_metrics(std::ostream & out) const {
    const auto begin = [&](const std::string & name, const char * type, const char * help) {
        out << "# HELP llamacpp:" << name << " " << help << "\n# TYPE llamacpp:" << name << " " << type << "\n";
    };
    const auto counter = [&](const std::string & name, uint64_t value, const char * help) {
        begin(name, "counter", help);
        out << "llamacpp:" << name << " " << value << "\n";
    };
    counter("tree_rounds_total",   rounds,   "Trees: slots' rounds, each a forward pass that they share");
    counter("tree_nodes_total",    nodes,    "Trees: draft nodes verified");
    counter("tree_accepted_total", accepted, "Trees: draft nodes accepted");
    counter("tree_tokens_total",   tokens,   "Trees: tokens sampled in rounds");

    const std::string histogram = "tree_acceptance_length";
    begin(histogram, "histogram", "Trees: tokens that a round gave");
    for (const uint64_t bound : bounds) {
        out << "llamacpp:" << histogram << "_bucket{le=\"" << bound << "\"} " << rounds_up_to(lengths, bound) << "\n";
    }
    out << "llamacpp:" << histogram << "_bucket{le=\"+Inf\"} " << rounds << "\n";
    // An empty list of labels: upstream's tests take a name without one for a metric with a type of its own.
    out << "llamacpp:" << histogram << "_sum{} "   << tokens << "\n";
    out << "llamacpp:" << histogram << "_count{} " << rounds << "\n";
}
