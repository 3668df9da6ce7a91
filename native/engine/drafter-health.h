// A drafter that failed (out of memory, a forward that failed) rests for some rounds, and for longer after every further
// failure: it costs its drafts, never the generation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>

class drafter_health {
public:
    // Asked once a round: may it draft?
    bool fit() {
        if (rest_left == 0) {
            return true;
        }
        rest_left -= 1;
        return false;
    }

    bool rests() const { return rest_left > 0; }

    void failed(const char * why) {
        if (n_failures == 0) {
            is_news = true;
            snprintf(first, sizeof(first), "%s", why); // there may be no memory for more
        }
        n_failures += 1;
        rest_left   = rest;
        rest        = std::min(2*rest, longest_rest);
    }

    void drafted() {
        n_good = rest_left == 0 ? n_good + 1 : 0;
        if (n_good >= recovered) {
            rest   = shortest_rest;
            n_good = 0;
        }
    }

    // The sentence of the first failure, once; NULL if there is nothing new to say.
    const char * news() {
        const bool tell = is_news;
        is_news = false;
        return tell ? first : nullptr;
    }

private:
    static constexpr int32_t shortest_rest = 8;    // rounds
    static constexpr int32_t longest_rest  = 1024;
    static constexpr int32_t recovered     = 64;   // drafts after which the last failure is history

    int32_t rest       = shortest_rest; // after the next failure
    int32_t rest_left  = 0;
    int32_t n_good     = 0;
    int64_t n_failures = 0;
    char    first[256] = {};
    bool    is_news    = false;
};
