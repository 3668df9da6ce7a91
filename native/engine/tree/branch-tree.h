// Draft trees where a token's probability depends on the token before it in its own branch, as the heads of DFlash2 and
// DSpark drafters give it (draft-tree.h: of plain DFlash drafters, where it depends on the position alone).
#pragma once

#include "tree/draft-tree.h"

#include <vector>

// A node whose children are asked for.
struct branch_parent {
    llama_token token;
    int32_t     before; // which of the parents of the depth above its own parent was; -1 for the root
};

class branch_scores {
public:
    virtual ~branch_scores() = default;

    // For each of `parents`, nodes at depth - 1, the (at most) k most probable tokens at `depth`. The root's children are at
    // depth 1; depths are asked for in their order.
    virtual std::vector<position_candidates> children(int32_t depth, const std::vector<branch_parent> & parents, int32_t k) = 0;
};

// The `budget` nodes of highest path probability that are no deeper than n_positions, in descending path probability.
// With `chain` every node has its most probable child only.
draft_tree build_tree(llama_token root, branch_scores & scores, int32_t n_positions, int32_t budget, bool chain);
