#include "budget.h"

#include <algorithm>
#include <iterator>

void running_mean::add(double x) {
    count += 1;
    const double w = std::max(weight, 1.0/count);
    value += w*(x - value);
}

//
// forward_cost
//

void forward_cost::add(int32_t n_nodes, double seconds) {
    means.emplace(n_nodes, running_mean(0.2)).first->second.add(seconds);
}

// Linear between measured sizes. Past the largest one it goes on with the mean slope so far; where only one size is
// known, with one twelfth of a single token per node. What a size really costs is measured as soon as it is tried.
double forward_cost::estimate(int32_t n_nodes) const {
    if (means.empty()) {
        return 0.0;
    }
    const auto above = means.lower_bound(n_nodes);
    if (above != means.end() && (above->first == n_nodes || above == means.begin())) {
        return above->second.get();
    }
    if (above != means.end()) {
        const auto below = std::prev(above);
        const double t = double(n_nodes - below->first)/(above->first - below->first);
        return below->second.get() + t*(above->second.get() - below->second.get());
    }
    const auto   first = means.begin();
    const auto   last  = std::prev(means.end());
    const double slope = first == last
        ? first->second.get()/(12*first->first)
        : (last->second.get() - first->second.get())/(last->first - first->first);
    return last->second.get() + (n_nodes - last->first)*std::max(0.0, slope);
}

//
// auto_budget
//

// rounds of speculation before what they brought is compared with plain decoding
static constexpr int32_t trial_rounds = 4;

// a plain round now and then keeps its cost known as the context grows
static constexpr int32_t plain_every = 128;

// nodes of a forward, the root included: few sizes, so that each is measured often and graphs are reused
static constexpr int32_t forward_sizes[] = { 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64 };

static constexpr int32_t shortest_reach  = 3;
static constexpr int32_t shortest_streak = 16;
static constexpr int32_t longest_streak  = 512;

bool auto_budget::wants_draft() {
    if (plain_left > 0) {
        plain_left -= 1;
        return false;
    }
    return since_plain < plain_every;
}

int32_t auto_budget::positions(int32_t n_max) const {
    return std::min(reach, n_max);
}

// Expected tokens per second of every size, all else in a round being paid for either way. Right after a pause this
// also tells whether speculation is worth resuming.
int32_t auto_budget::choose(const draft_tree & tree, double draft_seconds) {
    draft.add(draft_seconds);

    const double trust = calibration.known() ? std::clamp(calibration.get(), 0.2, 1.5) : 1.0;
    const double fixed = overhead.get() + draft.get();

    int32_t best      = 0;
    double  best_rate = 0.0;
    double  expected  = 1.0;
    int32_t n_counted = 1;
    for (const int32_t size : forward_sizes) {
        if (size > tree.n_nodes()) {
            break;
        }
        for (; n_counted < size; ++n_counted) {
            expected += trust*tree.prob[n_counted];
        }
        const double rate = expected/(fixed + verify.estimate(size));
        if (rate > best_rate) {
            best      = size - 1;
            best_rate = rate;
        }
    }
    const bool resuming = tokens.samples() == 0;
    if (resuming && best_rate*plain.get() < 1.0) {
        pause();
    }
    return best;
}

void auto_budget::pause() {
    plain_left   = plain_streak;
    plain_streak = std::min(2*plain_streak, longest_streak);
    tokens       = running_mean(0.1);
    seconds      = running_mean(0.1);
}

void auto_budget::record_plain(double verify_seconds, double total_seconds) {
    verify.add(1, verify_seconds);
    plain.add(total_seconds);
    since_plain = 0;
}

void auto_budget::record_draft(const draft_tree & tree, int32_t n_tokens, double verify_seconds, double total_seconds) {
    double expected = 0.0;
    for (int32_t n = 1; n < tree.n_nodes(); ++n) {
        expected += tree.prob[n];
    }
    if (expected > 0.1) {
        calibration.add((n_tokens - 1)/expected);
    }
    verify  .add(tree.n_nodes(), verify_seconds);
    overhead.add(std::max(0.0, total_seconds - verify_seconds - draft.get()));
    since_plain += 1;

    const int32_t deepest = *std::max_element(tree.depth.begin(), tree.depth.end());
    if (deepest >= reach - 1) {
        reach += 2; // more might have been wanted
    } else if (deepest < reach - 3 && reach > shortest_reach) {
        reach -= 1;
    }

    if (plain_left > 0) {
        return; // choose() has just decided to pause
    }
    tokens .add(n_tokens);
    seconds.add(total_seconds);
    if (tokens.samples() < trial_rounds) {
        return;
    }
    if (tokens.get()*plain.get() < seconds.get()) {
        pause();
    } else {
        plain_streak = shortest_streak;
    }
}
