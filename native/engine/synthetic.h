// Made-up acceptance, to time rounds with models of random weights, of whose drafts nothing is ever accepted. The work of
// a round is done as always, but the tree takes the shape that a good drafter gives it, and as many of its nodes are
// accepted as to make the asked mean. The text is meaningless.
#pragma once

#include "tree/branch-tree.h"

class synthetic_acceptance {
public:
    // mean tokens of a round, the bonus token included; 0: off
    explicit synthetic_acceptance(double length) : length(length) {}

    bool on() const { return length > 0.0; }

    // Replace the log-probabilities of a draft by those of a drafter that is right most of the time.
    static void shape(std::vector<position_candidates> & positions);

    // How many tokens the next round is to have: whole numbers whose mean is the length.
    int32_t next_length();

    // What to take for sampled at `node` of a path: the token of its most probable child, if the tree goes on there.
    static llama_token accepted_token(const draft_tree & tree, int32_t node, llama_token sampled);

private:
    double length;
    double owed = 0.0;
};

// A head's scores with the log-probabilities replaced.
class synthetic_scores : public branch_scores {
public:
    explicit synthetic_scores(branch_scores & scores) : scores(scores) {}

    std::vector<position_candidates> children(int32_t depth, const std::vector<branch_parent> & parents, int32_t k) override {
        auto res = scores.children(depth, parents, k);
        synthetic_acceptance::shape(res);
        return res;
    }

private:
    branch_scores & scores;
};
