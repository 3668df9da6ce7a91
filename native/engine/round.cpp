// One round of speculation, from top to bottom.

#include "engine.h"

#include "llama-tree.h"

#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

// the largest tree that "auto" considers
static constexpr int32_t max_auto_nodes = 64;

static int32_t n_wanted(const llama_dflash_params & params) {
    return params.budget > 0 ? params.budget : max_auto_nodes;
}

static bool outputs_on_device(const llama_context * target, const llama_dflash_params & params) {
    return params.device_outputs < 0 ? llama_tree_outputs_on_device(llama_get_model(target)) : params.device_outputs > 0;
}

llama_dflash::llama_dflash(llama_context * target, const std::string & path, const llama_dflash_params & params) :
        target(target), params(params), device_outputs(outputs_on_device(target, params)),
        draft(target, path, { params.n_context, params.n_gpu_layers, params.type_k, params.type_v, params.n_threads,
                params.flash_attn != 0, params.short_block != 0, device_outputs ? n_wanted(params) : 0 }),
        budget(device_outputs), synthetic(params.synthetic_length), trees(llama_tree_supported(target)) {
    const int32_t n_nodes  = std::min(n_wanted(params) + 1, (int32_t) llama_n_ubatch(target));
    const int32_t depth    = std::min(draft.max_positions(), n_nodes - 1);
    if (trees && llama_tree_reserve(target, n_nodes, depth) != 0) {
        throw std::runtime_error(llama_tree_last_error());
    }
    llama_tree_set_top(target, device_outputs ? 1 : 0); // the last: no destructor takes it back if this throws
}

llama_dflash::~llama_dflash() {
    llama_tree_set_top(target, 0);
}

// Draft a tree after the root, let the target look at all of it at once, walk down as far as the target's own choices
// are in it, keep that path.
round_status llama_dflash::round(const round_request & request) {
    clock.start();

    const bool drafted = draft_tree_for(request);

    round_status status = verify(request);
    if (status != round_status::done) {
        return status;
    }
    try {
        if (!accept(request)) {
            abandon(request);
            return round_status::abandoned;
        }
        commit(request);
    } catch (...) { // a sampler may throw (a grammar that no token satisfies): no tree stays pending
        abandon(request);
        throw;
    }
    record(drafted);
    return status;
}

//
// draft
//

int32_t llama_dflash::most_nodes(const round_request & request) const {
    const int32_t n_cells  = (int32_t) llama_n_ctx(target) - request.n_past - 1; // one is the root's
    const int32_t n_ubatch = (int32_t) llama_n_ubatch(target) - 1;
    return std::max(0, std::min({ n_wanted(params), n_cells, n_ubatch }));
}

// The tree after the drafter's forward over n_positions.
draft_tree llama_dflash::grow_tree(llama_token root, int32_t n_positions, int32_t n_nodes, bool chain) {
    if (branch_scores * scores = draft.scores()) {
        synthetic_scores made_up(*scores);
        return build_tree(root, synthetic.on() ? made_up : *scores, n_positions, n_nodes, chain);
    }
    std::vector<position_candidates> positions;
    for (int32_t i = 0; i < n_positions; ++i) {
        positions.push_back(draft.candidates(i, chain ? 1 : n_nodes));
    }
    if (synthetic.on()) {
        synthetic.shape(positions);
    }
    return build_tree(root, positions, n_nodes, chain);
}

// Fills `tree`. Returns false if it holds the root alone because nothing was drafted.
bool llama_dflash::draft_tree_for(const round_request & request) {
    const bool    chain       = !trees || params.mode == LLAMA_DFLASH_MODE_CHAIN;
    const int32_t n_nodes     = most_nodes(request);
    const int32_t deepest     = std::min({ draft.max_positions(), request.n_max - 1, n_nodes });
    const int32_t n_positions = params.budget > 0 || draft.block_is_whole() ? deepest : budget.positions(deepest);

    const bool wanted = n_positions > 0 && (params.budget > 0 || budget.wants_draft());
    const bool drafted = wanted && draft.forward(request.root, request.n_past, n_positions);
    clock.end_phase(LLAMA_DFLASH_PHASE_DRAFT);

    tree = grow_tree(request.root, drafted ? n_positions : 0, n_nodes, chain);
    if (drafted && params.budget == 0) {
        tree.truncate(budget.choose(tree, clock.seconds[LLAMA_DFLASH_PHASE_DRAFT]));
    }
    clock.end_phase(LLAMA_DFLASH_PHASE_BUILD);
    return drafted;
}

//
// verify
//

static int32_t decode_nodes(llama_context * target, bool as_tree, draft_tree & tree, llama_pos n_past) {
    std::vector<llama_pos> pos(tree.n_nodes());
    std::vector<int8_t>    outputs(tree.n_nodes(), 1);
    for (int32_t i = 0; i < tree.n_nodes(); ++i) {
        pos[i] = n_past + tree.depth[i];
    }
    llama_batch batch = {};
    batch.n_tokens = tree.n_nodes();
    batch.token    = tree.tokens.data();
    batch.pos      = pos.data();
    batch.logits   = outputs.data();

    const int32_t ret = as_tree ? llama_tree_decode(target, batch, tree.parents.data()) : llama_decode(target, batch);
    if (ret == 0) {
        llama_synchronize(target); // so that the phases' times are their own
    }
    return ret;
}

