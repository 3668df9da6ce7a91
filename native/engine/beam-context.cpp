#include "beam-context.h"

#include "model-file.h"

#include "llama-ext.h"
#include "llama-tree.h"

#include <algorithm>
#include <stdexcept>

static constexpr int32_t most_sequences = 256; // LLAMA_MAX_SEQ

beam_context::beam_context(llama_model * model, llama_context_params params, const shape & asked) :
        shape_(asked), n_embd_(params.ctx_type == LLAMA_CONTEXT_TYPE_MTP ? llama_model_n_embd_out(model) : llama_model_n_embd(model)), n_vocab(llama_vocab_n_tokens(llama_model_get_vocab(model))),
        is_recurrent(params.ctx_type != LLAMA_CONTEXT_TYPE_MTP && (llama_model_is_recurrent(model) || llama_model_is_hybrid(model))), beams(asked.n_lanes) {
    shape_.width = is_recurrent ? 1 : std::max(1, std::min(asked.width, most_sequences/asked.n_lanes - 1));

    const int32_t n_lanes = shape_.n_lanes;
    params.n_ctx      = n_lanes*(shape_.n_context + 1 + shape_.width*shape_.depth);
    params.n_batch    = std::max(shape_.n_batch, n_lanes*shape_.width);
    params.n_ubatch   = params.n_batch;
    params.n_seq_max  = n_lanes*(1 + shape_.width);
    params.kv_unified = true; // cells that several sequences share
    params.swa_full   = true; // texts are cut back
    ctx.reset(llama_init_from_model(model, params));
    if (!ctx) {
        refuse("no context for the draft model: not enough memory, or type_k/type_v that llama.cpp can't combine");
    }
    batch.reset(llama_batch_ext_init(ctx.get()));
    llama_tree_set_top(ctx.get(), shape_.n_top);
    if (shape_.n_top > 0) {
        llama_tree_keep_both_graphs(ctx.get());
    }
    for (int32_t lane = 0; lane < n_lanes; ++lane) {
        free_paths(lane);
    }
}

//
// decoding
//

void beam_context::begin_batch() {
    llama_batch_ext_clear(batch.get());
    outputs.clear();
}

int32_t beam_context::add(llama_seq_id sequence, const input & input, bool output) {
    const int32_t index = llama_batch_ext_add_token(batch.get(), sequence, input.token);
    if (index < 0) {
        throw std::runtime_error("the draft model can't decode token " + std::to_string(input.token));
    }
    llama_batch_ext_set_pos(batch.get(), index, &input.pos);
    llama_batch_ext_set_output_logits(batch.get(), index, output);
    if (input.state) {
        llama_batch_ext_set_embd_token(batch.get(), index, { input.state, 1, n_embd_ });
    }
    if (output) {
        outputs.push_back(index);
    }
    return index;
}

// The text's cells belong to all paths, but those of recurrent memories to the text alone: paths have copies.
void beam_context::add_text(const input & input, bool output) {
    const int32_t index = add(text_of(input.lane), input, output);
    for (int32_t i = 1; i <= shape_.width && !is_recurrent; ++i) {
        llama_batch_ext_add_seq(batch.get(), index, text_of(input.lane) + i);
    }
}

int32_t beam_context::decode() {
    const int32_t ret = llama_process(ctx.get(), LLAMA_PROCESS_TYPE_DECODE, batch.get());
    if (ret == 0) {
        llama_synchronize(ctx.get());
    }
    return ret;
}

int32_t beam_context::decode_text(const std::vector<input> & tokens, const std::vector<input> & last) {
    const size_t n_batch = llama_n_batch(ctx.get());
    for (size_t done = 0;;) {
        const bool   all = tokens.size() - done + last.size() <= n_batch;
        const size_t end = all ? tokens.size() : std::min(tokens.size(), done + n_batch);
        begin_batch();
        for (; done < end; ++done) {
            add_text(tokens[done], false);
        }
        for (size_t i = 0; all && i < last.size(); ++i) {
            add_text(last[i], true);
        }
        const int32_t ret = all && tokens.empty() && last.empty() ? 0 : decode();
        if (all || ret != 0) {
            return ret;
        }
    }
}

int32_t beam_context::decode_nodes(const std::vector<node> & added) {
    assign_paths(added);
    begin_batch();
    for (size_t i = 0; i < added.size(); ++i) {
        add(nodes[i].path, added[i], true);
    }
    return decode();
}

//
// paths
//

