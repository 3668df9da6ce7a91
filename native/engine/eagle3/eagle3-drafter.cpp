#include "eagle3/eagle3-drafter.h"

#include "abort-guard.h"
#include "context-scores.h"
#include "eagle3/eagle3-file.h"
#include "model-file.h"

#include "llama-ext.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

static constexpr int32_t pairs_at_once = 128; // that are decoded: there is room for a row of logits for each
static constexpr int32_t fused_at_once = 32;  // positions, for the same reason
static constexpr int32_t most_waiting  = 512; // positions of a lane, whose features are wide
static constexpr size_t  most_saved    = 64;  // of the newest positions' states: a text that is loaded may be cut back by so much

//
// loading
//

eagle3_drafter::eagle3_drafter(llama_context * target, const std::string & path, const drafter_params & params) :
        target(target), n_vocab(llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(target)))), n_context(params.n_context),
        depth(params.depth), lanes(params.n_lanes) {
    const abort_guard guard;
    const eagle3_file file(path);
    file.check();
    refuse_misfits("the draft model " + path, file.misfits(target));
    model.reset(load_draft_model(llama_get_model(target), path, params.n_gpu_layers));
    read_layout();
    make_context(params);

    wanted = std::make_unique<wanted_layers>(target, layers);
}

void eagle3_drafter::read_layout() {
    const int32_t * ids = llama_model_target_layer_ids(model.get());
    layers.assign(ids, ids + llama_model_target_layer_ids_n(model.get()));
    n_embd        = (size_t) llama_model_n_embd(model.get());
    n_embd_target = (size_t) llama_model_n_embd(llama_get_model(target));
    width         = layers.size()*n_embd_target;
}

void eagle3_drafter::make_context(const drafter_params & params) {
    llama_context_params cparams = context_params(params);
    cparams.ctx_other = target; // token embeddings and output head, where the head has none of its own
    beams = std::make_unique<beam_context>(model.get(), cparams,
            beam_context::shape{ params.n_lanes, n_context, params.width, depth, pairs_at_once, params.n_top });
    llama_set_embeddings_nextn(beams->get(), true, /*masked*/ true);
    batch.reset(llama_batch_ext_init(beams->get()));
}

//
// the text
//

void eagle3_drafter::clear(int32_t lane, llama_pos at) {
    lanes[lane]       = {};
    lanes[lane].begin = at;
    beams->clear(lane);
}

void eagle3_drafter::truncate(int32_t lane, llama_pos n_past) {
    lane_text & text = lanes[lane];
    if (n_past >= text.end()) {
        return;
    }
    if (n_past <= text.begin) {
        clear(lane, n_past);
        return;
    }
    const llama_pos n_fused   = std::max(0, std::min(fused_end(text), n_past) - fused_from(text));
    const llama_pos n_waiting = std::max(0, n_past - fused_end(text));
    text.fused   .resize(n_fused*n_embd);
    text.features.resize(n_waiting*width);
    text.tokens  .resize(n_past - text.begin);
}

void eagle3_drafter::observe(const evaluated_tokens & tokens) {
    const int32_t lane = tokens.lane;
    lane_text   & text = lanes[lane];
    truncate(lane, tokens.pos);

    // only the newest n_context positions will be of use
    const int32_t skip = std::clamp(tokens.n + tokens.n_after - n_context, 0, tokens.n);
    if (tokens.pos > text.end() || skip > 0) {
        clear(lane, tokens.pos + skip);
    }
    const int32_t n = tokens.n - skip;
    text.tokens.insert(text.tokens.end(), tokens.tokens + skip, tokens.tokens + tokens.n);
    const size_t n_before = text.features.size();
    text.features.resize(n_before + n*width);
    float * out = text.features.data() + n_before;
    for (size_t k = 0; k < layers.size(); ++k) {
        const float * inputs = llama_get_embeddings_layer_inp(target, layers[k]);
        for (int32_t i = 0; i < n; ++i) {
            memcpy(out + i*width + k*n_embd_target, inputs + tokens.rows[skip + i]*n_embd_target, n_embd_target*sizeof(float));
        }
    }
    if (n_waiting(text) >= most_waiting) {
        fuse({ lane });
        std::vector<beam_context::input> pairs;
        follow(lane, text.end() - 1, -1, pairs);
        decode(pairs, {});
        forget_old(text);
    }
}

