// One speculation engine: a target context, a drafter, a budget, and what they did so far.
#pragma once

#include "budget.h"
#include "tree/draft-tree.h"
#include "dflash/dflash-drafter.h"
#include "drafter-health.h"
#include "llama-dflash.h"
#include "synthetic.h"

#include <array>
#include <string>

// Seconds per phase of the round that is running.
class phase_clock {
public:
    void   start();
    void   resume();                            // the time since the last call belongs to none: the caller's
    void   end_phase(llama_dflash_phase phase); // everything since the last call belongs to `phase`
    double total() const;

    std::array<double, LLAMA_DFLASH_PHASE_COUNT> seconds{};

private:
    int64_t last = 0; // microseconds
};

struct round_request {
    llama_token root;
    llama_pos   n_past;
    int32_t     n_max;
};

enum class round_status { done, no_room, aborted };

struct sampled_token {
    llama_token token;
    int32_t     node;  // that it was sampled at
    int32_t     child; // that carries it, where the next one is sampled; -1: the round is over
};

struct llama_dflash {
    llama_dflash(llama_context * target, const std::string & path, const llama_dflash_params & params);
    ~llama_dflash();

    round_status  start(const round_request & request);
    sampled_token next(llama_sampler * sampler, bool greedy);
    int32_t       settle(); // returns how many positions are in memory

    // The target's last decode was of these rows. A drafter that fails at it rests.
    void observe(llama_pos pos, const int32_t * rows, int32_t n_rows, int32_t n_after);

    void drafter_failed(const std::exception & error);

    llama_dflash_stats stats_so_far(bool with_round) const;
    bool               is_walking() const { return node >= 0; }

    llama_context     * target;
    llama_dflash_params params;
    bool                device_outputs; // rows of logits stay where they are computed
    drafter             draft;
    auto_budget         budget;
    synthetic_acceptance synthetic;
    llama_dflash_stats  stats{};
    bool                trees; // the target's memory can hold a tree

    drafter_health      health;

    // the round that is going on, or the last one
    draft_tree               tree;
    std::vector<int32_t>     path;   // nodes on the accepted path, the root first
    std::vector<llama_token> tokens; // sampled at the nodes of the path

private:
    bool         draft_tree_for(const round_request & request);
    bool         grow_drafted_tree(const round_request & request);
    draft_tree   grow_tree(llama_token root, int32_t n_positions, int32_t n_nodes, bool chain);
    int32_t      most_nodes(const round_request & request) const;
    round_status verify();
    llama_token  best_at(int32_t node) const;
    llama_token  sample_at(llama_sampler * sampler, bool greedy) const;
    llama_token  choose_at(llama_sampler * sampler, bool greedy) const;
    bool         is_last(llama_token token) const;
    void         finish(bool early);
    void         commit();
    void         abandon();
    void         record(bool early);

    phase_clock clock;
    llama_pos   n_past  = 0;     // of the round
    int32_t     n_max   = 0;     // tokens it may have
    int32_t     node    = -1;    // where the next token is sampled; -1: no round is going on
    bool        drafted = false; // its tree is of the drafter
    bool        pending = false; // its nodes wait in the target's memory to be committed or discarded
};
