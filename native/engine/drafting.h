// The drafters together: whom to ask in a round, and the one tree that their proposals make for each lane.
#pragma once

#include "budget.h"
#include "lane.h"
#include "tended-drafter.h"
#include "tree/merged-tree.h"

#include <memory>
#include <vector>

class drafting {
public:
    // calibrated: nodes are as probable as what was accepted so far says, not as their drafters say.
    drafting(std::vector<std::unique_ptr<drafter>> drafters, int32_t n_lanes, bool calibrated);

    std::vector<tended_drafter> &       drafters()       { return tended; }
    const std::vector<tended_drafter> & drafters() const { return tended; }
    int32_t max_depth() const;

    // what happens to the text: drafter.h
    void target_decoded();
    void observe(const evaluated_tokens & tokens);
    void truncate(int32_t lane, llama_pos n_past);

    // A tree for each request, the root alone where nobody proposes anything, and what is known of its nodes. Of a request the
    // depth is how deep any drafter's tree can be of use. With a budget, those are asked whose proposals are worth their time;
    // NULL: all.
    std::vector<merged_tree> propose(const std::vector<draft_request> & requests, auto_budget * budget);

    // after propose(): who was asked, or nobody if that found nothing and cost nothing; and the seconds that it takes usually.
    drafter_set drafted() const { return asked; }
    double      seconds() const { return expected_seconds; }

    // The walk through a lane's tree is over: learn what the drafters' probabilities are worth.
    void learn(const lane & lane);

private:
    struct answer {
        size_t                  drafter;
        std::vector<int32_t>    requests; // which of them it was asked
        std::vector<draft_tree> trees;
    };

    std::vector<size_t> candidates(auto_budget * budget);
    bool is_enough(const std::vector<draft_request> & requests, const auto_budget & budget, drafter_set all) const;
    void ask(size_t i, const std::vector<draft_request> & requests, auto_budget * budget);
    std::vector<merged_tree> merged(const std::vector<draft_request> & requests) const;
    static drafter_set set_of(const std::vector<size_t> & drafters);

    std::vector<tended_drafter> tended;
    bool                        calibrated;

    // of the round that is going on
    std::vector<answer> answers;
    drafter_set         asked            = 0;
    double              expected_seconds = 0.0;
};