// What lies more than n_context positions back makes room.
void eagle3_drafter::forget_old(lane_text & text) {
    const llama_pos first = text.end() - n_context;
    const llama_pos n     = std::max(0, std::min(first, fused_end(text)) - fused_from(text));
    text.fused.erase(text.fused.begin(), text.fused.begin() + n*n_embd);
    if (first > text.begin) {
        text.tokens.erase(text.tokens.begin(), text.tokens.begin() + (first - text.begin));
        text.begin = first;
    }
}

//
// states
//

void eagle3_drafter::fuse(const std::vector<int32_t> & some) {
    std::vector<const float *> rows;
    for (const int32_t lane : some) {
        for (int32_t i = 0; i < n_waiting(lanes[lane]); ++i) {
            rows.push_back(lanes[lane].features.data() + i*width);
        }
    }
    std::vector<float> fused(rows.size()*n_embd);
    for (size_t done = 0; done < rows.size(); done += fused_at_once) {
        const auto first = rows.begin() + done;
        fuse_some({ first, first + std::min((size_t) fused_at_once, rows.size() - done) }, fused.data() + done*n_embd);
    }
    const float * next = fused.data();
    for (const int32_t lane : some) {
        const size_t n = n_waiting(lanes[lane])*n_embd;
        lanes[lane].fused.insert(lanes[lane].fused.end(), next, next + n);
        lanes[lane].features.clear();
        next += n;
    }
}

void eagle3_drafter::fuse_some(const std::vector<const float *> & rows, float * out) {
    // positions do not matter, but have to be those that might follow what is in memory
    llama_pos pos = llama_memory_seq_pos_max(llama_get_memory(beams->get()), 0) + 1;
    llama_batch_ext_clear(batch.get());
    for (const float * row : rows) {
        const int32_t index = llama_batch_ext_add_embd(batch.get(), 0, { row, 1, width });
        llama_batch_ext_set_pos(batch.get(), index, &pos);
        pos += 1;
        llama_batch_ext_set_output_embd(batch.get(), index, true);
    }
    const int32_t ret = llama_process(beams->get(), LLAMA_PROCESS_TYPE_ENCODE, batch.get());
    if (ret != 0) {
        throw std::runtime_error("fusing the target's features of " + std::to_string(rows.size()) + " positions failed with " + std::to_string(ret));
    }
    llama_synchronize(beams->get());
    std::copy_n(llama_get_embeddings_nextn(beams->get()), rows.size()*n_embd, out);
}

//
// pairs
//

// Cuts the memory back to what it has in common with the text's first n_pairs pairs, of which the last one's token is `root`
// if that is not -1; that pair is always computed again. Returns where decoding goes on.
llama_pos eagle3_drafter::keep_common(int32_t lane, llama_pos n_pairs, llama_token root) {
    lane_text & text = lanes[lane];
    const llama_pos last_common = std::min(n_pairs - (root >= 0 ? 1 : 0), text.paired_from + (llama_pos) text.paired.size());
    llama_pos pos = text.paired_from;
    while (pos < last_common && pos + 1 >= text.begin && text.paired[pos - text.paired_from] == text.at(pos + 1)) {
        pos += 1;
    }
    const bool is_longer = pos < text.paired_from + (llama_pos) text.paired.size();
    const bool goes_on   = pos > text.paired_from && pos >= fused_from(text);
    if (!goes_on || (is_longer && !beams->cut_text(lane, pos))) {
        beams->clear(lane);
        text.paired.clear();
        text.paired_from = std::max(fused_from(text), n_pairs - n_context);
        return text.paired_from;
    }
    text.paired.resize(pos - text.paired_from);
    const llama_pos first = n_pairs - n_context;
    if (text.paired_from < first && beams->forget_before(lane, first)) {
        text.paired.erase(text.paired.begin(), text.paired.begin() + std::min((llama_pos) text.paired.size(), first - text.paired_from));
        text.paired_from = first;
    }
    return std::max(pos, first);
}

// Appends the pairs that are to be decoded, all but the root's.
void eagle3_drafter::follow(int32_t lane, llama_pos n_pairs, llama_token root, std::vector<beam_context::input> & inputs) {
    lane_text & text = lanes[lane];
    const llama_pos end = root >= 0 ? n_pairs - 1 : n_pairs;
    for (llama_pos pos = keep_common(lane, n_pairs, root); pos < end; ++pos) {
        inputs.push_back({ lane, text.at(pos + 1), pos, text.fused.data() + (pos - fused_from(text))*n_embd });
        text.paired.push_back(text.at(pos + 1));
    }
}

