// Seconds per phase of a round.
#pragma once

#include "llama-dflash.h"

#include "ggml.h"

#include <array>
#include <cstdint>
#include <numeric>

class phase_clock {
public:
    void start() {
        seconds.fill(0.0);
        last = ggml_time_us();
    }

    // The time since the last call belongs to none: the caller's.
    void resume() { last = ggml_time_us(); }

    // Everything since the last call belongs to `phase`.
    void end_phase(llama_dflash_phase phase) {
        const int64_t now = ggml_time_us();
        seconds[phase] += (now - last)*1e-6;
        last = now;
    }

    double total() const { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }

    std::array<double, LLAMA_DFLASH_PHASE_COUNT> seconds{};

private:
    int64_t last = 0; // microseconds
};
