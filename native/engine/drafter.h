// What a drafter is, whatever its kind: it follows the text of every lane, and proposes trees of tokens that may come next.
#pragma once

#include "tree/draft-tree.h"

#include "llama.h"

#include <cstdint>
#include <vector>

// A model that drafts: its file, and where and how it runs.
struct drafter_params {
    int32_t n_lanes;      // lanes 0 to n_lanes - 1 are followed
    int32_t n_context;    // positions of a lane's text that are remembered
    int32_t n_gpu_layers;
    int32_t type_k;
    int32_t type_v;
    int32_t n_threads;
    bool    flash_attn;
    bool    short_block;  // dflash
    int32_t depth;        // of the deepest node of a beam
    int32_t width;        // nodes of a depth that a beam expands
    int32_t n_top;        // candidates of a position that are found where the logits are computed, and features stay there too; 0: on the host
};

// Tokens of one lane that the target's last decode has evaluated.
struct evaluated_tokens {
    int32_t             lane;
    llama_pos           pos;     // of the first
    const llama_token * tokens;  // [n]
    const int32_t     * rows;    // [n] where in the decode's batch they were
    int32_t             n;
    int32_t             n_after; // so many more of this lane are about to follow
    bool                sampled; // in a round, by the target; else it was given them
};

struct draft_request {
    int32_t     lane;
    llama_token root;    // the lane's last token, not evaluated yet
    llama_pos   n_past;  // its position
    int32_t     depth;   // no node need be deeper
    int32_t     n_nodes; // beside the root, at most
    bool        chain;   // no node has two children
    bool        made_up; // probabilities take the place of the drafter's (synthetic.h)
    double      least_mass = 0.0; // no forward for another depth pays where paths that deep are less probable than this, all together
};

// Every function may throw: what a lane's text was is then to be forgotten.
class drafter {
public:
    virtual ~drafter() = default;

    // "dflash", "ngram", ...: DESIGN.md's drafter kinds
    virtual const char * kind() const = 0;

    // how deep its trees can be
    virtual int32_t max_depth() const = 0;

    // Proposing shallower trees takes as long.
    virtual bool depth_is_free() const { return false; }

    // The target has decoded a batch: the rows of what is observed next are of it.
    virtual void target_decoded() {}

    // Remember these tokens, and forget what was known of the lane at positions from theirs on.
    virtual void observe(const evaluated_tokens & tokens) = 0;

    // Forget what is known of positions >= n_past.
    virtual void truncate(int32_t lane, llama_pos n_past) = 0;

    // Forget the lane, all of it. What is observed next begins anew, wherever its text has got to.
    virtual void forget(int32_t lane) = 0;

    // A tree for every request, in one go: of different lanes. Each has its root, and nodes in descending path probability;
    // the root alone where there is nothing to propose. None at all if there is no room for a draft.
    virtual std::vector<draft_tree> propose(const std::vector<draft_request> & requests) = 0;

    // The memory of a lane as bytes: `out` must hold save_size() of them, which are written.
    virtual size_t save_size(int32_t lane) = 0;
    virtual void   save(int32_t lane, uint8_t * out) = 0;
    virtual void   load(int32_t lane, const uint8_t * data, size_t size) = 0;

    // As llama_set_abort_callback(), for its forwards if it has any.
    virtual void set_abort_callback(ggml_abort_callback, void *) {}
};
