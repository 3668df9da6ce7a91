#include "request-log.h"

#include "server-task.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

using clock_type = std::chrono::steady_clock;

namespace {

// Of one text; a request may ask for several.
struct generated {
    int64_t prompt    = 0; // tokens evaluated
    int64_t cached    = 0; // tokens that were in memory
    int64_t tokens    = 0;
    double  rate      = 0; // tokens a second
    int64_t rounds    = 0; // of draft trees, or verifications of llama.cpp's chains
    int64_t in_rounds = 0; // tokens that these gave
    int64_t nodes     = 0;
    int64_t accepted  = 0;
    bool    is_whole  = false;
};

struct answered {
    std::string                 method;
    std::string                 path;
    int                         status = 0;
    clock_type::time_point      start;
    bool                        left = false;
    std::map<size_t, generated> texts; // by the result's index
    std::string                 error;
};

thread_local answered current;

void print(const std::string & line) {
    static std::mutex mutex;
    std::lock_guard<std::mutex> lock(mutex);
    fputs(line.c_str(), stdout);
    fflush(stdout);
}

void add_texts(json & event) {
    generated sum;
    for (const auto & [index, text] : current.texts) {
        sum.prompt    += text.prompt;
        sum.cached    += text.cached;
        sum.tokens    += text.tokens;
        sum.rate      += text.rate;
        sum.rounds    += text.rounds;
        sum.in_rounds += text.in_rounds;
        sum.nodes     += text.nodes;
        sum.accepted  += text.accepted;
    }
    event["prompt"] = sum.prompt;
    event["cached"] = sum.cached;
    event["tokens"] = sum.tokens;
    if (sum.rate > 0) {
        event["tokens_per_second"] = sum.rate;
    }
    if (sum.rounds > 0) {
        event["rounds"]           = sum.rounds;
        event["tokens_per_round"] = (double) sum.in_rounds / sum.rounds;
        event["nodes"]            = sum.nodes;
        event["accepted"]         = sum.accepted;
    }
}

void print_current() {
    json event = {
        {"method", current.method},
        {"path", current.path},
        {"status", current.status},
        {"seconds", std::chrono::duration<double>(clock_type::now() - current.start).count()},
    };
    if (!current.texts.empty()) {
        add_texts(event);
    }
    if (current.left) {
        event["left"] = true;
    }
    if (!current.error.empty()) {
        event["error"] = current.error;
    }
    print("@request " + safe_json_to_str(event) + "\n");
    current = answered();
}

} // namespace

bool request_log_is_on() {
    static const bool on = getenv("LLAMA_DFLASH_SERVE_EVENTS") != nullptr;
    return on;
}

void request_log_ready(const std::string & address) {
    if (request_log_is_on()) {
        print("@ready " + address + "\n");
    }
}

void request_log_result(const server_task_result & result) {
    if (!request_log_is_on()) {
        return;
    }
    if (const auto * error = dynamic_cast<const server_task_result_error *>(&result)) {
        current.error = error->err_msg;
    } else if (const auto * part = dynamic_cast<const server_task_result_cmpl_partial *>(&result)) {
        generated & text = current.texts[part->index];
        text.prompt = part->n_prompt_tokens - part->n_prompt_tokens_cache;
        text.cached = part->n_prompt_tokens_cache;
        text.tokens = part->n_decoded;
    } else if (const auto * whole = dynamic_cast<const server_task_result_cmpl_final *>(&result)) {
        const server_slot_stats & stats = whole->stats;
        generated & text = current.texts[whole->index];
        text.prompt    = stats.n_prompt_processed;
        text.cached    = stats.n_prompt_cached;
        text.tokens    = stats.n_gen;
        text.rate      = stats.n_gen_tps();
        text.is_whole  = true;
        text.rounds    = stats.n_draft_verif_steps;
        text.in_rounds = stats.n_tree_tokens > 0 ? stats.n_tree_tokens : stats.n_draft_verif_steps + stats.n_draft_accepted;
        text.nodes     = stats.n_draft_tokens;
        text.accepted  = stats.n_draft_accepted;
    }
}

void request_log_answered(
        const std::string & method, const std::string & path, int status, clock_type::time_point start, bool left, bool streamed) {
    current.method = method;
    current.path   = path;
    current.status = status;
    current.start  = start;
    current.left   = left;
    if (!streamed) {
        print_current();
    }
}

void request_log_streamed() {
    if (request_log_is_on()) {
        for (const auto & [index, text] : current.texts) { // an error ends a stream, too
            current.left = current.left || (!text.is_whole && current.error.empty());
        }
        print_current();
    }
}
