#include "mtp/mtp-drafter.h"

#include "abort-guard.h"
#include "context-scores.h"
#include "fit.h"
#include "model-file.h"
#include "mtp/mtp-file.h"

#include "llama-ext.h"
#include "llama-mtp.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

static constexpr int32_t most_waiting = 512; // tokens of a lane

//
// loading
//

mtp_drafter::mtp_drafter(llama_context * target, const std::string & path, const drafter_params & params) :
        target(target), n_embd(llama_model_n_embd_out(llama_get_model(target))),
        n_vocab(llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(target)))),
        n_context(std::min(params.n_context, (int32_t) llama_n_ctx_seq(target))), depth(params.depth), lanes(params.n_lanes) {
    const abort_guard guard;
    if (!path.empty()) {
        const mtp_file file(path);
        file.check();
        refuse_misfits("the draft model " + path, file.misfits(target));
        model.reset(load_draft_model(llama_get_model(target), path, params.n_gpu_layers, /*load_mtp*/ true));
    }
    check_head();
    make_context(params);
    for (lane_text & text : lanes) {
        begin_at(text, 0);
    }
    llama_set_embeddings_nextn(target, true, /*masked*/ false);
}

mtp_drafter::~mtp_drafter() {
    llama_set_embeddings_nextn(target, false, false);
}

void mtp_drafter::check_head() const {
    for (const std::string & sentence : mtp_misfits(head())) {
        refuse(std::string(model ? "the draft model can't draft: " : "the target can't draft for itself: ") + sentence);
    }
    if (!llama_mtp_is_loaded(head())) {
        refuse("the target was loaded without its MTP layer: load it with llama_model_params.load_mtp");
    }
    if (llama_model_n_embd_out(head()) != (int32_t) n_embd) {
        refuse("the MTP layer reads hidden states of " + std::to_string(llama_model_n_embd_out(head())) + " numbers, the target's have " +
                std::to_string(n_embd) + ": it was made for another target");
    }
}

void mtp_drafter::make_context(const drafter_params & params) {
    llama_context_params cparams = context_params(params);
    cparams.ctx_type      = LLAMA_CONTEXT_TYPE_MTP;
    cparams.n_outputs_max = params.n_lanes*(1 + params.width); // of a text's tokens only the roots have one
    beams = std::make_unique<beam_context>(const_cast<llama_model *>(head()), cparams,
            beam_context::shape{ params.n_lanes, n_context, params.width, depth, most_waiting, params.n_top });
    llama_set_embeddings_nextn(beams->get(), true, /*masked*/ true);
}

//
// the text
//

const float * mtp_drafter::state_after(int32_t row) const {
    return llama_get_embeddings_nextn(target) + row*n_embd;
}

// The state before the first position is zero, as in training; before any other it is not known.
void mtp_drafter::begin_at(lane_text & text, llama_pos at) const {
    text     = {};
    text.end = at;
    text.last.assign(at == 0 ? n_embd : 0, 0.0f);
}

void mtp_drafter::clear(int32_t lane, llama_pos at) {
    beams->clear(lane);
    begin_at(lanes[lane], at);
}

void mtp_drafter::drop_root(int32_t lane) {
    if (lanes[lane].root >= 0) {
        beams->cut_text(lane, lanes[lane].end);
        lanes[lane].root = -1;
    }
}

void mtp_drafter::truncate(int32_t lane, llama_pos n_past) {
    lane_text & text = lanes[lane];
    if (n_past >= text.end) {
        return;
    }
    if (n_past <= 0) {
        clear(lane, 0);
        return;
    }
    beams->cut_text(lane, n_past);
    waiting_tokens waiting = std::move(text.waiting);
    begin_at(text, n_past);
    const size_t n = std::lower_bound(waiting.pos.begin(), waiting.pos.end(), n_past) - waiting.pos.begin();
    waiting.tokens.resize(n);
    waiting.pos   .resize(n);
    waiting.states.resize(n*n_embd);
    text.waiting = std::move(waiting);
}

void mtp_drafter::observe(const evaluated_tokens & tokens) {
    const int32_t lane = tokens.lane;
    truncate(lane, tokens.pos);
    if (tokens.n == 0) {
        return;
    }
    // only the newest n_context positions will be of use
    int32_t skip = std::clamp(tokens.n + tokens.n_after - n_context, 0, tokens.n - 1);
    if (tokens.pos > lanes[lane].end || skip > 0) {
        clear(lane, tokens.pos);
    }
    lane_text & text = lanes[lane];
    if (text.root >= 0 && text.root == tokens.tokens[0]) { // its draft has computed what is in memory from the same state
        text.root = -1;
        skip = std::max(skip, 1);
    }
    drop_root(lane);
    push(text, tokens, skip);
    if ((int32_t) text.waiting.tokens.size() >= most_waiting) {
        decode({ lane }, {});
    }
}