void eagle3_drafter::decode(const std::vector<beam_context::input> & pairs, const std::vector<beam_context::input> & last) {
    const int32_t ret = beams->decode_text(pairs, last);
    if (ret != 0) {
        throw std::runtime_error("the EAGLE-3 head's forward over " + std::to_string(pairs.size() + last.size()) + " tokens failed with " +
                std::to_string(ret));
    }
}

std::vector<draft_tree> eagle3_drafter::propose(const std::vector<draft_request> & requests) {
    std::vector<int32_t> some;
    for (const draft_request & request : requests) {
        if (lanes[request.lane].end() != request.n_past) {
            clear(request.lane, request.n_past);
        }
        some.push_back(request.lane);
    }
    fuse(some);

    std::vector<beam_context::input> pairs, roots;
    std::vector<int32_t> rows(requests.size(), -1);
    for (size_t i = 0; i < requests.size(); ++i) {
        const draft_request & request = requests[i];
        lane_text & text = lanes[request.lane];
        if (text.fused.empty()) {
            continue; // nothing is known of the position before the root
        }
        follow(request.lane, request.n_past, request.root, pairs);
        rows[i] = (int32_t) roots.size();
        roots.push_back({ request.lane, request.root, request.n_past - 1, text.fused.data() + text.fused.size() - n_embd });
        text.paired.push_back(request.root);
    }
    if (roots.empty()) {
        return {};
    }
    decode(pairs, roots);
    for (const draft_request & request : requests) {
        forget_old(lanes[request.lane]);
    }
    return grow_in_context(*beams, requests, rows, { depth, -1, true, n_vocab });
}

//
// state
//

namespace {
struct state_head {
    llama_pos begin;
    llama_pos paired_from;
    int32_t   n_tokens;
    int32_t   n_paired;
    int32_t   n_fused;
};
}

size_t eagle3_drafter::save_size(int32_t lane) {
    fuse({ lane });
    const lane_text & text = lanes[lane];
    return sizeof(state_head) + (text.tokens.size() + text.paired.size())*sizeof(llama_token) +
            std::min(text.fused.size(), most_saved*n_embd)*sizeof(float) + beams->save_size(lane);
}

void eagle3_drafter::save(int32_t lane, uint8_t * out) {
    const uint8_t * const end = out + save_size(lane);
    const lane_text & text = lanes[lane];
    const state_head head = {
        text.begin, text.paired_from, (int32_t) text.tokens.size(), (int32_t) text.paired.size(),
        (int32_t) std::min(text.fused.size()/n_embd, most_saved),
    };
    const auto put = [&](const void * from, size_t n) { out = (uint8_t *) memcpy(out, from, n) + n; };
    put(&head, sizeof(head));
    put(text.tokens.data(), text.tokens.size()*sizeof(llama_token));
    put(text.paired.data(), text.paired.size()*sizeof(llama_token));
    put(text.fused.data() + text.fused.size() - head.n_fused*n_embd, head.n_fused*n_embd*sizeof(float));
    beams->save(lane, out, end - out);
}

void eagle3_drafter::load(int32_t lane, const uint8_t * data, size_t size) {
    const uint8_t * const end = data + size;
    const auto take = [&](void * to, size_t n) {
        if ((size_t) (end - data) < n) {
            clear(lane, 0);
            refuse("the EAGLE-3 head's saved state of " + std::to_string(size) + " bytes is damaged, or of another head");
        }
        memcpy(to, data, n);
        data += n;
    };
    state_head head = {};
    take(&head, sizeof(head));
    const bool sane = head.begin >= 0 && head.n_tokens >= 0 && head.n_paired >= 0 && head.n_fused >= 0 &&
            (size_t) head.n_tokens + head.n_paired <= size && head.n_fused <= head.n_tokens;
    lane_text text;
    text.begin       = head.begin;
    text.paired_from = head.paired_from;
    text.tokens.resize(sane ? head.n_tokens : size);
    take(text.tokens.data(), text.tokens.size()*sizeof(llama_token));
    text.paired.resize(head.n_paired);
    take(text.paired.data(), text.paired.size()*sizeof(llama_token));
    text.fused.resize(head.n_fused*n_embd);
    take(text.fused.data(), text.fused.size()*sizeof(float));
    if (!beams->load(lane, data, end - data)) {
        clear(lane, text.end());
        refuse("the EAGLE-3 head's saved state does not fit this head: it is damaged, or of another one or context length");
    }
    lanes[lane] = std::move(text);
}
