// The DFlash drafter (arXiv 2602.06036): a model and a context of its own, fed with features of the target.
#pragma once

#include "dflash/drafter-head.h"
#include "dflash/feature-queue.h"
#include "draft-model.h"
#include "drafter.h"

#include "llama.h"

#include <memory>
#include <string>
#include <vector>

class dflash_drafter : public drafter {
public:
    // Loads and checks the file. Throws std::invalid_argument with a sentence for the user.
    dflash_drafter(llama_context * target, const std::string & path, const drafter_params & params);

    const char * kind() const override { return "dflash"; }
    int32_t max_depth() const override { return n_block - first_row; } // positions that one forward drafts
    bool depth_is_free() const override { return whole_block; }

    void target_decoded() override { waiting->target_decoded(); }
    void observe(const evaluated_tokens & tokens) override;
    void truncate(int32_t lane, llama_pos n_past) override;
    void forget(int32_t lane) override { clear(lane, end[lane]); }

    std::vector<draft_tree> propose(const std::vector<draft_request> & requests) override;

    size_t save_size(int32_t lane) override;
    void   save(int32_t lane, uint8_t * out) override;
    void   load(int32_t lane, const uint8_t * data, size_t size) override;

    void set_abort_callback(ggml_abort_callback callback, void * data) override { llama_set_abort_callback(ctx.get(), callback, data); }

    // The log-probabilities of a block of one lane, over the whole vocabulary: out [n_positions][n_vocab]. Of a drafter with a
    // head: without it.
    void logprobs(int32_t lane, llama_token root, llama_pos n_past, int32_t n_positions, float * out);

private:
    void read_layout();
    void make_context(const drafter_params & params);
    void clear(int32_t lane, llama_pos at);
    void inject(const std::vector<int32_t> & lanes);

    // One forward over [root, mask, mask, ...] of every request's lane, of as many positions as the deepest wants. Returns
    // false if the drafter's memory has no room.
    bool forward(const std::vector<draft_request> & requests);

    // After it: the tree of the request whose block's first drafted row is given. And the k best candidates of one row.
    draft_tree          grow(const draft_request & request, int32_t row);
    position_candidates candidates(int32_t row, int32_t k) const;

    llama_context * target;
    std::unique_ptr<llama_model,   model_deleter>   model;
    std::unique_ptr<llama_context, context_deleter> ctx;
    std::unique_ptr<drafter_head>                   head; // of DFlash2 and DSpark drafters

    int32_t     n_block   = 0;
    int32_t     n_context = 0;
    int32_t     n_vocab   = 0;
    int32_t     n_top     = 0;
    llama_token mask      = -1;
    bool        is_mrope  = false;
    bool        is_causal = false; // a block's tokens see those before them only, in every layer
    bool        whole_block = true; // always, as in the reference classes; else no longer than is drafted
    int32_t     first_row = 1;     // of the block, from which the first position is drafted
    int32_t     n_rows    = 0;     // of a block of the last forward

    std::vector<int32_t> layers; // target layers whose inputs are features

    // features are known up to position `end` of a lane; those of the last ones still wait to be injected
    std::vector<llama_pos>         end; // [n_lanes]
    std::unique_ptr<feature_queue> waiting;
    std::unique_ptr<wanted_layers> wanted;
};