void mtp_drafter::push(lane_text & text, const evaluated_tokens & tokens, int32_t from) const {
    for (int32_t i = from; i < tokens.n; ++i) {
        const float * before = i > 0 ? state_after(tokens.rows[i - 1]) : text.last.empty() ? nullptr : text.last.data();
        if (before) { // else the layer's memory lacks this position
            text.waiting.tokens.push_back(tokens.tokens[i]);
            text.waiting.pos   .push_back(tokens.pos + i);
            text.waiting.states.insert(text.waiting.states.end(), before, before + n_embd);
        }
    }
    const float * last = state_after(tokens.rows[tokens.n - 1]);
    text.last.assign(last, last + n_embd);
    text.end = tokens.pos + tokens.n;
}

//
// the layer's memory
//

// What lies more than n_context positions before the root goes.
void mtp_drafter::make_room(int32_t lane) {
    lane_text & text = lanes[lane];
    const llama_pos first = text.end + 1 - n_context;
    if (first <= 0) {
        return;
    }
    beams->forget_before(lane, first);
    waiting_tokens & waiting = text.waiting;
    const auto n = std::lower_bound(waiting.pos.begin(), waiting.pos.end(), first) - waiting.pos.begin();
    waiting.tokens.erase(waiting.tokens.begin(), waiting.tokens.begin() + n);
    waiting.pos   .erase(waiting.pos   .begin(), waiting.pos   .begin() + n);
    waiting.states.erase(waiting.states.begin(), waiting.states.begin() + n*n_embd);
}

void mtp_drafter::append(int32_t lane, std::vector<beam_context::input> & inputs) const {
    const waiting_tokens & waiting = lanes[lane].waiting;
    for (size_t i = 0; i < waiting.tokens.size(); ++i) {
        inputs.push_back({ lane, waiting.tokens[i], waiting.pos[i], waiting.states.data() + i*n_embd });
    }
}

// Decodes what waits of these lanes, and then the roots.
void mtp_drafter::decode(const std::vector<int32_t> & some, const std::vector<beam_context::input> & roots) {
    std::vector<beam_context::input> inputs;
    for (const int32_t lane : some) {
        make_room(lane);
        append(lane, inputs);
    }
    const int32_t ret = beams->decode_text(inputs, roots);
    if (ret != 0) {
        throw std::runtime_error("the MTP layer's forward over " + std::to_string(inputs.size() + roots.size()) + " tokens failed with " +
                std::to_string(ret));
    }
    for (const int32_t lane : some) {
        lanes[lane].waiting = {};
    }
}

std::vector<draft_tree> mtp_drafter::propose(const std::vector<draft_request> & requests) {
    std::vector<int32_t> some, rows;
    std::vector<beam_context::input> roots;
    for (const draft_request & request : requests) {
        lane_text & text = lanes[request.lane];
        drop_root(request.lane);
        if (text.end != request.n_past || text.last.empty()) { // the state before the root is not known
            rows.push_back(-1);
            continue;
        }
        rows.push_back((int32_t) roots.size());
        some.push_back(request.lane);
        roots.push_back({ request.lane, request.root, request.n_past, text.last.data() });
    }
    if (roots.empty()) {
        return {};
    }
    decode(some, roots);
    for (const beam_context::input & root : roots) {
        lanes[root.lane].root = root.token;
    }
    return grow_in_context(*beams, requests, rows, { depth, 0, true, n_vocab });
}

//
// state
//

namespace {
struct state_head {
    llama_pos end;
    int32_t   has_last;
};
}

size_t mtp_drafter::save_size(int32_t lane) {
    drop_root(lane);
    decode({ lane }, {});
    return sizeof(state_head) + lanes[lane].last.size()*sizeof(float) + beams->save_size(lane);
}

void mtp_drafter::save(int32_t lane, uint8_t * out) {
    const size_t size = save_size(lane);
    const lane_text & text = lanes[lane];
    const state_head  head = { text.end, !text.last.empty() };
    const size_t n_bytes = text.last.size()*sizeof(float);
    memcpy(out, &head, sizeof(head));
    memcpy(out + sizeof(head), text.last.data(), n_bytes);
    beams->save(lane, out + sizeof(head) + n_bytes, size - sizeof(head) - n_bytes);
}

void mtp_drafter::load(int32_t lane, const uint8_t * data, size_t size) {
    state_head head = {};
    if (size >= sizeof(head)) {
        memcpy(&head, data, sizeof(head));
    }
    const size_t n_bytes = head.has_last == 1 ? n_embd*sizeof(float) : 0;
    const bool   whole   = size >= sizeof(head) + n_bytes && head.end >= 0 && (head.has_last == 0 || head.has_last == 1);
    clear(lane, whole ? head.end : 0);
    if (!whole || !beams->load(lane, data + sizeof(head) + n_bytes, size - sizeof(head) - n_bytes)) {
        clear(lane, 0);
        refuse("the MTP head's saved state of " + std::to_string(size) + " bytes is damaged, or of another head");
    }
    lanes[lane].last.resize(n_bytes/sizeof(float));
    memcpy(lanes[lane].last.data(), data + sizeof(head), n_bytes);
}
