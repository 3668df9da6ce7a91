// How many nodes a round verifies: expected tokens per second from measured costs (cost-aware budgets: CaDDTree,
// arXiv 2606.01813), and when to leave speculation alone.
#pragma once

#include "tree/best-nodes.h"

#include <cstdint>
#include <map>

// A running mean that follows changes: the first samples count fully, later ones with a fixed weight.
class running_mean {
public:
    // May start from an expectation that weighs as much as `count` samples.
    explicit running_mean(double weight, double value = 0.0, int count = 0) : weight(weight), value(value), count(count) {}

    void add(double x);

    // A duration. One far above the mean (an interrupted forward, or a size's first one, which allocates) counts as a
    // little above it, so that it is soon forgotten.
    void add_seconds(double x);

    double get()     const { return value; }
    int    samples() const { return count; }

private:
    double weight;
    double value;
    int    count;
};

// Seconds of one target forward over n nodes (the root included), learned from the rounds themselves.
class forward_cost {
public:
    void   add(int32_t n_nodes, double seconds);
    double estimate(int32_t n_nodes) const;

private:
    std::map<int32_t, running_mean> means;
};

class auto_budget {
public:
    // on_device: forwards are graphs that a device replays as long as they are of as many nodes and positions as before.
    explicit auto_budget(bool on_device = false) : on_device(on_device) {}

    // Should the next round draft at all?
    bool wants_draft();

    // How many positions to draft, at most n_max: about as deep as the trees that were chosen lately; on a device all.
    int32_t positions(int32_t n_max) const;

    // How many nodes of the trees beside their roots to verify: the most probable ones, as many as promise the most tokens
    // per second, given that the drafts took draft_seconds. 0 if the roots alone are best.
    int32_t choose(const std::vector<draft_tree *> & trees, double draft_seconds);

    // What a round of so many lanes cost. `trees` is what was verified.
    void record_plain(int32_t n_lanes, double verify_seconds, double total_seconds);
    void record_draft(const std::vector<draft_tree *> & trees, int32_t n_tokens, double verify_seconds, double total_seconds);

private:
    bool on_device;

    void pause();
    void adjust_reach(const std::vector<draft_tree *> & trees);

    forward_cost verify;
    running_mean plain      {0.2}; // seconds of a round without drafts
    running_mean draft      {0.2}; // seconds of a draft
    running_mean overhead   {0.2}; // of a drafted round: everything that is neither draft nor verify
    running_mean calibration{0.05, 1.0, 10}; // accepted nodes per node expected to be accepted

    running_mean promise    {0.15}; // expected speed of the chosen trees, in units of plain decoding

    // since speculation was last resumed
    running_mean tokens {0.05}; // per drafted round
    running_mean seconds{0.05}; // of a drafted round

    int32_t reach        = 7;  // positions to draft
    int32_t unreached    = 0;  // trees in a row that were not that deep
    int32_t plain_left   = 2;  // rounds until the next draft; the first ones ever are plain, to learn their cost
    int32_t trial_left   = 4;  // rounds until what drafts promise is judged
    int32_t plain_streak = 16; // how many plain rounds follow the next time that speculation loses
    int32_t since_plain  = 0;  // drafted rounds since the last plain one
};
