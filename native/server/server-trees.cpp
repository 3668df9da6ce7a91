// See server-trees.h.

#include "server-trees.h"

#include "../engine/llama-dflash.h"
#include "log.h"
#include "server-tree-options.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

// nodes of a lane that "auto" verifies at most (native/engine/speculation.cpp)
static constexpr int32_t most_auto_nodes = 64;

static constexpr int32_t all_layers = 999;

void server_trees::engine_deleter::operator()(llama_dflash * engine) const {
    llama_dflash_free(engine);
}

static std::runtime_error engine_error(const std::string & what) {
    return std::runtime_error(what + ": " + llama_dflash_last_error());
}

//
// from options
//

static int32_t n_gpu_layers(const common_params & params) {
    const int32_t given = params.speculative.draft.n_gpu_layers != -1 ? params.speculative.draft.n_gpu_layers : params.n_gpu_layers;
    return given >= 0 ? given : all_layers;
}

static llama_dflash_drafter_params engine_params(const server_drafter & drafter, const common_params & params) {
    const auto & draft = params.speculative.draft;
    llama_dflash_drafter_params result = llama_dflash_default_drafter_params();
    result.kind         = drafter.kind.c_str();
    result.path         = drafter.path.c_str();
    result.n_gpu_layers = n_gpu_layers(params);
    result.type_k       = draft.cache_type_k;
    result.type_v       = draft.cache_type_v;
    result.n_threads    = draft.cpuparams_batch.n_threads;
    result.n_context    = drafter.kind == "model" ? 8192 : result.n_context;
    return result;
}

server_trees::server_trees(llama_context * target, const common_params & params) : target(target), lanes(params.n_parallel) {
    const std::vector<server_drafter> drafters = server_drafters(params);
    std::vector<llama_dflash_drafter_params> given;
    for (const server_drafter & drafter : drafters) {
        given.push_back(engine_params(drafter, params));
    }
    llama_dflash_params common = llama_dflash_default_params();
    common.mode       = params.speculative.tree.chain ? LLAMA_DFLASH_MODE_CHAIN : LLAMA_DFLASH_MODE_TREE;
    common.budget     = params.speculative.tree.budget;
    common.n_lanes    = params.n_parallel;
    common.calibrated = 1;
    engine.reset(llama_dflash_load(target, given.data(), (int32_t) given.size(), common));
    if (!engine) {
        throw engine_error("--spec-type tree");
    }
    n_drafters = (int32_t) given.size();
    if (params.speculative.synth_len >= 1.0 && llama_dflash_set_synthetic_length(engine.get(), (float) params.speculative.synth_len) != 0) {
        throw engine_error("--spec-type tree");
    }
    if (!llama_dflash_uses_trees(engine.get())) {
        LOG_WRN("trees: the memory of this target holds no trees, chains are verified\n");
    }
}

server_trees::~server_trees() = default;

std::string server_trees::misfits(const common_params & params) {
    std::string found;
    try {
        for (const server_drafter & drafter : server_drafters(params)) {
            const char * sentences = llama_dflash_misfits(params.model.path.c_str(), drafter.path.c_str());
            if (sentences == nullptr) {
                return llama_dflash_last_error();
            }
            found += std::string(*sentences && !found.empty() ? "\n" : "") + sentences;
        }
    } catch (const std::exception & e) {
        return e.what();
    }
    return found;
}

size_t server_trees::n_device_bytes(const common_params & params) {
    size_t n = 0;
    for (const server_drafter & drafter : server_drafters(params)) {
        std::error_code error;
        const auto size = drafter.path.empty() ? 0 : std::filesystem::file_size(drafter.path, error);
        n += error ? 0 : size;
    }
    return n_gpu_layers(params) > 0 ? n : 0;
}

int32_t server_trees::most_outputs(const common_params & params) {
    const int32_t budget = params.speculative.tree.budget;
    return (budget > 0 ? budget : most_auto_nodes) + 1;
}

//
// what a sampler has to see of a row of logits
//

// Of the entries that the engine fetches (128) some must be left where penalties move others down.
static constexpr int32_t most_kept = 100;

static bool only_lowers(const common_params_sampling & s) {
    return s.penalty_repeat >= 1.0f && s.penalty_freq >= 0.0f && s.penalty_present >= 0.0f && s.logit_bias.empty();
}

static bool has_grammar(const common_params_sampling & s) { // or a budget of reasoning: as common_sampler_init()
    return !s.grammar.empty() || s.grammar_lazy || s.reasoning_budget_tokens >= 0 || s.reasoning_control;
}

static bool has(const common_params_sampling & s, common_sampler_type type) {
    return std::find(s.samplers.begin(), s.samplers.end(), type) != s.samplers.end();
}

static llama_dflash_choice choice_of(const common_params_sampling & s, bool with_probs) {
    const bool plain_chain = s.mirostat == 0 && !with_probs && !has_grammar(s) && only_lowers(s) && !has(s, COMMON_SAMPLER_TYPE_ADAPTIVE_P);
    if (!plain_chain || !has(s, COMMON_SAMPLER_TYPE_TOP_K) || s.top_k < 1 || s.top_k > most_kept) {
        return LLAMA_DFLASH_CHOICE_ROW;
    }
    return LLAMA_DFLASH_CHOICE_TOP_K;
}

