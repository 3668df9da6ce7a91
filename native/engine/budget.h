// How many nodes a round verifies: expected tokens per second from measured costs (cost-aware budgets: CaDDTree,
// arXiv 2606.01813), and when to leave speculation alone.
#pragma once

#include "tree/best-nodes.h"

#include <cstdint>
#include <iosfwd>
#include <map>
#include <string>
#include <vector>

// A running mean that follows changes: the first samples count fully, later ones with a fixed weight.
class running_mean {
public:
    // May start from an expectation that weighs as much as `count` samples.
    explicit running_mean(double weight, double value = 0.0, int count = 0) : weight(weight), value(value), count(count) {}

    void add(double x);

    // A duration. One far above the mean (an interrupted forward, or a size's first one, which allocates) counts as a
    // little above it, so that it is soon forgotten. Several in a row are believed: others have taken the processors.
    void add_seconds(double x);

    double get()     const { return value; }
    int    samples() const { return count; }

    // As text, to go on from: it weighs as much as a few samples then. load() is false for what is no such text.
    void save(std::ostream & out) const;
    bool load(std::istream & in);

private:
    double weight;
    double value;
    int    count;
    int    n_high = 0; // durations in a row that were far above the mean
};

// Seconds of one target forward over n nodes (the root included), learned from the rounds themselves.
class forward_cost {
public:
    void   add(int32_t n_nodes, double seconds);
    double estimate(int32_t n_nodes) const;

    // of the forwards so far; 0 before the first
    int32_t most_nodes() const { return means.empty() ? 0 : means.rbegin()->first; }

    void save(std::ostream & out) const;
    bool load(std::istream & in);

private:
    std::map<int32_t, running_mean> means;
};

// Several drafters, each a bit.
using drafter_set = uint32_t;

class auto_budget {
public:
    // on_device: forwards are graphs that a device replays as long as they are of as many nodes and positions as before.
    explicit auto_budget(bool on_device = false) : on_device(on_device) {}

    // What it starts from for rounds of more lanes than these, or of fewer: forwards cost what they cost by their nodes, and drafts
    // are worth what they were. Only a plain round is measured anew. Drafts that did not pay for these lanes rest for more lanes
    // too; for fewer, where they pay at least as well, one round shows it.
    auto_budget for_lanes(bool more) const;

    // Should the next round draft with this set? Asked once a round for each set, the best first, until one may: a set whose
    // drafts did not pay rests for as many rounds in which it would have been asked.
    bool wants_draft(drafter_set set = 1);

    // How many positions to draft, at most n_max: about as deep as the trees that were chosen lately; on a device all.
    int32_t positions(int32_t n_max, drafter_set set = 1) const;

    // The most expected tokens per second over all sizes of these trees, in units of plain decoding, given that their drafts
    // took draft_seconds. And what it was lately where this set had drafted; 0 if it never has.
    double expected_speed(const std::vector<draft_tree *> & trees, double draft_seconds) const;
    double usual_speed(drafter_set set) const;

    // How many nodes of the trees beside their roots to verify: the most probable ones, as many as promise the most tokens
    // per second, given that the drafts took draft_seconds. 0 if the roots alone are best.
    int32_t choose(const std::vector<draft_tree *> & trees, double draft_seconds, drafter_set set = 1);

    // What a round of so many lanes cost. `trees` is what was verified.
    void record_plain(int32_t n_lanes, double verify_seconds, double total_seconds);
    void record_draft(const std::vector<draft_tree *> & trees, int32_t n_tokens, double draft_seconds, double verify_seconds,
            double total_seconds, drafter_set set = 1);

    // Tokens per second of a lane, plainly; 0 before any was measured.
    double plain_speed() const { return plain.get() > 0.0 ? 1/plain.get() : 0.0; }

    // Drafts that take so little may be had in every round: one of which no node is chosen counts as plain.
    bool costs_nothing(double draft_seconds) const;

    // In two sentences, what is done and why.
    std::string explain() const;

    // What rounds cost, as one line of text. load() returns false if it is no such text.
    void save(std::ostream & out) const;
    bool load(std::istream & in);

private:
    // What is known of the drafts of one set of drafters.
    struct trial {
        running_mean promise{0.15}; // expected speed of the chosen trees, in units of plain decoding

        // since it was last resumed
        running_mean tokens {0.05}; // of a lane per drafted round
        running_mean seconds{0.05}; // of a drafted round

        int32_t reach        = 7;  // positions to draft
        int32_t unreached    = 0;  // trees in a row that were not that deep
        int32_t plain_left   = 0;  // rounds until the next draft
        int32_t left         = 4;  // rounds until what drafts promise is judged
        int32_t plain_streak = 16; // how many plain rounds follow the next time that speculation loses
    };

    struct size_choice {
        int32_t n_nodes = 0;   // beside the roots
        double  tokens  = 0.0; // expected
        double  rate    = 0.0; // tokens per second
    };

    size_choice best_size(const std::vector<draft_tree *> & trees, double draft_seconds) const;
    void pause(trial & trial);
    void adjust_reach(trial & trial, const std::vector<draft_tree *> & trees);

    bool on_device;

    forward_cost verify;
    running_mean plain      {0.2}; // seconds of a round without drafts
    running_mean overhead   {0.2}; // of a drafted round: everything that is neither draft nor verify
    running_mean calibration{0.05, 1.0, 10}; // accepted nodes per node expected to be accepted

    std::map<drafter_set, trial> trials;

    int32_t since_plain = 0; // drafted rounds since the last plain one

    // for explain()
    drafter_set last_set        = 0; // that was chosen for; 0: none
    int32_t     last_lanes      = 1;
    size_choice last_choice;
    double      last_draft_seconds = 0.0;
};
