#include "dflash/dflash-drafter.h"

#include "abort-guard.h"
#include "dflash/drafter-file.h"
#include "llama-ext.h"
#include "llama-tree.h"

#include "ggml.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

//
// loading
//

static llama_model * load_model(const std::string & path, int32_t n_gpu_layers) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = n_gpu_layers;
    llama_model * model = llama_model_load_from_file(path.c_str(), params);
    if (model == nullptr) {
        refuse("llama.cpp could not load the draft model " + path + " (its log says why; verbose=True shows it): "
                "the file is damaged, or of a newer format");
    }
    return model;
}

drafter::drafter(llama_context * target, const std::string & path, const drafter_params & params) : target(target) {
    n_vocab_ = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(target)));

    const abort_guard guard;
    check_drafter_file(path, llama_get_model(target));
    model.reset(load_model(path, params.n_gpu_layers));
    head = drafter_head::take(model.get(), llama_get_model(target));
    read_layout();
    check_fits();
    make_context(params);

    wanted = std::make_unique<wanted_layers>(target, layers);
}

wanted_layers::wanted_layers(llama_context * target, const std::vector<int32_t> & layers) : target(target) {
    for (const int32_t il : layers) {
        if (llama_tree_want_layer_inp(target, il, true) == 0) {
            ids.push_back(il);
        }
    }
}

wanted_layers::~wanted_layers() {
    for (const int32_t il : ids) {
        llama_tree_want_layer_inp(target, il, false);
    }
}

void drafter::read_layout() {
    char text[32] = {};
    llama_model_meta_val_str(model.get(), "dflash.block_size", text, sizeof(text));
    n_block   = std::atoi(text);
    mask      = llama_vocab_mask(llama_model_get_vocab(model.get()));
    is_mrope  = llama_model_rope_type(model.get()) == LLAMA_ROPE_TYPE_MROPE;
    is_causal = says(model.get(), "dflash.attention.causal", false);
    first_row = (head ? head->samples_from_anchor() : says(model.get(), "dflash.sample_from_anchor", false)) ? 0 : 1;

    const int32_t * ids = llama_model_target_layer_ids(model.get());
    layers.assign(ids, ids + llama_model_target_layer_ids_n(model.get()));
}

void drafter::refuse_layer(int32_t il, int32_t n_layer) const {
    char arch[64] = "?";
    llama_model_meta_val_str(llama_get_model(target), "general.architecture", arch, sizeof(arch));
    const bool is_output = il == n_layer && llama_tree_has_layer_inp(target, n_layer - 1);
    const std::string layer  = is_output ? "the output of the last layer" : "the input of layer " + std::to_string(il);
    const std::string reason = is_output ? "llama.cpp does not compute it for every token" :
        "between its layers passes more or something else than one hidden state a token, or llama.cpp's graph does not name it";
    refuse("the draft model reads " + layer + " of the target, which can't be had of architecture \"" + arch + "\": " + reason +
            ": use draft_model=None with this target");
}

void drafter::check_fits() const {
    if (mask < 0 || mask >= n_vocab_) {
        refuse("the draft model has no mask token (tokenizer.ggml.mask_token_id), which a DFlash drafter needs");
    }
    if (layers.empty()) {
        refuse("the draft model names no target layers (dflash.target_layers)");
    }
    for (const int32_t il : layers) {
        const int32_t n_layer = llama_model_n_layer(llama_get_model(target));
        if (il < 0 || il > n_layer) {
            refuse("the draft model reads the input of target layer " + std::to_string(il) + ", the target has layers 0 to " +
                    std::to_string(n_layer - 1) + ": this drafter was made for another target");
        }
        if (!llama_tree_has_layer_inp(target, il)) {
            refuse_layer(il, n_layer);
        }
    }
    const llama_vocab * ours   = llama_model_get_vocab(model.get());
    const llama_vocab * theirs = llama_model_get_vocab(llama_get_model(target));
    for (llama_token t = 0; t < n_vocab_; ++t) {
        if (strcmp(llama_vocab_get_text(ours, t), llama_vocab_get_text(theirs, t)) != 0) {
            refuse("token " + std::to_string(t) + " is \"" + llama_vocab_get_text(ours, t) + "\" in the draft model and \"" +
                    llama_vocab_get_text(theirs, t) + "\" in the target: this drafter was made for another target");
        }
    }
}

