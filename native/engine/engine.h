// One speculation engine: a target context, a drafter, a budget, and what they did so far.
#pragma once

#include "budget.h"
#include "draft-tree.h"
#include "drafter.h"
#include "llama-dflash.h"
#include "synthetic.h"

#include <array>
#include <string>

// Seconds per phase of the round that is running.
class phase_clock {
public:
    void   start();
    void   end_phase(llama_dflash_phase phase); // everything since the last call belongs to `phase`
    double total() const;

    std::array<double, LLAMA_DFLASH_PHASE_COUNT> seconds{};

private:
    int64_t begun = 0; // microseconds
    int64_t last  = 0;
};

struct round_request {
    llama_sampler         * sampler;
    bool                    greedy;
    llama_token             root;
    llama_pos               n_past;
    int32_t                 n_max;
    llama_dflash_on_token   on_token;
    void                  * user_data;
};

enum class round_status { done, no_room, abandoned };

struct llama_dflash {
    llama_dflash(llama_context * target, const std::string & path, const llama_dflash_params & params);
    ~llama_dflash();

    round_status round(const round_request & request);

    llama_context     * target;
    llama_dflash_params params;
    bool                device_outputs; // rows of logits stay where they are computed
    drafter             draft;
    auto_budget         budget;
    synthetic_acceptance synthetic;
    llama_dflash_stats  stats{};
    bool                trees; // the target's memory can hold a tree

    // the last round
    draft_tree               tree;
    std::vector<int32_t>     path;   // nodes on the accepted path, the root first
    std::vector<llama_token> tokens; // sampled at the nodes of the path

private:
    bool         draft_tree_for(const round_request & request);
    draft_tree   grow_tree(llama_token root, int32_t n_positions, int32_t n_nodes, bool chain);
    int32_t      most_nodes(const round_request & request) const;
    bool         is_plain(const round_request & request) const;
    round_status verify(const round_request & request);
    bool         accept(const round_request & request);
    llama_token  best_at(int32_t node) const;
    llama_token  sample_at(const round_request & request, int32_t node) const;
    void         commit(const round_request & request);
    void         abandon(const round_request & request);
    void         record(bool drafted);

    phase_clock clock;
    bool        pending = false; // the round's nodes wait in the target's memory to be committed or discarded
};