// A path goes on to its end's first child; other children get copies of it. Paths that end where nothing is added are free.
void beam_context::assign_paths(const std::vector<node> & added) {
    std::vector<decoded_node> before;
    before.swap(nodes);
    std::vector<bool> goes_on(before.size(), false);
    for (const node & node : added) {
        if (node.before >= 0) {
            goes_on.at(node.before) = true;
        }
    }
    for (size_t i = 0; i < before.size(); ++i) {
        if (!goes_on[i]) {
            leave_path(before[i]);
        }
    }
    std::vector<bool> taken(before.size(), false);
    for (const node & node : added) {
        if (node.before >= 0 && !taken[node.before]) {
            taken[node.before] = true;
            nodes.push_back(before[node.before]);
        } else {
            nodes.push_back(take_path(node, node.before < 0 ? nullptr : &before[node.before]));
        }
    }
}

beam_context::decoded_node beam_context::take_path(const node & node, const decoded_node * parent) {
    beam & beam = beams[node.lane];
    if (beam.free.empty()) {
        throw std::logic_error("more than " + std::to_string(shape_.width) + " nodes at one depth of a beam");
    }
    const llama_seq_id path = beam.free.back();
    beam.free.pop_back();
    llama_memory_t memory = llama_get_memory(ctx.get());
    if (parent) {
        llama_memory_seq_cp(memory, parent->path, path, beam.begin, -1);
    } else {
        beam.begin = node.pos;
        if (is_recurrent) {
            llama_memory_seq_cp(memory, text_of(node.lane), path, -1, -1);
        }
    }
    return { node.lane, path };
}

void beam_context::leave_path(const decoded_node & end) {
    llama_memory_seq_rm(llama_get_memory(ctx.get()), end.path, is_recurrent ? -1 : beams[end.lane].begin, -1);
    beams[end.lane].free.push_back(end.path);
}

void beam_context::drop_nodes() {
    for (const decoded_node & node : nodes) {
        leave_path(node);
    }
    nodes.clear();
}

//
// outputs
//

position_candidates beam_context::candidates(int32_t i, int32_t k) const {
    const int32_t row     = outputs.at(i);
    const float * entries = llama_tree_get_top_ith(ctx.get(), row);
    return entries ? candidates_of(entries, shape_.n_top, k) : top_candidates(llama_get_logits_ith(ctx.get(), row), n_vocab, k);
}

const float * beam_context::state(int32_t i) const {
    return llama_get_embeddings_nextn_ith(ctx.get(), outputs.at(i));
}

//
// the text
//

bool beam_context::remove(int32_t lane, llama_pos from, llama_pos to) {
    bool removed = llama_memory_seq_rm(llama_get_memory(ctx.get()), text_of(lane), from, to);
    for (int32_t i = 1; i <= shape_.width && removed && !is_recurrent; ++i) {
        removed = llama_memory_seq_rm(llama_get_memory(ctx.get()), text_of(lane) + i, from, to);
    }
    return removed;
}

bool beam_context::cut_text(int32_t lane, llama_pos pos) {
    return remove(lane, pos, -1);
}

bool beam_context::forget_before(int32_t lane, llama_pos pos) {
    return remove(lane, 0, pos);
}

void beam_context::clear(int32_t lane) {
    nodes.erase(std::remove_if(nodes.begin(), nodes.end(), [&](const decoded_node & node) { return node.lane == lane; }), nodes.end());
    for (int32_t i = 0; i <= shape_.width; ++i) {
        llama_memory_seq_rm(llama_get_memory(ctx.get()), text_of(lane) + i, -1, -1);
    }
    free_paths(lane);
}

void beam_context::free_paths(int32_t lane) {
    beams[lane].free.clear();
    for (int32_t i = shape_.width; i > 0; --i) {
        beams[lane].free.push_back(text_of(lane) + i);
    }
}

size_t beam_context::save_size(int32_t lane) const {
    return llama_state_seq_get_size(ctx.get(), text_of(lane));
}

void beam_context::save(int32_t lane, uint8_t * out, size_t size) const {
    llama_state_seq_get_data(ctx.get(), out, size, text_of(lane));
}

bool beam_context::load(int32_t lane, const uint8_t * data, size_t size) {
    clear(lane);
    if (llama_state_seq_set_data(ctx.get(), data, size, text_of(lane)) == 0) {
        clear(lane);
        return false;
    }
    for (int32_t i = 1; i <= shape_.width && !is_recurrent; ++i) {
        llama_memory_seq_cp(llama_get_memory(ctx.get()), text_of(lane), text_of(lane) + i, -1, -1);
    }
    return true;
}
