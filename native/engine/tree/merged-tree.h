// The proposals of several drafters for one lane as one tree, and what each of them said of its nodes.
#pragma once

#include "calibration.h"
#include "draft-tree.h"

#include <vector>

// One drafter's proposal.
struct proposal {
    const draft_tree  * tree;
    const calibration * odds; // NULL: probabilities are as the drafter says
    int32_t             drafter;
};

// What a drafter said of a node.
struct node_offer {
    int32_t    drafter;
    float      logprob; // given the parent, uncalibrated
    node_place place;
};

struct merged_tree {
    draft_tree                           tree;   // `prob` and the order of nodes are calibrated, `logprob` is the drafter's own
    std::vector<std::vector<node_offer>> offers; // [n_nodes], of the root none
};

// A token that several drafters propose after the same parent is one node, as probable as the surest of them says. Where
// siblings would be more probable than 1 together, they share it in proportion. Nodes in descending path probability.
merged_tree merge(llama_token root, const std::vector<proposal> & proposals);
