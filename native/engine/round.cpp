// One round of speculation, from top to bottom.

#include "engine.h"

#include "llama-tree.h"

#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <numeric>
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
    if (node >= 0) {
        abandon();
    }
    llama_tree_set_top(target, 0);
}

// Draft a tree after the root, and let the target look at all of it at once. What follows is next(), token by token.
round_status llama_dflash::start(const round_request & request) {
    settle();
    clock.start();
    path.clear();
    tokens.clear();
    n_past = request.n_past;
    n_max  = synthetic.on() ? std::min(synthetic.next_length(), request.n_max) : request.n_max;

    drafted = draft_tree_for(request);
    const round_status status = verify();
    node = status == round_status::done ? 0 : -1;
    return status;
}

// The target's own choice at the node where the walk is. The walk goes on as long as the tree holds these choices.
sampled_token llama_dflash::next(llama_sampler * sampler, bool greedy) {
    if (node < 0) {
        throw std::logic_error("no round is going on: start one first");
    }
    clock.resume();
    const int32_t at = node;
    if (path.size() == tokens.size()) { // else the sampler threw at this node before
        path.push_back(at);
    }
    tokens.push_back(choose_at(sampler, greedy));
    node = is_last(tokens.back()) ? -1 : tree.child(at, tokens.back());
    clock.end_phase(LLAMA_DFLASH_PHASE_SAMPLE);
    const sampled_token result = { tokens.back(), at, node };
    if (node < 0) {
        finish(false);
    }
    return result;
}

// Ends the walk where it is, if one is going on: the path so far, at least the root, is kept, other nodes go.
int32_t llama_dflash::settle() {
    if (node >= 0) {
        node = -1;
        clock.resume();
        if (path.empty()) {
            path.push_back(0);
        }
        finish(true);
    }
    return n_past + (int32_t) path.size();
}

void llama_dflash::finish(bool early) {
    try {
        commit();
    } catch (const std::exception &) { // no tree stays pending
        abandon();
        throw;
    }
    record(early);
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
    try {
        if (health.fit() && grow_drafted_tree(request)) {
            return true;
        }
    } catch (const std::exception & e) { // it costs the draft only
        drafter_failed(e);
    }
    tree = build_tree(request.root, {}, 0, true);
    clock.end_phase(LLAMA_DFLASH_PHASE_DRAFT);
    return false;
}

bool llama_dflash::grow_drafted_tree(const round_request & request) {
    const bool    chain       = !trees || params.mode == LLAMA_DFLASH_MODE_CHAIN;
    const int32_t n_nodes     = most_nodes(request);
    const int32_t deepest     = std::min({ draft.max_positions(), request.n_max - 1, n_nodes });
    const int32_t n_positions = params.budget > 0 || draft.block_is_whole() ? deepest : budget.positions(deepest);

    const bool wanted = n_positions > 0 && (params.budget > 0 || budget.wants_draft());
    if (!wanted || !draft.forward(request.root, request.n_past, n_positions)) {
        return false;
    }
    clock.end_phase(LLAMA_DFLASH_PHASE_DRAFT);

    tree = grow_tree(request.root, n_positions, n_nodes, chain);
    if (params.budget == 0) {
        tree.truncate(budget.choose(tree, clock.seconds[LLAMA_DFLASH_PHASE_DRAFT]));
    }
    clock.end_phase(LLAMA_DFLASH_PHASE_BUILD);
    health.drafted();
    return true;
}

// What it remembers may be damaged: it begins anew with what comes next.
void llama_dflash::drafter_failed(const std::exception & error) {
    health.failed(error.what());
    draft.forget();
}

