// The C ABI: turns exceptions into return codes and a sentence. See llama-dflash.h.
//
// What is no std::exception passes: where a callback of a sampler enters an interpreter that is exiting, glibc unwinds the
// thread through here, and ends the process if that is caught.

#include "llama-dflash.h"

#include "abort-guard.h"
#include "speculation.h"
#include "model-file.h"

#include "ggml-top-logprobs.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

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
    return { LLAMA_DFLASH_MODE_TREE, 0, 4096, -1, GGML_TYPE_F16, GGML_TYPE_F16, 0, 1, 0, -1, 0.0f };
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
    if (params.device_outputs < -1 || params.device_outputs > 1) {
        throw std::invalid_argument("device_outputs is " + std::to_string(params.device_outputs) + ", expected -1 (by the device), 0 or 1");
    }
    if (!(params.synthetic_length == 0.0f || params.synthetic_length >= 1.0f)) {
        throw std::invalid_argument("synthetic_length is " + std::to_string(params.synthetic_length) + ", expected 0 (off) or at least 1");
    }
    if (params.n_context < 1) {
        throw std::invalid_argument("the drafter's context is " + std::to_string(params.n_context) + ", expected at least 1 position");
    }
}

llama_dflash * llama_dflash_load(llama_context * target, const char * path, llama_dflash_params params) {
    return guarded<>((llama_dflash *) nullptr, [&] {
        check_params(target, params);
        params.n_threads = params.n_threads > 0 ? params.n_threads : llama_n_threads_batch(target);
        return new llama_dflash(target, path, params);
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

int32_t llama_dflash_block_size(const llama_dflash * engine) {
    return engine->draft.block_size();
}

bool llama_dflash_uses_trees(const llama_dflash * engine) {
    return engine->trees;
}

int32_t llama_dflash_observe(llama_dflash * engine, llama_pos pos, int32_t n_tokens, int32_t n_after) {
    return guarded(-1, [&] {
        engine->observe(pos, nullptr, n_tokens, n_after);
        return 0;
    });
}

int32_t llama_dflash_truncate(llama_dflash * engine, llama_pos n_past) {
    return guarded(-1, [&] {
        engine->draft.truncate(n_past);
        return 0;
    });
}

static llama_dflash_result describe(const llama_dflash & engine) {
    return {
        engine.tree.n_nodes(), engine.tree.tokens.data(), engine.tree.parents.data(), engine.tree.logprob.data(),
    };
}

int32_t llama_dflash_round(llama_dflash * engine, llama_token root, llama_pos n_past, int32_t n_max, llama_dflash_result * result) {
    return guarded(-1, [&] {
        const round_status status = engine->start({ root, n_past, std::max(1, n_max) });
        *result = describe(*engine);
        return (int32_t) status;
    });
}

int32_t llama_dflash_next(llama_dflash * engine, llama_sampler * sampler, bool greedy, llama_dflash_token * sampled) {
    return guarded(-1, [&] {
        const sampled_token next = engine->next(sampler, greedy);
        *sampled = { next.token, next.node, next.child };
        return 0;
    });
}

int32_t llama_dflash_settle(llama_dflash * engine) {
    return guarded(-1, [&] { return engine->settle(); });
}

const char * llama_dflash_news(llama_dflash * engine) {
    return engine->health.news();
}

void llama_dflash_set_abort_callback(llama_dflash * engine, ggml_abort_callback callback, void * data) {
    engine->draft.set_abort_callback(callback, data);
}

int32_t llama_dflash_logprobs(llama_dflash * engine, llama_token root, llama_pos n_past, int32_t n_positions, float * out) {
    return guarded(-1, [&] {
        drafter & draft = engine->draft;
        if (n_positions < 1 || n_positions > draft.max_positions()) {
            throw std::invalid_argument("n_positions is " + std::to_string(n_positions) + ", expected 1 to " +
                    std::to_string(draft.max_positions()));
        }
        if (!draft.forward(root, n_past, n_positions)) {
            throw std::runtime_error("the drafter's memory has no room for the block");
        }
        for (int32_t i = 0; i < n_positions; ++i) {
            const float * logits = draft.logits(i);
            const float   max    = *std::max_element(logits, logits + draft.n_vocab());
            const double  norm   = ggml_log_sum_exp(logits, draft.n_vocab(), max);
            std::transform(logits, logits + draft.n_vocab(), out + (size_t) i*draft.n_vocab(),
                    [norm](float x) { return (float) (x - norm); });
        }
        return 0;
    });
}

llama_dflash_stats llama_dflash_get_stats(const llama_dflash * engine) {
    return engine->stats_so_far(engine->is_walking());
}

void llama_dflash_reset_stats(llama_dflash * engine) {
    engine->stats = {};
}

size_t llama_dflash_state_size(llama_dflash * engine) {
    return guarded((size_t) 0, [&] {
        try {
            return engine->draft.save_size();
        } catch (const std::exception & e) {
            engine->drafter_failed(e);
            throw;
        }
    });
}

size_t llama_dflash_state_get(llama_dflash * engine, uint8_t * out, size_t size) {
    return guarded((size_t) 0, [&] {
        const size_t needed = engine->draft.save_size();
        if (size < needed) {
            throw std::invalid_argument("the drafter's state has " + std::to_string(needed) + " bytes, the buffer " + std::to_string(size));
        }
        engine->draft.save(out);
        return needed;
    });
}

int32_t llama_dflash_state_set(llama_dflash * engine, const uint8_t * data, size_t size) {
    return guarded(-1, [&] {
        engine->draft.load(data, size);
        return 0;
    });
}
