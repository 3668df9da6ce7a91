// See link.h.

#include "link.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <stdexcept>

static std::mutex                          mutex; // of both
static std::map<std::string, rpc_failures> failures;
static rpc_limits                          limits = { 10.0, 60.0 };

rpc_limits rpc_get_limits() {
    const std::lock_guard<std::mutex> lock(mutex);
    return limits;
}

void rpc_set_answer_limit(double seconds) {
    const std::lock_guard<std::mutex> lock(mutex);
    limits.answer  = seconds;
    limits.connect = std::min(10.0, seconds);
}

void rpc_note_refused(const std::string & endpoint, const std::string & why) {
    const std::lock_guard<std::mutex> lock(mutex);
    failures[endpoint].n_refused += 1;
    failures[endpoint].why = why;
}

static void note_lost(const std::string & endpoint, const std::string & why) {
    const std::lock_guard<std::mutex> lock(mutex);
    failures[endpoint].n_lost += 1;
    failures[endpoint].why = why;
}

rpc_failures rpc_failures_of(const std::string & endpoint) {
    const std::lock_guard<std::mutex> lock(mutex);
    return failures[endpoint];
}

static std::string in_seconds(double seconds) {
    char text[32];
    snprintf(text, sizeof(text), "%g", seconds);
    return text;
}

static thread_local int connect_error = 0;

void rpc_note_connect_error() {
    connect_error = errno;
}

std::string rpc_no_connection(const std::string & endpoint) {
    const int error = connect_error;
    connect_error = 0;
    return "no RPC worker at " + endpoint + ": " + (error == 0 ? "the host is not known" : error == EINPROGRESS ?
        "no answer in " + in_seconds(rpc_get_limits().connect) + " seconds" : strerror(error)) +
        ". Start one there with `llama-dflash rpc-server`";
}

std::string rpc_no_hello(const std::string & endpoint) {
    return "the RPC worker " + endpoint + " did not answer within " + in_seconds(rpc_get_limits().connect) + " seconds, or "
        "closed the connection: it may be serving another process (a worker serves one at a time), or be no RPC worker";
}

void rpc_link::begin(const std::string & endpoint) {
    this->endpoint = endpoint;
    limit = rpc_get_limits().answer;
}

void rpc_link::fail(double seconds_waited) {
    if (is_lost) {
        return;
    }
    why = "the RPC worker " + endpoint + " was lost: ";
    why += seconds_waited >= 0.9*limit ?
        "it did not answer for " + in_seconds(limit) + " seconds (stopped, cut off, or slower than that)" :
        "it closed the connection (its process may have ended; its own output says more)";
    note_lost(endpoint, why);
    is_lost = true;
}

static thread_local bool quiet = false;

void rpc_quiet(bool on) {
    quiet = on;
}

void rpc_link::check() const {
    if (is_lost && !quiet) {
        throw std::runtime_error(why);
    }
}