// A root without a draft is on every path: where nothing can end the round before it is accepted, it need not be pending
// (a hybrid's commit takes a few percent of the time of a single token).
bool llama_dflash::is_plain(const round_request & request) const {
    return tree.n_nodes() == 1 && request.greedy && !request.on_token;
}

round_status llama_dflash::verify(const round_request & request) {
    pending = trees && !is_plain(request);
    int32_t ret = decode_nodes(target, pending, tree, request.n_past);
    if (ret == 1 && tree.n_nodes() > 1) {
        tree.truncate(0); // no room for the tree: the root alone may still fit
        ret = decode_nodes(target, pending, tree, request.n_past);
    }
    clock.end_phase(LLAMA_DFLASH_PHASE_VERIFY);
    if (ret == 1) {
        return round_status::no_room;
    }
    if (ret == 2) {
        return round_status::abandoned;
    }
    if (ret != 0) {
        throw std::runtime_error("the target's forward over " + std::to_string(tree.n_nodes()) + " nodes failed with " + std::to_string(ret));
    }
    return round_status::done;
}

//
// accept
//

static llama_token argmax(const float * logits, int32_t n) {
    constexpr int32_t lanes = 16;
    float best[lanes];
    std::fill(best, best + lanes, -INFINITY);
    int32_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        for (int32_t l = 0; l < lanes; ++l) {
            best[l] = logits[i + l] > best[l] ? logits[i + l] : best[l];
        }
    }
    float max = *std::max_element(best, best + lanes);
    for (; i < n; ++i) {
        max = std::max(max, logits[i]);
    }
    return (llama_token) (std::find(logits, logits + n, max) - logits);
}

// The token of the largest logit, or something that is no token if every logit is NaN or -inf.
llama_token llama_dflash::best_at(int32_t node) const {
    if (const float * entries = llama_tree_get_top_ith(target, node)) {
        return (llama_token) entries[1];
    }
    return argmax(llama_get_logits_ith(target, node), draft.n_vocab());
}

llama_token llama_dflash::sample_at(const round_request & request, int32_t node) const {
    const llama_token best = request.greedy ? best_at(node) : -1;
    if (best < 0 || best >= draft.n_vocab()) { // not greedy, or the sampler has to decide what no best token means
        return llama_sampler_sample(request.sampler, target, node);
    }
    llama_sampler_accept(request.sampler, best);
    return best;
}

// Walks from the root along the tokens that the target itself chooses. Returns false if on_token wants no round.
bool llama_dflash::accept(const round_request & request) {
    const llama_vocab * vocab = llama_model_get_vocab(llama_get_model(target));
    const int32_t n_max = synthetic.on() ? std::min(synthetic.next_length(), request.n_max) : request.n_max;
    path.clear();
    tokens.clear();

    for (int32_t node = 0; node >= 0; node = tree.child(node, tokens.back())) {
        path.push_back(node);
        tokens.push_back(sample_at(request, node));
        const bool last = (int32_t) tokens.size() >= n_max;
        if (synthetic.on() && !last) {
            tokens.back() = synthetic.accepted_token(tree, node, tokens.back());
        }

        const int32_t wish = request.on_token ? request.on_token(request.user_data, tokens.back()) : 0;
        if (wish < 0) {
            return false;
        }
        if (wish > 0 || last || llama_vocab_is_eog(vocab, tokens.back())) {
            break;
        }
    }
    clock.end_phase(LLAMA_DFLASH_PHASE_SAMPLE);
    return true;
}

//
// commit
//

void llama_dflash::commit(const round_request & request) {
    draft.observe(request.n_past, path.data(), (int32_t) path.size(), 0);
    if (pending) {
        if (llama_tree_commit(target, path.data(), (int32_t) path.size()) != 0) {
            throw std::runtime_error(llama_tree_last_error());
        }
        pending = false;
    } else {
        llama_memory_seq_rm(llama_get_memory(target), 0, request.n_past + (llama_pos) path.size(), -1);
    }
    clock.end_phase(LLAMA_DFLASH_PHASE_COMMIT);
}

void llama_dflash::abandon(const round_request & request) {
    if (pending) {
        llama_tree_discard(target);
        pending = false;
    } else {
        llama_memory_seq_rm(llama_get_memory(target), 0, request.n_past, -1);
    }
}

void llama_dflash::record(bool drafted) {
    const double verify_seconds = clock.seconds[LLAMA_DFLASH_PHASE_VERIFY];
    if (drafted) {
        budget.record_draft(tree, (int32_t) tokens.size(), verify_seconds, clock.total());
    } else {
        budget.record_plain(verify_seconds, clock.total());
    }
    clock.end_phase(LLAMA_DFLASH_PHASE_OTHER);

    stats.rounds   += 1;
    stats.drafted  += drafted;
    stats.nodes    += tree.n_nodes() - 1;
    stats.accepted += (int64_t) path.size() - 1;
    stats.tokens   += (int64_t) tokens.size();
    for (int phase = 0; phase < LLAMA_DFLASH_PHASE_COUNT; ++phase) {
        stats.seconds[phase] += clock.seconds[phase];
    }
}

//
// phase_clock
//

void phase_clock::start() {
    seconds.fill(0.0);
    begun = last = ggml_time_us();
}

void phase_clock::end_phase(llama_dflash_phase phase) {
    const int64_t now = ggml_time_us();
    seconds[phase] += (now - last)*1e-6;
    last = now;
}

double phase_clock::total() const {
    return (last - begun)*1e-6;
}
