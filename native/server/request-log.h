// What `llama-dflash serve` is told by the server, on stdout, if LLAMA_DFLASH_SERVE_EVENTS is set: "@ready ADDRESS" for every
// address, and "@request {...}" for every request that was answered. All that happens to a request happens in one thread of the
// HTTP server, so what is known of it so far is kept for each thread.
#pragma once

#include <chrono>
#include <string>

struct server_task_result;

bool request_log_is_on();

void request_log_ready(const std::string & address);

// A result for this thread's request: how much was generated so far, or why it failed.
void request_log_result(const server_task_result & result);

// This thread's request has its status, and its answer unless that is `streamed`. `left`: the client did not wait for it.
void request_log_answered(
        const std::string & method, const std::string & path, int status, std::chrono::steady_clock::time_point start, bool left,
        bool streamed);

// The stream of this thread's request has ended.
void request_log_streamed();
