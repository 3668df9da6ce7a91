// Draft trees that grow a depth at a time, of several lanes at once: a node's children depend on its whole path, so that they
// are computed from the node itself, and all nodes of a depth are expanded together.
//
// EAGLE-2 (arXiv 2406.16858, section 4): a node is as good as the product of the probabilities on its way. At each depth the
// best `width` nodes are expanded; of all nodes that were found, expanded or not, the best `n_nodes` make the tree.
//
// With a spine such a tree is never accepted for less than the chain of the same depth, however little a drafter's
// probabilities say about what a target takes: at temperature 0 a best token of probability 0.3 may always be right.
#pragma once

#include "tree/draft-tree.h"

#include <cstdint>
#include <vector>

// Of one lane.
struct beam_request {
    llama_token root;
    int32_t     depth;   // no node is deeper
    int32_t     width;   // nodes of a depth that are expanded, at most
    int32_t     n_nodes; // beside the root, at most
    bool        chain;   // no node has two children
    double      least_mass; // nothing is expanded where the nodes to expand are less probable than this, all together
    bool        spine;   // keep the chain of best tokens whatever its probability, if n_nodes is at least its length
};

// A node whose children are asked for.
struct beam_parent {
    int32_t     request; // of which of the trees
    llama_token token;
    int32_t     before;  // which of the parents of the depth above its own parent was; -1 for the root
};

class beam_scores {
public:
    virtual ~beam_scores() = default;

    // For each of `parents`, nodes at depth - 1 (those of one request together, the best first), the (at most) k most probable
    // tokens at `depth`. The roots' children are at depth 1; depths are asked for in their order, until nothing is left to
    // expand.
    virtual std::vector<position_candidates> children(int32_t depth, const std::vector<beam_parent> & parents, int32_t k) = 0;
};

// A tree for every request, its nodes in descending path probability. Where no width and no spine is in the way they are the
// n_nodes best ones of all: a path is never more probable than its beginning, so that a node's parent is among the best where
// the node is.
std::vector<draft_tree> grow_beams(const std::vector<beam_request> & requests, beam_scores & scores);
