// One connection to a worker, as long as it works and after. Upstream ends the process where a worker is lost; here the
// link remembers why, nothing is sent any more, and whoever needs an answer gets an exception in its own thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>

// How long to wait for a worker, in seconds. Of connections that are made from then on.
struct rpc_limits {
    double connect; // until it has said which build it is
    double answer;  // until it answers, or takes more data
};

rpc_limits rpc_get_limits();
void       rpc_set_answer_limit(double seconds);

class rpc_link {
public:
    void begin(const std::string & endpoint); // connected

    // The worker did not answer, after so many seconds of waiting.
    void fail(double seconds_waited);

    bool failed() const { return is_lost; }

    // Throws std::runtime_error, a sentence, if the worker was lost.
    void check() const;

private:
    std::string       endpoint;
    double            limit = 0;
    std::string       why; // written before is_lost
    std::atomic<bool> is_lost{false};
};

// While it is on, nothing throws in this thread: what was to come from a lost worker is zeros. For callers that do the work in
// destructors, and check afterwards.
void rpc_quiet(bool on);

// Why no connection could be made, sentences: nobody there; somebody who does not answer ggml's HELLO.
void        rpc_note_connect_error(); // right after a connect() of this thread that failed
std::string rpc_no_connection(const std::string & endpoint);
std::string rpc_no_hello(const std::string & endpoint);

// What went wrong with a worker in this process so far.
struct rpc_failures {
    int64_t     n_lost    = 0; // connections
    int64_t     n_refused = 0; // that could not be made
    std::string why;           // of the last of both, a sentence
};

void         rpc_note_refused(const std::string & endpoint, const std::string & why);
rpc_failures rpc_failures_of(const std::string & endpoint);
