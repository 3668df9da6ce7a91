// The speculation engine: a target's context, drafters, lanes, a budget, and what they did so far.
#pragma once

#include "drafting.h"
#include "lane.h"
#include "llama-dflash.h"
#include "phase-clock.h"
#include "synthetic.h"
#include "verification.h"

#include <map>
#include <memory>
#include <string>
#include <vector>

class speculation {
public:
    // The drafters' lanes are 0 to params.n_lanes - 1, sequences of the target.
    speculation(llama_context * target, std::vector<std::unique_ptr<drafter>> drafters, const llama_dflash_params & params);
    ~speculation();

    speculation(const speculation &) = delete;

    // A round of these lanes, up to where tokens can be sampled: draft a tree for each, and let the target look at all of
    // them at once. What follows is next(), token by token and lane by lane. Walks of the round before are settled.
    round_status start(const std::vector<round_request> & requests);

    // The target's own choice at the node where the lane's walk is. The walk goes on as long as the tree holds these choices;
    // at its end what was accepted is in the target's memory, and nothing else of this lane.
    sampled_token next(int32_t lane, llama_sampler * sampler, llama_dflash_choice choice);

    // next() in steps, for who samples otherwise: the row of the node where the walk is; the token that is decided there without
    // the rest of the row (sampling.h); and: it was this token.
    int32_t       row(int32_t lane);
    llama_token   decided(int32_t lane, llama_sampler * sampler, llama_dflash_choice choice);
    sampled_token sampled(int32_t lane, llama_token token);

    // Ends the lane's walk where it is, if there is one: the path so far, at least the root, is kept, other nodes go.
    // Returns how many positions of the lane are in memory after its last round.
    int32_t settle(int32_t lane);

    // Throws std::out_of_range with a sentence.
    lane &       lane_of(int32_t id);
    const lane & lane_of(int32_t id) const { return const_cast<speculation *>(this)->lane_of(id); }

    // Numbers of the lane's rounds since the last reset, the one that goes on included.
    llama_dflash_stats stats_of(int32_t lane) const;
    void               reset_stats(int32_t lane);

    drafting             drafts;
    synthetic_acceptance synthetic{0.0f};

    const bool trees; // the target's memory can hold trees

    // In two sentences, what "auto" does and why.
    std::string explain() const;

    // What was learned: costs of rounds, and what the drafters' probabilities are worth. As text, a line each. learn_from()
    // throws std::invalid_argument, and changes nothing that matters, if it is not of the same kinds of drafters.
    std::string learned() const;
    void        learn_from(const std::string & text);

    // What params ask for, of any target: nodes of a tree beside its root, at most; rows of logits that stay where they are
    // computed.
    static int32_t most_nodes(const llama_dflash_params & params);
    static bool    keeps_outputs_on_device(const llama_context * target, const llama_dflash_params & params);

private:
    void          begin(const std::vector<round_request> & requests);
    void          propose();
    void          choose();
    auto_budget & budget();
    bool          is_auto() const { return params.budget == 0; }
    int32_t       room_beside_root(const lane & lane) const;
    int32_t       enter(lane & lane);
    llama_token   taken(const lane & lane, int32_t node, llama_token token) const;
    void          want(llama_dflash_choice choice);
    void          fetch(int32_t n);
    bool          is_last(const lane & lane, llama_token token) const;
    void          finish(lane & lane, bool early);
    void          learn(const lane & lane);
    void          learn_of_round();
    void          add_counts(const lane & lane, llama_dflash_stats & sum) const;
    void          add_seconds(llama_dflash_stats & sum) const;

    llama_context           * target;
    const llama_dflash_params params;
    const bool                device_outputs;
    int32_t                   n_top    = 0; // entries of every row of logits that come to the host; 0: whole rows
    int32_t                   n_wanted = 0; // from the next round on
    std::vector<lane>         lanes;

    std::map<size_t, auto_budget> budgets; // by the number of lanes in a round

    // the round that is going on, or the last one
    std::vector<lane *> round;
    phase_clock         clock;
    drafter_set         drafted   = 0;     // whose drafts its trees are of
    bool                cut_short = false; // a walk of it was ended early
    int32_t             n_walking = 0;     // lanes

    std::vector<llama_dflash_stats> stats; // [lanes], of what is over
};
