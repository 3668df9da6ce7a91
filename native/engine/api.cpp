// The C ABI: turns exceptions into return codes and a sentence. See llama-dflash.h.
//
// What is no std::exception passes: where a callback of a sampler enters an interpreter that is exiting, glibc unwinds the
// thread through here, and ends the process if that is caught.

#include "llama-dflash.h"

#include "abort-guard.h"
#include "dflash/dflash-drafter.h"
#include "drafter-file.h"
#include "fit.h"
#include "make-drafter.h"
#include "model-file.h"
#include "speculation.h"
#include "top-sampling.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

struct llama_dflash : speculation {
    using speculation::speculation;
};

static thread_local std::string last_error;

// there may be no memory for it
static void note(const char * sentence) {
    try {
        last_error = sentence;
    } catch (const std::exception &) {
        last_error.clear();
    }
}

template<typename F, typename R>
static R guarded(R on_error, F && body) {
    try {
        return body();
    } catch (const std::exception & e) {
        note(e.what());
    }
    return on_error;
}

const char * llama_dflash_last_error(void) {
    return last_error.c_str();
}

llama_dflash_params llama_dflash_default_params(void) {
    return { LLAMA_DFLASH_MODE_TREE, 0, 1, -1, 0 };
}

llama_dflash_drafter_params llama_dflash_default_drafter_params(void) {
    return { "dflash", "", 4096, -1, GGML_TYPE_F16, GGML_TYPE_F16, 0, 1, 0, 5, 4, nullptr, nullptr, 0, 0 };
}

static void check_params(const llama_context * target, const llama_dflash_params & params) {
    if (params.mode != LLAMA_DFLASH_MODE_TREE && params.mode != LLAMA_DFLASH_MODE_CHAIN) {
        throw std::invalid_argument("mode is " + std::to_string(params.mode) + ", expected 0 (tree) or 1 (chain)");
    }
    const int32_t n_ubatch = (int32_t) llama_n_ubatch(target);
    if (params.budget < 0 || params.budget >= n_ubatch) {
        throw std::invalid_argument("budget is " + std::to_string(params.budget) + ", expected 0 (auto) or 1 to n_ubatch - 1 = " +
                std::to_string(n_ubatch - 1));
    }
    const int32_t n_seq_max = (int32_t) llama_n_seq_max(target);
    if (params.n_lanes < 1 || params.n_lanes > n_seq_max) {
        throw std::invalid_argument("n_lanes is " + std::to_string(params.n_lanes) + ", expected 1 to the target's n_seq_max = " +
                std::to_string(n_seq_max));
    }
    if (params.device_outputs < -1 || params.device_outputs > 1) {
        throw std::invalid_argument("device_outputs is " + std::to_string(params.device_outputs) + ", expected -1 (by the device), 0 or 1");
    }
}

llama_dflash * llama_dflash_load(
        llama_context * target, const llama_dflash_drafter_params * drafters, int32_t n_drafters, llama_dflash_params params) {
    return guarded<>((llama_dflash *) nullptr, [&] {
        check_params(target, params);
        std::vector<std::unique_ptr<drafter>> made;
        for (int32_t i = 0; i < n_drafters; ++i) {
            made.push_back(make_drafter(target, drafters[i], params));
        }
        return new llama_dflash(target, std::move(made), params);
    });
}

void llama_dflash_free(llama_dflash * engine) {
    delete engine;
}

int32_t llama_dflash_check_model(const char * path) {
    return guarded(-1, [&] {
        const abort_guard guard;
        check_target_file(path);
        return 0;
    });
}

const char * llama_dflash_misfits(const char * target, const char * drafter) {
    static thread_local std::string lines;
    return guarded((const char *) nullptr, [&] {
        lines.clear();
        for (const std::string & sentence : file_misfits(target, drafter)) {
            lines += (lines.empty() ? "" : "\n") + sentence;
        }
        return lines.c_str();
    });
}

