// See abort-guard.h.

#include "abort-guard.h"

#include "ggml.h"

#include <cstdint>
#include <cstdio>
#include <mutex>
#include <stdexcept>

static std::mutex            mutex;
static int32_t               n_guards = 0; // of all threads
static ggml_abort_callback_t previous = nullptr; // before the first of them

static thread_local int32_t n_guards_here = 0;

static void raise(const char * message) {
    if (n_guards_here > 0) {
        throw std::invalid_argument(message);
    }
    ggml_abort_callback_t callback;
    {
        const std::lock_guard<std::mutex> lock(mutex);
        callback = previous;
    }
    if (callback != nullptr) {
        callback(message);
    } else {
        fputs(message, stderr); // as ggml does without a callback
        fputc('\n', stderr);
    }
}

void abort_guard::begin() {
    const std::lock_guard<std::mutex> lock(mutex);
    if (n_guards++ == 0) {
        previous = ggml_set_abort_callback(raise);
    }
    n_guards_here += 1;
}

void abort_guard::end() {
    const std::lock_guard<std::mutex> lock(mutex);
    n_guards_here -= 1;
    if (--n_guards == 0) {
        ggml_set_abort_callback(previous);
    }
}
