// See top-sampling.h.

#include "top-sampling.h"

#include <algorithm>
#include <cstring>
#include <vector>

using candidates = std::vector<llama_token_data>;

static constexpr llama_token UNDECIDED = -1;

// Samplers that look at each candidate by itself, so that they do to some of a row's what they do to these in the whole row.
static bool looks_at_each(const char * name) {
    return strcmp(name, "penalties") == 0 || strcmp(name, "grammar") == 0 || strcmp(name, "logit-bias") == 0;
}

static bool does_nothing(const char * name) { // upstream's names of samplers that are off: "?top-p"
    return name[0] == '?';
}

// In the order of their ids, as in a whole row; empty if the row has fewer than n_top entries.
static candidates candidates_of(const float * top, int32_t n_top) {
    candidates result(n_top);
    for (int32_t i = 0; i < n_top; ++i) {
        if (top[n_top + i] < 0) {
            return {};
        }
        result[i] = { (llama_token) top[n_top + i], top[i], 0.0f };
    }
    std::sort(result.begin(), result.end(), [](const llama_token_data & a, const llama_token_data & b) { return a.id < b.id; });
    return result;
}

// Are the k that a top-k kept those that it would keep of the whole row, in the one order that they can have? `all`: what it had
// to choose from; `bound`: no entry beyond these has a larger logit.
static bool is_decided(const llama_token_data_array & kept, const candidates & all, float bound) {
    if (kept.size == 0 || kept.size >= all.size()) {
        return false;
    }
    for (size_t i = 1; i < kept.size; ++i) {
        if (!(kept.data[i - 1].logit > kept.data[i].logit)) {
            return false;
        }
    }
    const float last    = kept.data[kept.size - 1].logit;
    const auto  n_equal = std::count_if(all.begin(), all.end(), [=](const llama_token_data & c) { return c.logit == last; });
    return last > bound && n_equal == 1;
}

// Applies the chain's samplers up to its top-k. Returns the number of the next one, or -1 if the entries don't decide.
static int32_t apply_top_k(llama_sampler * chain, llama_token_data_array & array, float bound) {
    const int32_t n = llama_sampler_chain_n(chain);
    for (int32_t i = 0; i < n; ++i) {
        llama_sampler * sampler = llama_sampler_chain_get(chain, i);
        const char *    name    = llama_sampler_name(sampler);
        if (strcmp(name, "top-k") == 0) {
            const candidates before(array.data, array.data + array.size);
            llama_sampler_apply(sampler, &array);
            return is_decided(array, before, bound) ? i + 1 : -1;
        }
        if (looks_at_each(name)) {
            llama_sampler_apply(sampler, &array);
        } else if (!does_nothing(name)) {
            return -1;
        }
    }
    return -1;
}

llama_token choose_from_top(llama_sampler * chain, const float * top, int32_t n_top) {
    candidates entries = candidates_of(top, n_top);
    if (entries.empty() || llama_sampler_chain_get(chain, -1) == nullptr) { // the latter: no chain
        return UNDECIDED;
    }
    llama_token_data_array array = { entries.data(), entries.size(), -1, false };
    int32_t next = apply_top_k(chain, array, top[n_top - 1]);
    if (next < 0) {
        return UNDECIDED;
    }
    for (; next < llama_sampler_chain_n(chain); ++next) {
        llama_sampler * sampler = llama_sampler_chain_get(chain, next);
        if (!does_nothing(llama_sampler_name(sampler))) {
            llama_sampler_apply(sampler, &array);
        }
    }
    if (array.selected < 0 || array.selected >= (int64_t) array.size) {
        return UNDECIDED; // a chain that selects nothing: it has no random numbers to lose either
    }
    return array.data[array.selected].id;
}