const char * llama_dflash_kind_of(const char * path) {
    static thread_local std::string kind;
    return guarded((const char *) nullptr, [&] {
        const abort_guard guard;
        kind = drafter_file::kind_of(path);
        return kind.c_str();
    });
}

int32_t llama_dflash_injected_at_once(void) {
    return feature_queue::batch;
}

void llama_dflash_no_abort(bool on) {
    on ? abort_guard::begin() : abort_guard::end();
}

llama_token llama_dflash_sample(llama_sampler * sampler, llama_context * ctx, int32_t idx) {
    return guarded(-1, [&] {
        if (llama_get_logits_ith(ctx, idx) == nullptr) {
            throw std::runtime_error("there are no logits to sample from: evaluate a token first");
        }
        return llama_sampler_sample(sampler, ctx, idx);
    });
}

llama_token llama_dflash_sample_from_top(llama_sampler * chain, const float * top, int32_t n_top) {
    return guarded(-1, [&] {
        const llama_token token = choose_from_top(chain, top, n_top);
        if (token >= 0) {
            llama_sampler_accept(chain, token);
        }
        return token;
    });
}

bool llama_dflash_uses_trees(const llama_dflash * engine) {
    return engine->trees;
}

void llama_dflash_target_decoded(llama_dflash * engine) {
    engine->drafts.target_decoded();
}

int32_t llama_dflash_observe(
        llama_dflash * engine, int32_t lane, llama_pos pos, const llama_token * tokens, int32_t n_tokens, int32_t first_row,
        int32_t n_after) {
    return guarded(-1, [&] {
        std::vector<int32_t> rows(n_tokens);
        std::iota(rows.begin(), rows.end(), first_row);
        engine->drafts.observe({ engine->lane_of(lane).id, pos, tokens, rows.data(), n_tokens, n_after, false });
        return 0;
    });
}

int32_t llama_dflash_truncate(llama_dflash * engine, int32_t lane, llama_pos n_past) {
    return guarded(-1, [&] {
        engine->drafts.truncate(engine->lane_of(lane).id, n_past);
        return 0;
    });
}

int32_t llama_dflash_round(
        llama_dflash * engine, const llama_dflash_request * requests, int32_t n_lanes, llama_dflash_result * results) {
    return guarded(-1, [&] {
        std::vector<round_request> round;
        for (int32_t i = 0; i < n_lanes; ++i) {
            round.push_back({ requests[i].lane, requests[i].root, requests[i].n_past, std::max(1, requests[i].n_max) });
        }
        const round_status status = engine->start(round);
        for (int32_t i = 0; i < n_lanes; ++i) {
            const draft_tree & tree = engine->lane_of(requests[i].lane).tree;
            results[i] = { tree.n_nodes(), tree.tokens.data(), tree.parents.data(), tree.logprob.data() };
        }
        return (int32_t) status;
    });
}

static llama_dflash_token as_given(const llama_dflash * engine, int32_t lane, const sampled_token & sampled) {
    return { sampled.token, sampled.node, engine->lane_of(lane).row(sampled.node), sampled.child };
}

int32_t llama_dflash_next(llama_dflash * engine, int32_t lane, llama_sampler * sampler, llama_dflash_choice choice, llama_dflash_token * sampled) {
    return guarded(-1, [&] {
        *sampled = as_given(engine, lane, engine->next(lane, sampler, choice));
        return 0;
    });
}

int32_t llama_dflash_row(llama_dflash * engine, int32_t lane) {
    return guarded(-1, [&] { return engine->row(lane); });
}

llama_token llama_dflash_decided(llama_dflash * engine, int32_t lane, llama_sampler * sampler, llama_dflash_choice choice) {
    return guarded(-1, [&] { return engine->decided(lane, sampler, choice); });
}

int32_t llama_dflash_sampled(llama_dflash * engine, int32_t lane, llama_token token, llama_dflash_token * sampled) {
    return guarded(-1, [&] {
        *sampled = as_given(engine, lane, engine->sampled(lane, token));
        return 0;
    });
}

int32_t llama_dflash_settle(llama_dflash * engine, int32_t lane) {
    return guarded(-1, [&] { return engine->settle(lane); });
}