//
// rounds
//

void server_trees::begin(int32_t id, const common_params_sampling & sampling, bool with_probs) {
    lanes.at(id) = lane();
    lanes.at(id).choice  = choice_of(sampling, with_probs);
    lanes.at(id).t_begin = ggml_time_us();
}

server_tree_status server_trees::round(const std::vector<server_tree_request> & requests) {
    std::vector<llama_dflash_request> given;
    for (const server_tree_request & request : requests) {
        given.push_back({ request.lane, request.root, request.n_past, request.n_max });
    }
    std::vector<llama_dflash_result> trees(given.size());
    const int32_t ret = llama_dflash_round(engine.get(), given.data(), (int32_t) given.size(), trees.data());
    tell_news();
    if (ret == 1) {
        return server_tree_status::no_room;
    }
    if (ret != 0) {
        throw engine_error("a round of " + std::to_string(given.size()) + " slots failed");
    }
    for (size_t i = 0; i < trees.size(); ++i) {
        lane & lane = lanes.at(given[i].lane);
        lane.walking  = true;
        lane.n_tokens = 0;
        lane.tree.clear();
        for (int32_t node = 0; node < trees[i].n_nodes; ++node) {
            lane.tree.push_back({ trees[i].node_token[node], trees[i].parents[node], std::exp(trees[i].logprob[node]), node == 0 });
        }
    }
    return server_tree_status::done;
}

llama_token server_trees::sample(int32_t id, common_sampler * sampler) {
    const auto choice = (llama_dflash_choice) lanes.at(id).choice;
    if (choice != LLAMA_DFLASH_CHOICE_ROW) {
        const llama_token token = llama_dflash_decided(engine.get(), id, common_sampler_get(sampler), choice);
        if (token >= 0) {
            return token;
        }
    }
    return common_sampler_sample(sampler, target, lanes.at(id).row);
}

llama_token server_trees::next(int32_t id, common_sampler * sampler) {
    lane & lane = lanes.at(id);
    lane.row = llama_dflash_row(engine.get(), id);
    if (lane.row < 0) {
        throw engine_error("no token can be sampled");
    }
    llama_dflash_token sampled;
    if (llama_dflash_sampled(engine.get(), id, sample(id, sampler), &sampled) != 0) {
        throw engine_error("the accepted tokens could not be kept");
    }
    common_sampler_accept(sampler, sampled.token, true);
    lane.n_tokens += 1;
    if (sampled.child >= 0) {
        lane.tree[sampled.child].accepted = true;
    } else {
        end_walk(lane);
    }
    return sampled.token;
}

void server_trees::settle(int32_t id) {
    lane & lane = lanes.at(id);
    if (!lane.walking) {
        return;
    }
    const int32_t ret = llama_dflash_settle(engine.get(), id);
    end_walk(lane);
    if (ret < 0) {
        throw engine_error("the accepted tokens could not be kept");
    }
}

void server_trees::end_walk(lane & lane) {
    lane.walking = false;
    if (lane.n_tokens > 0) {
        lane.counts.add_round(lane.tree.size() - 1, lane.n_tokens);
        lane.last_tree = lane.tree;
        lane.t_last    = ggml_time_us();
    }
}

void server_trees::tell_news() {
    if (const char * news = llama_dflash_news(engine.get())) {
        LOG_WRN("trees: a drafter failed: %s. The text goes on without its drafts; it is tried again later\n", news);
    }
}

//
// following the server
//

void server_trees::observe(const common_batch & batch, const std::vector<int32_t> & n_after) {
    llama_dflash_target_decoded(engine.get());
    const int32_t n = batch.size();
    for (int32_t first = 0, end = 0; first < n; first = end) {
        const int32_t id = batch.tokens[first].seq_id;
        std::vector<llama_token> tokens;
        for (end = first; end < n && batch.tokens[end].seq_id == id && batch.tokens[end].id != LLAMA_TOKEN_NULL; ++end) {
            tokens.push_back(batch.tokens[end].id);
        }
        const llama_pos pos = batch.tokens[first].pos[0];
        if (tokens.empty()) { // embeddings: drafters begin anew with the text after them
            end = first + 1;
            forget(id, pos);
        } else if (llama_dflash_observe(engine.get(), id, pos, tokens.data(), (int32_t) tokens.size(), first, n_after.at(id)) != 0) {
            throw engine_error("the drafters can't follow");
        }
    }
    tell_news();
}

void server_trees::forget(int32_t id, llama_pos n_past) {
    if (llama_dflash_truncate(engine.get(), id, std::max(0, n_past)) != 0) {
        throw engine_error("the drafters can't follow");
    }
}

void server_trees::seq_rm(llama_seq_id id, llama_pos p0, llama_pos) {
    settle(id);
    forget(id, p0); // what comes after a gap has moved, or will
}

void server_trees::seq_add(llama_seq_id id, llama_pos p0, llama_pos, llama_pos delta) {
    settle(id);
    forget(id, std::min(p0, p0 + delta));
}

