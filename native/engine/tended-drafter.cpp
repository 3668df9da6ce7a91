#include "tended-drafter.h"

#include "ggml.h"

#include <exception>
#include <istream>
#include <ostream>
#include <string>

void tended_drafter::observe(const evaluated_tokens & tokens) {
    try {
        health.rests() ? draft->truncate(tokens.lane, tokens.pos) : draft->observe(tokens);
    } catch (const std::exception & e) {
        failed(e);
    }
}

void tended_drafter::truncate(int32_t lane, llama_pos n_past) {
    try {
        draft->truncate(lane, n_past);
    } catch (const std::exception & e) {
        failed(e);
    }
}

std::vector<draft_tree> tended_drafter::propose(const std::vector<draft_request> & requests) {
    try {
        const int64_t started = ggml_time_us();
        auto trees = draft->propose(requests);
        if (!trees.empty()) {
            seconds.add_seconds((ggml_time_us() - started)*1e-6);
            depth = requests[0].depth;
            health.drafted();
        }
        return trees;
    } catch (const std::exception & e) {
        failed(e);
        return {};
    }
}

// What it remembers may be damaged, of any lane.
void tended_drafter::failed(const std::exception & error) {
    health.failed(error.what());
    for (int32_t lane = 0; lane < n_lanes; ++lane) {
        draft->forget(lane);
    }
}

void tended_drafter::save(std::ostream & out) const {
    out << draft->kind() << ' ' << depth;
    seconds.save(out);
    out << ' ' << odds.save();
}

bool tended_drafter::load(std::istream & in) {
    std::string  kind, rest;
    double       loaded_depth = 0.0;
    running_mean loaded_seconds(0.2);
    calibration  loaded_odds;
    if (!(in >> kind >> loaded_depth) || kind != draft->kind() || !loaded_seconds.load(in) || !std::getline(in, rest) ||
            !loaded_odds.load(rest)) {
        return false;
    }
    depth   = loaded_depth;
    seconds = loaded_seconds;
    odds    = loaded_odds;
    return true;
}