const char * llama_dflash_news(llama_dflash * engine) {
    for (tended_drafter & drafter : engine->drafts.drafters()) {
        if (const char * news = drafter.news()) {
            return news;
        }
    }
    return nullptr;
}

void llama_dflash_set_abort_callback(llama_dflash * engine, ggml_abort_callback callback, void * data) {
    for (tended_drafter & drafter : engine->drafts.drafters()) {
        drafter.get().set_abort_callback(callback, data);
    }
}

int32_t llama_dflash_set_synthetic_length(llama_dflash * engine, float length) {
    return guarded(-1, [&] {
        if (!(length == 0.0f || length >= 1.0f)) {
            throw std::invalid_argument("the synthetic length is " + std::to_string(length) + ", expected 0 (off) or at least 1");
        }
        engine->synthetic = synthetic_acceptance(length);
        return 0;
    });
}

int32_t llama_dflash_logprobs(
        llama_dflash * engine, int32_t lane, llama_token root, llama_pos n_past, int32_t n_positions, float * out) {
    return guarded(-1, [&] {
        for (tended_drafter & drafter : engine->drafts.drafters()) {
            if (auto * draft = dynamic_cast<dflash_drafter *>(&drafter.get())) {
                draft->logprobs(engine->lane_of(lane).id, root, n_past, n_positions, out);
                return 0;
            }
        }
        throw std::invalid_argument("there is no drafter of kind \"dflash\"");
    });
}

const char * llama_dflash_explain(llama_dflash * engine) {
    static thread_local std::string text;
    return guarded("", [&] {
        text = engine->explain();
        return text.c_str();
    });
}

const char * llama_dflash_learned(llama_dflash * engine) {
    static thread_local std::string text;
    return guarded("", [&] {
        text = engine->learned();
        return text.c_str();
    });
}

int32_t llama_dflash_learn(llama_dflash * engine, const char * text) {
    return guarded(-1, [&] {
        engine->learn_from(text);
        return 0;
    });
}

llama_dflash_stats llama_dflash_get_stats(const llama_dflash * engine, int32_t lane) {
    return guarded(llama_dflash_stats{}, [&] { return engine->stats_of(lane); });
}

void llama_dflash_reset_stats(llama_dflash * engine, int32_t lane) {
    guarded(-1, [&] {
        engine->reset_stats(lane);
        return 0;
    });
}

static tended_drafter & drafter_of(llama_dflash * engine, int32_t i) {
    if (i < 0 || i >= (int32_t) engine->drafts.drafters().size()) {
        throw std::out_of_range("there is no drafter " + std::to_string(i) + " but " + std::to_string(engine->drafts.drafters().size()));
    }
    return engine->drafts.drafters()[i];
}

size_t llama_dflash_state_size(llama_dflash * engine, int32_t lane, int32_t drafter) {
    return guarded((size_t) 0, [&] {
        tended_drafter & draft = drafter_of(engine, drafter);
        try {
            return draft.get().save_size(engine->lane_of(lane).id);
        } catch (const std::exception & e) {
            draft.failed(e);
            throw;
        }
    });
}

size_t llama_dflash_state_get(llama_dflash * engine, int32_t lane, int32_t drafter, uint8_t * out, size_t size) {
    return guarded((size_t) 0, [&] {
        tended_drafter & draft  = drafter_of(engine, drafter);
        const size_t     needed = draft.get().save_size(engine->lane_of(lane).id);
        if (size < needed) {
            throw std::invalid_argument("the drafter's state has " + std::to_string(needed) + " bytes, the buffer " + std::to_string(size));
        }
        draft.get().save(lane, out);
        return needed;
    });
}

int32_t llama_dflash_state_set(llama_dflash * engine, int32_t lane, int32_t drafter, const uint8_t * data, size_t size) {
    return guarded(-1, [&] {
        drafter_of(engine, drafter).get().load(engine->lane_of(lane).id, data, size);
        return 0;
    });
}
