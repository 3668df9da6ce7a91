#include "dflash/dflash-drafter.h"

#include "abort-guard.h"
#include "dflash/dflash-file.h"
#include "model-file.h"
#include "synthetic.h"

#include "ggml-top-logprobs.h"
#include "llama-ext.h"
#include "llama-tree.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

//
// loading
//

dflash_drafter::dflash_drafter(llama_context * target, const std::string & path, const drafter_params & params) :
        target(target), end(params.n_lanes, 0) {
    n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(target)));

    const abort_guard guard;
    const dflash_file file(path);
    file.check();
    refuse_misfits("the draft model " + path, file.misfits(target));
    model.reset(load_draft_model(llama_get_model(target), path, params.n_gpu_layers));
    head = drafter_head::take(model.get(), llama_get_model(target));
    read_layout();
    make_context(params);

    wanted = std::make_unique<wanted_layers>(target, layers);
}

void dflash_drafter::read_layout() {
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

void dflash_drafter::make_context(const drafter_params & params) {
    n_context   = params.n_context;
    whole_block = !is_causal && !params.short_block; // of a causal block the first positions are the same without the rest

    const int32_t n_lanes = params.n_lanes;
    llama_context_params cparams = context_params(params);
    cparams.n_ctx           = n_lanes*(n_context + n_block);
    cparams.n_batch         = std::max(feature_queue::batch, n_lanes*n_block);
    cparams.n_ubatch        = cparams.n_batch;
    cparams.n_outputs_max   = n_lanes*n_block;
    cparams.n_seq_max       = n_lanes;
    cparams.kv_unified      = n_lanes > 1 && params.n_top > 0; // features on a device are injected for all lanes at once; else a ring for each
    cparams.swa_full        = false;
    cparams.ctx_other       = target; // token embeddings and output head, where the drafter has none of its own
    ctx.reset(llama_init_from_model(model.get(), cparams));
    if (!ctx) {
        refuse("no context for the draft model: not enough memory, or type_k/type_v that llama.cpp can't combine");
    }
    llama_set_causal_attn(ctx.get(), is_causal); // most denoise the block as a whole

    n_top = head ? head->n_top() : params.n_top;
    waiting = params.n_top > 0 ? features_on_device(target, ctx.get(), layers, n_lanes, n_block) :
                                 features_on_host(target, layers, n_lanes, is_mrope);
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

void dflash_drafter::clear(int32_t lane, llama_pos at) {
    llama_memory_seq_rm(llama_get_memory(ctx.get()), lane, -1, -1);
    waiting->truncate(lane, 0);
    end[lane] = at;
}

void dflash_drafter::truncate(int32_t lane, llama_pos n_past) {
    if (n_past >= end[lane]) {
        return;
    }
    const llama_pos injected = end[lane] - waiting->size(lane);
    if (n_past < injected) {
        llama_memory_seq_rm(llama_get_memory(ctx.get()), lane, n_past, -1);
    }
    waiting->truncate(lane, std::max(0, n_past - injected));
    end[lane] = n_past;
}

void dflash_drafter::observe(const evaluated_tokens & tokens) {
    const int32_t lane = tokens.lane;
    truncate(lane, tokens.pos);

    // only the newest n_context positions will be left in the ring
    const llama_pos first_kept = tokens.pos + tokens.n + tokens.n_after - n_context;
    const int32_t   skip       = std::clamp(first_kept - tokens.pos, 0, tokens.n);
    if (tokens.pos > end[lane] || skip > 0) {
        clear(lane, tokens.pos + skip);
    }
    waiting->push(lane, { tokens.rows + skip, tokens.rows + tokens.n });
    end[lane] = tokens.pos + tokens.n;
    if (waiting->full()) {
        std::vector<int32_t> all(end.size());
        std::iota(all.begin(), all.end(), 0);
        inject(all);
        llama_synchronize(ctx.get()); // the target's next decode may overwrite what this one reads
    }
}

// Writes the remembered features of these lanes into the drafter's memory.
void dflash_drafter::inject(const std::vector<int32_t> & lanes) {
    std::vector<waiting_features> some;
    int32_t n = 0;
    for (const int32_t lane : lanes) {
        // the ring: what lies more than n_context positions back makes room
        if (end[lane] > n_context) { // llama_memory_seq_rm() takes a negative end for "to the last one"
            llama_memory_seq_rm(llama_get_memory(ctx.get()), lane, 0, end[lane] - n_context);
        }
        some.push_back({ lane, end[lane] - waiting->size(lane) });
        n += waiting->size(lane);
    }
    const int32_t ret = waiting->inject(ctx.get(), some);
    if (ret != 0) {
        for (const int32_t lane : lanes) {
            clear(lane, end[lane]); // drafts get worse, never wrong
        }
        throw std::runtime_error("injecting " + std::to_string(n) + " features into the drafter failed with " + std::to_string(ret));
    }
}

//
// the block
//

bool dflash_drafter::forward(const std::vector<draft_request> & requests) {
    std::vector<int32_t> lanes;
    int32_t n_positions = 0;
    for (const draft_request & request : requests) {
        lanes.push_back(request.lane);
        n_positions = std::max(n_positions, request.depth);
    }
    inject(lanes);

    n_rows = whole_block ? n_block : first_row + n_positions;
    const size_t n_tokens = requests.size()*n_rows;

    std::vector<llama_token>    tokens(n_tokens, mask);
    std::vector<llama_pos>      pos(n_tokens);
    std::vector<llama_seq_id *> seq_ids(n_tokens);
    std::vector<int32_t>        n_seq_ids(n_tokens, 1);
    std::vector<int8_t>         outputs(n_tokens, 1); // the root's too: the graph has a row of logits for every token
    for (size_t i = 0; i < requests.size(); ++i) {
        const size_t root = i*n_rows;
        tokens[root] = requests[i].root;
        std::iota(pos.begin() + root, pos.begin() + root + n_rows, requests[i].n_past);
        std::fill_n(seq_ids.begin() + root, n_rows, &lanes[i]);
    }
    llama_batch batch = {};
    batch.n_tokens = (int32_t) n_tokens;
    batch.token    = tokens.data();
    batch.pos      = pos.data();
    batch.n_seq_id = n_seq_ids.data();
    batch.seq_id   = seq_ids.data();
    batch.logits   = outputs.data();
    const int32_t ret = llama_decode(ctx.get(), batch);

    // the blocks' own keys and values are of this draft only
    for (const draft_request & request : requests) {
        llama_memory_seq_rm(llama_get_memory(ctx.get()), request.lane, request.n_past, -1);
    }
    if (ret < 0 || ret > 1) {
        throw std::runtime_error("the drafter's forward failed with " + std::to_string(ret));
    }
    return ret == 0;
}

std::vector<draft_tree> dflash_drafter::propose(const std::vector<draft_request> & requests) {
    if (!forward(requests)) {
        return {};
    }
    std::vector<draft_tree> trees;
    for (const draft_request & request : requests) {
        trees.push_back(grow(request, (int32_t) trees.size()*n_rows + first_row));
    }
    return trees;
}

// DDTree (arXiv 2604.12989, section 3.2); of drafters with a head, branch-tree.h.
draft_tree dflash_drafter::grow(const draft_request & request, int32_t row) {
    if (head) {
        head->forwarded(ctx.get(), row, request.depth);
        synthetic_scores made_up(*head);
        branch_scores  & scores = request.made_up ? made_up : (branch_scores &) *head;
        return build_tree(request.root, scores, request.depth, request.n_nodes, request.chain);
    }
    std::vector<position_candidates> positions;
    for (int32_t i = 0; i < request.depth; ++i) {
        positions.push_back(candidates(row + i, request.chain ? 1 : request.n_nodes));
    }
    if (request.made_up) {
        synthetic_acceptance::shape(positions);
    }
    return build_tree(request.root, positions, request.n_nodes, request.chain);
}

position_candidates dflash_drafter::candidates(int32_t row, int32_t k) const {
    const float * entries = llama_tree_get_top_ith(ctx.get(), row);
    return entries ? candidates_of(entries, n_top, k) : top_candidates(llama_get_logits_ith(ctx.get(), row), n_vocab, k);
}

void dflash_drafter::logprobs(int32_t lane, llama_token root, llama_pos n_past, int32_t n_positions, float * out) {
    if (n_positions < 1 || n_positions > max_depth()) {
        throw std::invalid_argument("n_positions is " + std::to_string(n_positions) + ", expected 1 to " + std::to_string(max_depth()));
    }
    if (!forward({ { lane, root, n_past, n_positions, n_positions, true, false } })) {
        throw std::runtime_error("the drafter's memory has no room for the block");
    }
    for (int32_t i = 0; i < n_positions; ++i) {
        const float * logits = llama_get_logits_ith(ctx.get(), first_row + i);
        const float   max    = *std::max_element(logits, logits + n_vocab);
        const double  norm   = ggml_log_sum_exp(logits, n_vocab, max);
        std::transform(logits, logits + n_vocab, out + (size_t) i*n_vocab, [norm](float x) { return (float) (x - norm); });
    }
}

//
// state
//

size_t dflash_drafter::save_size(int32_t lane) {
    inject({ lane });
    return sizeof(llama_pos) + llama_state_seq_get_size(ctx.get(), lane);
}

void dflash_drafter::save(int32_t lane, uint8_t * out) {
    const size_t size = save_size(lane);
    memcpy(out, &end[lane], sizeof(llama_pos));
    llama_state_seq_get_data(ctx.get(), out + sizeof(llama_pos), size - sizeof(llama_pos), lane);
}

void dflash_drafter::load(int32_t lane, const uint8_t * data, size_t size) {
    llama_pos at = 0;
    if (size < sizeof(at)) {
        refuse("the drafter's saved state has " + std::to_string(size) + " bytes: it is damaged");
    }
    memcpy(&at, data, sizeof(at));
    clear(lane, at);
    if (llama_state_seq_set_data(ctx.get(), data + sizeof(at), size - sizeof(at), lane) == 0) {
        clear(lane, at);
        refuse("the drafter's saved state does not fit this drafter: it is damaged, or of another drafter or context length");
    }
}
