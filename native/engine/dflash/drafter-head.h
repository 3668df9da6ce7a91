// The heads of DFlash2, DSpark and Domino drafters at work: scores of a forward's tokens given the token before each.
#pragma once

#include "tree/branch-tree.h"

#include <memory>

// A flag of the model's file, `otherwise` if it has no such key.
bool says(const llama_model * model, const char * key, bool otherwise);

class drafter_head : public branch_scores {
public:
    // The head of a model, NULL if it has none. Before a context of the model is made. `target`: the model it drafts for.
    static std::unique_ptr<drafter_head> take(llama_model * model, const llama_model * target);

    // how many of a row's best entries the forward has to find (llama_tree_set_top)
    virtual int32_t n_top() const = 0;

    // Set up the drafter's context, besides.
    virtual void prepare(llama_context *) {}

    // ctx has just computed a block, of which row `first_row` is that of the first of n_positions.
    virtual void forwarded(llama_context * ctx, int32_t first_row, int32_t n_positions) = 0;

    // The first position is drafted where the root stands, not where the first mask token does.
    virtual bool samples_from_anchor() const { return false; }
};

std::unique_ptr<drafter_head> take_branch_head(llama_model * model, const llama_model * target); // DSpark, Domino
std::unique_ptr<drafter_head> take_selector_head(llama_model * model); // DFlash2
