// The children of a beam's nodes, as a drafter's context computes them.
#pragma once

#include "beam-context.h"
#include "drafter.h"
#include "tree/beam.h"

#include <vector>

// Trees for these requests, whose roots were decoded last, as the ends of their lanes' texts: the row of each among the
// outputs, -1 for a lane that has none and gets its root alone. Every node is decoded after its own path.
struct beam_drafting {
    int32_t   depth;         // no tree is deeper
    llama_pos root_pos;      // of a root in the drafter's memory, from its position in the text on
    bool      carries_state; // a node is decoded with the state that its parent left
    int32_t   n_vocab;       // tokens from here on are not the target's
};

std::vector<draft_tree> grow_in_context(
        beam_context & beams, const std::vector<draft_request> & requests, const std::vector<int32_t> & rows, const beam_drafting & how);