void server_trees::seq_cp(llama_seq_id from, llama_seq_id to, llama_pos, llama_pos) {
    set_state(to, state(from));
}

//
// states: of each drafter its size and its bytes
//

size_t server_trees::state_size(int32_t id) {
    size_t n = 0;
    for (int32_t i = 0; i < n_drafters; ++i) {
        n += sizeof(uint64_t) + llama_dflash_state_size(engine.get(), id, i);
    }
    return n;
}

std::vector<uint8_t> server_trees::state(int32_t id) {
    std::vector<uint8_t> data;
    for (int32_t i = 0; i < n_drafters; ++i) {
        const uint64_t n_most = llama_dflash_state_size(engine.get(), id, i);
        const size_t   begin  = data.size() + sizeof(uint64_t);
        data.resize(begin + n_most);
        const uint64_t n = llama_dflash_state_get(engine.get(), id, i, data.data() + begin, n_most);
        memcpy(data.data() + begin - sizeof(n), &n, sizeof(n));
        data.resize(begin + n);
    }
    return data;
}

void server_trees::set_state(int32_t id, const std::vector<uint8_t> & data) {
    settle(id);
    const uint8_t * at = data.data();
    const uint8_t * const end = at + data.size();
    bool good = true;
    for (int32_t i = 0; i < n_drafters && good; ++i) {
        uint64_t n = 0;
        good = end - at >= (ptrdiff_t) sizeof(n);
        if (good) {
            memcpy(&n, at, sizeof(n));
            at += sizeof(n);
            good = n <= (uint64_t) (end - at) && llama_dflash_state_set(engine.get(), id, i, at, n) == 0;
            at += good ? n : 0;
        }
    }
    if (!good) {
        forget(id, 0);
    }
}

// A file is its magic, a hash of the text, and the state.

static constexpr char magic[] = "llama-dflash drafters 1\n";

static uint64_t hash_of(const void * data, size_t n) { // FNV-1a
    uint64_t hash = 0xcbf29ce484222325;
    for (size_t i = 0; i < n; ++i) {
        hash = (hash ^ static_cast<const uint8_t *>(data)[i])*0x100000001b3;
    }
    return hash;
}

static std::string head_of(const void * text, size_t n_bytes) {
    const uint64_t hash = hash_of(text, n_bytes);
    return magic + std::string(reinterpret_cast<const char *>(&hash), sizeof(hash));
}

static std::string beside(const std::string & slot_file) { return slot_file + ".drafters"; }

void server_trees::save_file(int32_t id, const std::string & slot_file, const void * text, size_t n_bytes) {
    const std::string          head = head_of(text, n_bytes);
    const std::vector<uint8_t> data = state(id);
    std::ofstream out(beside(slot_file), std::ios::binary);
    out.write(head.data(), head.size());
    out.write(reinterpret_cast<const char *>(data.data()), data.size());
    out.close();
    if (!out) {
        LOG_WRN("trees: %s could not be written: restored from %s, the drafters will begin anew\n", beside(slot_file).c_str(), slot_file.c_str());
        std::remove(beside(slot_file).c_str());
    }
}

void server_trees::load_file(int32_t id, const std::string & slot_file, const void * text, size_t n_bytes) {
    const std::string head = head_of(text, n_bytes);
    std::ifstream in(beside(slot_file), std::ios::binary);
    std::string found(head.size(), '\0');
    in.read(&found[0], found.size());
    std::vector<uint8_t> data;
    if (in && found == head) {
        data.assign(std::istreambuf_iterator<char>(in), {});
    }
    set_state(id, data);
}

//
// numbers
//

server_tree_counts server_trees::counts(int32_t id) const {
    const lane & lane = lanes.at(id);
    server_tree_counts counts = lane.counts;
    if (lane.walking && lane.n_tokens > 0) {
        counts.add_round(lane.tree.size() - 1, lane.n_tokens);
    }
    return counts;
}

common_json server_trees::to_json(int32_t id) const {
    const lane & lane = lanes.at(id);
    const llama_vocab * vocab = llama_model_get_vocab(llama_get_model(target));
    common_json lengths = common_json::array();
    for (const uint64_t n : lane.counts.lengths) {
        lengths.push_back(n);
    }
    common_json nodes = common_json::array();
    for (const shown_node & node : lane.last_tree) {
        nodes.push_back({
            {"id",       node.id},
            {"text",     common_token_to_piece(vocab, node.id, true)},
            {"parent",   node.parent},
            {"p",        node.p},
            {"accepted", node.accepted},
        });
    }
    const double seconds = (lane.t_last - lane.t_begin)*1e-6;
    return {
        {"rounds",             lane.counts.rounds},
        {"nodes",              lane.counts.nodes},
        {"accepted",           lane.counts.accepted},
        {"tokens",             lane.counts.tokens},
        {"tokens_per_second",  lane.counts.rounds > 0 && seconds > 0.0 ? lane.counts.tokens/seconds : 0.0},
        {"acceptance_lengths", lengths},
        {"tree", {{"round", lane.counts.rounds}, {"nodes", nodes}}},
    };
}
