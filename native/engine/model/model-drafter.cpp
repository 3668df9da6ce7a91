#include "model/model-drafter.h"

#include "abort-guard.h"
#include "context-scores.h"
#include "model/draft-model-file.h"
#include "model-file.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

//
// loading
//

model_drafter::model_drafter(llama_context * target, const std::string & path, const drafter_params & params) :
        n_vocab_target(llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(target)))), depth(params.depth), lanes(params.n_lanes) {
    const abort_guard guard;
    const draft_model_file file(path);
    file.check();
    refuse_misfits("the draft model " + path, file.misfits(target));
    model.reset(load_draft_model(llama_get_model(target), path, params.n_gpu_layers));
    if (!llama_model_has_decoder(model.get()) || llama_model_has_encoder(model.get())) {
        refuse("the draft model " + path + " does not continue a text (it has an encoder, or no decoder): use a causal language model");
    }
    n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model.get()));
    make_context(target, params);
}

void model_drafter::make_context(llama_context * target, const drafter_params & params) {
    const int32_t n_trained = llama_model_n_ctx_train(model.get());
    n_context = std::min(params.n_context, (int32_t) llama_n_ctx_seq(target));
    n_context = n_trained > 0 ? std::min(n_context, n_trained) : n_context;

    beams = std::make_unique<beam_context>(model.get(), context_params(params),
            beam_context::shape{ params.n_lanes, n_context, params.width, depth, 512, params.n_top });
    if (llama_get_memory(beams->get()) == nullptr) {
        refuse("the draft model has no memory of a text (an embedding model?): use a causal language model");
    }
}

//
// the text
//

void model_drafter::clear(int32_t lane, llama_pos at) {
    lanes[lane].begin = at;
    lanes[lane].tokens.clear();
}

void model_drafter::forget(int32_t lane) {
    clear(lane, lanes[lane].end());
    beams->clear(lane);
    lanes[lane].decoded.clear();
}

void model_drafter::truncate(int32_t lane, llama_pos n_past) {
    if (n_past < lanes[lane].begin) {
        clear(lane, n_past);
    } else if (n_past < lanes[lane].end()) {
        lanes[lane].tokens.resize(n_past - lanes[lane].begin);
    }
}

void model_drafter::observe(const evaluated_tokens & tokens) {
    lane_text & text = lanes[tokens.lane];
    truncate(tokens.lane, tokens.pos);
    if (tokens.pos > text.end()) {
        clear(tokens.lane, tokens.pos);
    }
    for (int32_t i = 0; i < tokens.n; ++i) {
        if (tokens.tokens[i] >= 0 && tokens.tokens[i] < n_vocab) {
            text.tokens.push_back(tokens.tokens[i]);
        } else {
            clear(tokens.lane, tokens.pos + i + 1); // the target's padding, which it does not know: it begins anew after it
        }
    }
}

//
// following it
//

// So that no more than n_context positions are in memory, the first of them the one at `first`.
bool model_drafter::make_room(int32_t lane, llama_pos first) {
    lane_text & text = lanes[lane];
    if (text.decoded.empty() || text.decoded_from >= first) {
        return true;
    }
    const size_t n = std::min(text.decoded.size(), (size_t) (first - text.decoded_from));
    if (!beams->forget_before(lane, first)) {
        return false;
    }
    text.decoded.erase(text.decoded.begin(), text.decoded.begin() + n);
    text.decoded_from = first;
    return true;
}

// Cuts the memory back to what it has in common with the text. Returns where decoding goes on.
llama_pos model_drafter::keep_common(int32_t lane, const draft_request & request) {
    lane_text & text  = lanes[lane];
    llama_pos   first = std::max(text.begin, request.n_past + 1 - n_context);

    const llama_pos last_common = std::min(request.n_past, text.decoded_from + (llama_pos) text.decoded.size());
    llama_pos pos = text.decoded_from;
    while (pos < last_common && pos >= text.begin && text.decoded[pos - text.decoded_from] == text.at(pos)) {
        pos += 1;
    }
    const bool starts_there = !text.decoded.empty() && text.decoded_from >= text.begin && pos > text.decoded_from;
    const bool is_longer    = pos < text.decoded_from + (llama_pos) text.decoded.size();
    if (starts_there && (!is_longer || beams->cut_text(lane, pos))) {
        text.decoded.resize(pos - text.decoded_from);
        if (make_room(lane, first)) {
            return std::max(pos, first);
        }
        first = std::max(text.begin, request.n_past + 1 - (n_context + 1)/2); // can't be cut: not again soon
    }
    beams->clear(lane);
    text.decoded.clear();
    text.decoded_from = first;
    return first;
}

// Decodes what the text has gained, and the roots. Returns false if there is no room, or if that was aborted.
bool model_drafter::follow(const std::vector<draft_request> & requests) {
    std::vector<beam_context::input> tokens, roots;
    for (const draft_request & request : requests) {
        lane_text & text = lanes[request.lane];
        if (text.end() != request.n_past) {
            clear(request.lane, request.n_past);
        }
        for (llama_pos pos = keep_common(request.lane, request); pos < request.n_past; ++pos) {
            tokens.push_back({ request.lane, text.at(pos), pos, nullptr });
            text.decoded.push_back(text.at(pos));
        }
        roots.push_back({ request.lane, request.root, request.n_past, nullptr });
        text.decoded.push_back(request.root);
    }
    const int32_t ret = beams->decode_text(tokens, roots);
    if (ret == 0) {
        return true;
    }
    for (const draft_request & request : requests) {
        beams->clear(request.lane);
        lanes[request.lane].decoded.clear();
    }
    if (ret < 0) {
        throw std::runtime_error("the draft model's forward over " + std::to_string(tokens.size() + roots.size()) + " tokens failed with " +
                std::to_string(ret));
    }
    return false;
}

std::vector<draft_tree> model_drafter::propose(const std::vector<draft_request> & requests) {
    if (!follow(requests)) {
        return {};
    }
    std::vector<int32_t> rows(requests.size());
    std::iota(rows.begin(), rows.end(), 0);
    return grow_in_context(*beams, requests, rows, { depth, 0, false, n_vocab_target });
}

//
// state
//

size_t model_drafter::save_size(int32_t lane) {
    return sizeof(llama_pos) + lanes[lane].tokens.size()*sizeof(llama_token);
}

void model_drafter::save(int32_t lane, uint8_t * out) {
    memcpy(out, &lanes[lane].begin, sizeof(llama_pos));
    memcpy(out + sizeof(llama_pos), lanes[lane].tokens.data(), lanes[lane].tokens.size()*sizeof(llama_token));
}

void model_drafter::load(int32_t lane, const uint8_t * data, size_t size) {
    llama_pos begin = 0;
    std::vector<llama_token> tokens;
    if (size >= sizeof(begin) && (size - sizeof(begin)) % sizeof(llama_token) == 0) {
        memcpy(&begin, data, sizeof(begin));
        tokens.resize((size - sizeof(begin))/sizeof(llama_token));
        memcpy(tokens.data(), data + sizeof(begin), tokens.size()*sizeof(llama_token));
    }
    const bool known = std::all_of(tokens.begin(), tokens.end(), [&](llama_token token) { return token >= 0 && token < n_vocab; });
    if (size < sizeof(begin) || (size - sizeof(begin)) % sizeof(llama_token) != 0 || begin < 0 || !known) {
        forget(lane);
        refuse("the draft model's saved state of " + std::to_string(size) + " bytes is damaged, or of another draft model");
    }
    lanes[lane].begin  = begin;
    lanes[lane].tokens = std::move(tokens);
}