// Its features are of use to drafts only.
void llama_dflash::observe(llama_pos pos, const int32_t * rows, int32_t n_rows, int32_t n_after) {
    try {
        health.rests() ? draft.truncate(pos) : draft.observe(pos, rows, n_rows, n_after);
    } catch (const std::exception & e) {
        drafter_failed(e);
    }
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

round_status llama_dflash::verify() {
    pending = trees && tree.n_nodes() > 1; // a root without a draft is on every path: it need not wait
    int32_t ret = decode_nodes(target, pending, tree, n_past);
    if (ret == 1 && tree.n_nodes() > 1) {
        tree.truncate(0); // no room for the tree: the root alone may still fit
        pending = false;
        ret = decode_nodes(target, pending, tree, n_past);
    }
    pending = pending && ret == 0;
    clock.end_phase(LLAMA_DFLASH_PHASE_VERIFY);
    if (ret == 1) {
        return round_status::no_room;
    }
    if (ret == 2) {
        return round_status::aborted;
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

llama_token llama_dflash::sample_at(llama_sampler * sampler, bool greedy) const {
    const llama_token best = greedy ? best_at(node) : -1;
    if (best < 0 || best >= draft.n_vocab()) { // not greedy, or the sampler has to decide what no best token means
        return llama_sampler_sample(sampler, target, node);
    }
    llama_sampler_accept(sampler, best);
    return best;
}

llama_token llama_dflash::choose_at(llama_sampler * sampler, bool greedy) const {
    const llama_token token = sample_at(sampler, greedy);
    const bool on_path = synthetic.on() && (int32_t) path.size() < n_max;
    return on_path ? synthetic.accepted_token(tree, node, token) : token;
}

bool llama_dflash::is_last(llama_token token) const {
    return (int32_t) tokens.size() >= n_max || llama_vocab_is_eog(llama_model_get_vocab(llama_get_model(target)), token);
}

//
// commit
//

void llama_dflash::commit() {
    observe(n_past, path.data(), (int32_t) path.size(), 0);
    if (pending) {
        if (llama_tree_commit(target, 0, path.data(), (int32_t) path.size()) != 0) {
            throw std::runtime_error(llama_tree_last_error());
        }
        pending = false;
    } else {
        llama_memory_seq_rm(llama_get_memory(target), 0, n_past + (llama_pos) path.size(), -1);
    }
    clock.end_phase(LLAMA_DFLASH_PHASE_COMMIT);
}

// Drops every node, unless a failed commit has dropped the whole sequence.
void llama_dflash::abandon() {
    if (llama_tree_pending(target, 0)) {
        llama_tree_discard(target, 0);
    } else {
        llama_memory_seq_rm(llama_get_memory(target), 0, n_past, -1);
    }
    pending = false;
    path.clear();
}

// What an early end would have accepted is unknown, so that nothing can be learned from it about drafts.
void llama_dflash::record(bool early) {
    const double verify_seconds = clock.seconds[LLAMA_DFLASH_PHASE_VERIFY];
    if (!drafted) {
        budget.record_plain(verify_seconds, clock.total());
    } else if (!early) {
        budget.record_draft(tree, (int32_t) tokens.size(), verify_seconds, clock.total());
    }
    clock.end_phase(LLAMA_DFLASH_PHASE_OTHER);
    stats = stats_so_far(true);
}

// Those of the rounds before and of the one that is going on.
llama_dflash_stats llama_dflash::stats_so_far(bool with_round) const {
    llama_dflash_stats sum = stats;
    if (with_round && !tokens.empty()) {
        sum.rounds   += 1;
        sum.drafted  += drafted;
        sum.nodes    += tree.n_nodes() - 1;
        sum.accepted += (int64_t) tokens.size() - 1;
        sum.tokens   += (int64_t) tokens.size();
        for (int phase = 0; phase < LLAMA_DFLASH_PHASE_COUNT; ++phase) {
            sum.seconds[phase] += clock.seconds[phase];
        }
    }
    return sum;
}

//
// phase_clock
//

void phase_clock::start() {
    seconds.fill(0.0);
    last = ggml_time_us();
}

void phase_clock::end_phase(llama_dflash_phase phase) {
    const int64_t now = ggml_time_us();
    seconds[phase] += (now - last)*1e-6;
    last = now;
}

void phase_clock::resume() {
    last = ggml_time_us();
}

double phase_clock::total() const {
    return std::accumulate(seconds.begin(), seconds.end(), 0.0);
}
