// How far a drafter's probabilities are to be believed: what it said of nodes against what was accepted.
//
// A drafter is surer of itself the further it goes, and a token after a second-best one is right far less often than the same
// drafter's token on the spine. So a node's log-odds are corrected by where it is: its rank among its siblings, how many
// steps off the spine, how deep. The corrections are a logistic regression, learned one looked-at node after the other
// (AdaGrad, Duchi et al. 2011, section 1.3); before anything was learned they are none.
#pragma once

#include <array>
#include <cstdint>
#include <string>

// Where a node is in its drafter's own tree.
struct node_place {
    int32_t depth;     // of the root's children 1
    int32_t rank;      // among its siblings, of the most probable one 0
    int32_t off_spine; // how many nodes on its path, itself included, are not the most probable of their siblings
};

class calibration {
public:
    // That a node of which the drafter says `logprob` is accepted, given that its parent is.
    double probability(float logprob, const node_place & place) const;

    // The target has sampled at the node's parent: was it this one?
    void record(float logprob, const node_place & place, bool accepted);

    int64_t n_recorded() const { return count; }

    // As text, to learn on from at another time. load() returns false, and changes nothing, if it is no such text.
    std::string save() const;
    bool        load(const std::string & text);

private:
    static constexpr int n_weights = 13; // 3x3 biases, 2 slopes, 2 of the depth

    struct terms {
        std::array<int,    3> index;
        std::array<double, 3> value;
        double                log_odds; // as the drafter says
    };

    static terms terms_of(float logprob, const node_place & place);
    double probability(const terms & terms) const;

    std::array<double, n_weights> weights{};
    std::array<double, n_weights> squares{}; // sums of squared gradients
    int64_t                       count = 0;
};
