// A drafter whose failures cost its drafts, never the generation: nothing here throws because it did. One that fails rests
// for some rounds, and begins anew with the text that comes then.
#pragma once

#include "budget.h"
#include "drafter.h"
#include "drafter-health.h"
#include "tree/calibration.h"

#include <memory>

class tended_drafter {
public:
    tended_drafter(std::unique_ptr<drafter> draft, int32_t n_lanes) : draft(std::move(draft)), n_lanes(n_lanes) {}

    drafter & get() const { return *draft; }

    void target_decoded() { draft->target_decoded(); }
    void observe(const evaluated_tokens & tokens);
    void truncate(int32_t lane, llama_pos n_past);

    // May it propose this round? Asked once a round.
    bool fit() { return health.fit(); }

    // One tree a request, or none at all if it failed or has no room.
    std::vector<draft_tree> propose(const std::vector<draft_request> & requests);

    // What its drafts took lately; 0 before the first. And how much more of it a depth more takes.
    double usual_seconds() const { return seconds.get(); }
    double seconds_per_depth() const { return depth > 0.0 ? seconds.get()/depth : 0.0; }

    void failed(const std::exception & error);

    // What it failed at for the first time, once; NULL if there is nothing new to say.
    const char * news() { return health.news(); }

    calibration odds;

    // What was learned of it, as words of one line. load() returns false, and changes nothing, if it is no such text.
    void save(std::ostream & out) const;
    bool load(std::istream & in);

private:
    std::unique_ptr<drafter> draft;
    drafter_health           health;
    int32_t                  n_lanes;
    running_mean             seconds{0.2}; // of a draft
    double                   depth = 0.0;  // of the last one
};
