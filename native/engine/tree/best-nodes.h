// One best-first queue over the trees of several lanes.
#pragma once

#include "draft-tree.h"

#include <vector>

// Keeps the n nodes of highest path probability of all these trees together, beside their roots. The trees' nodes are in
// descending path probability, and stay so; of equally probable nodes those of earlier trees are kept first.
void keep_best_nodes(const std::vector<draft_tree *> & trees, int32_t n);

// The path probabilities of all nodes beside the roots, the largest first.
std::vector<double> best_probabilities(const std::vector<draft_tree *> & trees);