void drafter::make_context(const drafter_params & params) {
    n_context   = params.n_context;
    whole_block = !is_causal && !params.short_block; // of a causal block the first positions are the same without the rest

    llama_context_params cparams = llama_context_default_params();
    cparams.n_ctx           = n_context + n_block;
    cparams.n_batch         = std::max(feature_queue::batch, n_block);
    cparams.n_ubatch        = cparams.n_batch;
    cparams.n_outputs_max   = n_block;
    cparams.n_seq_max       = 1;
    cparams.n_threads       = params.n_threads;
    cparams.n_threads_batch = params.n_threads;
    cparams.type_k          = (ggml_type) params.type_k;
    cparams.type_v          = (ggml_type) params.type_v;
    cparams.swa_full        = false;
    cparams.flash_attn_type = params.flash_attn ? LLAMA_FLASH_ATTN_TYPE_AUTO : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    cparams.ctx_other       = target; // token embeddings and output head, where the drafter has none of its own
    ctx.reset(llama_init_from_model(model.get(), cparams));
    if (!ctx) {
        refuse("no context for the draft model: not enough memory, or type_k/type_v that llama.cpp can't combine");
    }
    llama_set_causal_attn(ctx.get(), is_causal); // most denoise the block as a whole

    n_top = head ? head->n_top() : params.n_top;
    waiting = params.n_top > 0 ? features_on_device(target, ctx.get(), layers, n_block) : features_on_host(target, layers, is_mrope);
    llama_tree_set_top(ctx.get(), n_top);
    if (params.n_top > 0) {
        llama_tree_keep_both_graphs(ctx.get());
    }
    if (head) {
        head->prepare(ctx.get());
    }
}

//
// features
//

void drafter::clear(llama_pos at) {
    llama_memory_clear(llama_get_memory(ctx.get()), false);
    waiting->truncate(0);
    end = at;
}

void drafter::truncate(llama_pos n_past) {
    if (n_past >= end) {
        return;
    }
    const llama_pos injected = end - waiting->size();
    if (n_past < injected) {
        llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, n_past, -1);
    }
    waiting->truncate(std::max(0, n_past - injected));
    end = n_past;
}

void drafter::observe(llama_pos pos, const int32_t * rows, int32_t n_rows, int32_t n_after) {
    truncate(pos);

    // only the newest n_context positions will be left in the ring
    const llama_pos first_kept = pos + n_rows + n_after - n_context;
    const int32_t   skip       = std::clamp(first_kept - pos, 0, n_rows);
    if (pos > end || skip > 0) {
        clear(pos + skip);
    }
    std::vector<int32_t> kept;
    for (int32_t i = skip; i < n_rows; ++i) {
        kept.push_back(rows ? rows[i] : i);
    }
    waiting->push(kept);
    end = pos + n_rows;
    if (waiting->full()) {
        inject();
        llama_synchronize(ctx.get()); // the target's next decode may overwrite what this one reads
    }
}

void drafter::inject() {
    // the ring: what lies more than n_context positions back makes room
    if (end > n_context) { // llama_memory_seq_rm() takes a negative end for "to the last one"
        llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, 0, end - n_context);
    }
    const int32_t ret = waiting->inject(ctx.get(), end - waiting->size());
    if (ret != 0) {
        const int32_t   n  = waiting->size();
        const llama_pos at = end;
        clear(at); // drafts get worse, never wrong
        throw std::runtime_error("injecting " + std::to_string(n) + " features into the drafter failed with " + std::to_string(ret));
    }
    waiting->clear();
}

//
// the block
//

bool drafter::forward(llama_token root, llama_pos n_past, int32_t n_positions) {
    inject();

    const int32_t n_tokens = block_is_whole() ? n_block : first_row + n_positions;

    std::vector<llama_token> tokens(n_tokens, mask);
    std::vector<llama_pos>   pos(n_tokens);
    std::vector<int8_t>      outputs(n_tokens, 1); // the root's too: the graph has a row of logits for every token
    tokens[0] = root;
    std::iota(pos.begin(), pos.end(), n_past);

    llama_batch batch = {};
    batch.n_tokens = n_tokens;
    batch.token    = tokens.data();
    batch.pos      = pos.data();
    batch.logits   = outputs.data();
    const int32_t ret = llama_decode(ctx.get(), batch);

    // the block's own keys and values are of this draft only
    llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, n_past, -1);

    if (ret < 0 || ret > 1) {
        throw std::runtime_error("the drafter's forward failed with " + std::to_string(ret));
    }
    if (ret == 0 && head) {
        head->forwarded(ctx.get(), first_row, n_positions);
    }
    return ret == 0;
}

position_candidates drafter::candidates(int32_t i, int32_t k) const {
    const float * entries = llama_tree_get_top_ith(ctx.get(), first_row + i);
    return entries ? candidates_of(entries, n_top, k) : top_candidates(logits(i), n_vocab_, k);
}

const float * drafter::logits(int32_t i) const {
    return llama_get_logits_ith(ctx.get(), first_row + i);
}

//
// state
//

size_t drafter::save_size() {
    inject();
    return sizeof(end) + llama_state_seq_get_size(ctx.get(), 0);
}

void drafter::save(uint8_t * out) {
    const size_t size = save_size();
    memcpy(out, &end, sizeof(end));
    llama_state_seq_get_data(ctx.get(), out + sizeof(end), size - sizeof(end), 0);
}

void drafter::load(const uint8_t * data, size_t size) {
    llama_pos at = 0;
    if (size < sizeof(at)) {
        refuse("the drafter's saved state has " + std::to_string(size) + " bytes: it is damaged");
    }
    memcpy(&at, data, sizeof(at));
    clear(at);
    if (llama_state_seq_set_data(ctx.get(), data + sizeof(at), size - sizeof(at), 0) == 0) {
        clear(at);
        refuse("the drafter's saved state does not fit this drafter: it is damaged, or of another drafter or context length");
    }
}
