// The DFlash drafter: a model and a context of its own, fed with features of the target.
#pragma once

#include "tree/draft-tree.h"
#include "dflash/drafter-head.h"
#include "dflash/feature-queue.h"
#include "llama.h"

#include <memory>
#include <string>
#include <vector>

struct drafter_params {
    int32_t n_context;
    int32_t n_gpu_layers;
    int32_t type_k;
    int32_t type_v;
    int32_t n_threads;
    bool    flash_attn;
    bool    short_block;
    int32_t n_top;         // candidates of a position that are found where the logits are computed, and features stay there too; 0: on the host
};

// While it exists, the target's decodes leave the inputs of these layers.
class wanted_layers {
public:
    wanted_layers(llama_context * target, const std::vector<int32_t> & layers);
    ~wanted_layers();

    wanted_layers(const wanted_layers &) = delete;

private:
    llama_context      * target;
    std::vector<int32_t> ids;
};

class drafter {
public:
    // Loads and checks the file. Throws std::invalid_argument with a sentence for the user.
    drafter(llama_context * target, const std::string & path, const drafter_params & params);

    int32_t block_size()    const { return n_block; }
    int32_t max_positions() const { return n_block - first_row; } // that one forward drafts
    int32_t n_vocab()       const { return n_vocab_; }
    bool    block_is_whole() const { return whole_block; } // drafting fewer positions takes as long

    // Remember the features of rows [n_rows] of the target's last decode, at positions pos, pos + 1, ...
    // rows may be NULL for 0, 1, 2, ...  n_after more positions are about to follow.
    void observe(llama_pos pos, const int32_t * rows, int32_t n_rows, int32_t n_after);

    // Forget the features of positions >= n_past.
    void truncate(llama_pos n_past);

    // Forget everything; what is observed next begins anew.
    void forget() { clear(end); }

    void set_abort_callback(ggml_abort_callback callback, void * data) { llama_set_abort_callback(ctx.get(), callback, data); }

    // Write the remembered features into the drafter's memory.
    void inject();

    // One forward over [root, mask, mask, ...]: logits of the n_positions tokens that follow the root.
    // Returns false if the drafter's memory has no room.
    bool forward(llama_token root, llama_pos n_past, int32_t n_positions);

    // After forward(): of position i in [0, n_positions) the k best candidates (at most n_top, where that is not 0), and
    // the logits, [n_vocab]. Of a drafter with a head: without it.
    position_candidates candidates(int32_t i, int32_t k) const;
    const float * logits(int32_t i) const;

    // After forward(): scores of the positions' tokens given the token before, NULL for plain DFlash drafters.
    branch_scores * scores() { return head.get(); }

    // The memory as bytes: out must hold save_size() of them, which are written.
    size_t save_size();
    void save(uint8_t * out);
    void load(const uint8_t * data, size_t size);

private:
    void check_fits() const;
    [[noreturn]] void refuse_layer(int32_t il, int32_t n_layer) const;
    void read_layout();
    void make_context(const drafter_params & params);
    void clear(llama_pos at);

    struct model_deleter   { void operator()(llama_model   * m) const { llama_model_free(m); } };
    struct context_deleter { void operator()(llama_context * c) const { llama_free(c); } };

    llama_context * target;
    std::unique_ptr<llama_model,   model_deleter>   model;
    std::unique_ptr<llama_context, context_deleter> ctx;
    std::unique_ptr<drafter_head>                   head; // of DFlash2 and DSpark drafters

    int32_t     n_block   = 0;
    int32_t     n_context = 0;
    int32_t     n_vocab_  = 0;
    int32_t     n_top     = 0;
    llama_token mask      = -1;
    bool        is_mrope  = false;
    bool        is_causal = false; // a block's tokens see those before them only, in every layer
    bool        whole_block = true; // always, as in the reference classes; else no longer than is drafted
    int32_t     first_row = 1;     // of the block, from which the first position is drafted

    std::vector<int32_t> layers; // target layers whose inputs are features

    // features are known up to position `end`; those of the last ones still wait to be injected
    llama_pos                      end = 0;
    std::unique_ptr<feature_queue> waiting;
    std::unique_ptr<wanted_layers> wanted;
};
