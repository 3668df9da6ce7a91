#include "budget.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <istream>
#include <limits>
#include <numeric>
#include <ostream>
#include <vector>

void running_mean::add(double x) {
    count += 1;
    const double w = std::max(weight, 1.0/count);
    value += w*(x - value);
}

void running_mean::add_seconds(double x) {
    constexpr double most    = 1.5; // times the mean
    constexpr int    believe = 3;   // that many in a row
    if (count == 1 && x < value) {
        value = x; // the first one was cold
    }
    n_high = count > 0 && x > most*value ? n_high + 1 : 0;
    if (n_high >= believe) {
        value  = x;
        n_high = 0;
        return;
    }
    add(count > 0 ? std::min(x, most*value) : x);
}

// what was learned at another time counts as this many samples at most: the machine may be another
static constexpr int most_remembered = 10;

void running_mean::save(std::ostream & out) const {
    out << ' ' << value << ' ' << std::min(count, most_remembered);
}

bool running_mean::load(std::istream & in) {
    running_mean loaded(weight);
    if (!(in >> loaded.value >> loaded.count) || !std::isfinite(loaded.value) || loaded.count < 0) {
        return false;
    }
    *this = loaded;
    return true;
}

//
// forward_cost
//

void forward_cost::add(int32_t n_nodes, double seconds) {
    means.emplace(n_nodes, running_mean(0.2)).first->second.add_seconds(seconds);
}

// Linear between the sizes that were measured at least twice; past the largest of them with the mean slope so far, or
// with one fifth of a single token per node while only one size is known. A size's first measurement is believed only
// if it is better than that: it may have paid for memory and graphs. What a size really costs shows when it is tried.
double forward_cost::estimate(int32_t n_nodes) const {
    using measured = std::map<int32_t, running_mean>::value_type;
    const measured * smallest = nullptr;
    const measured * below    = nullptr; // the largest believed size that is smaller than n_nodes
    const measured * above    = nullptr; // the smallest believed one that is not
    for (const measured & size : means) {
        if (size.second.samples() < 2) {
            continue;
        }
        smallest = smallest ? smallest : &size;
        if (size.first >= n_nodes) {
            above = &size;
            break;
        }
        below = &size;
    }
    const auto   here  = means.find(n_nodes);
    const double first = here == means.end() ? std::numeric_limits<double>::infinity() : here->second.get();
    if (smallest == nullptr) {
        return here == means.end() ? 0.0 : first;
    }
    if (below == nullptr) {
        return std::min(first, above->second.get());
    }
    const auto slope_between = [](const measured & a, const measured & b) {
        return (b.second.get() - a.second.get())/(b.first - a.first);
    };
    const double slope =
        above             ? slope_between(*below, *above) :
        below != smallest ? std::max(0.0, slope_between(*smallest, *below)) :
                            below->second.get()/(5*below->first);
    return std::min(first, below->second.get() + (n_nodes - below->first)*slope);
}

void forward_cost::save(std::ostream & out) const {
    out << ' ' << means.size();
    for (const auto & size : means) {
        out << ' ' << size.first;
        size.second.save(out);
    }
}

bool forward_cost::load(std::istream & in) {
    std::map<int32_t, running_mean> loaded;
    size_t n = 0;
    if (!(in >> n) || n > 4096) {
        return false;
    }
    for (size_t i = 0; i < n; ++i) {
        int32_t      n_nodes = 0;
        running_mean mean(0.2);
        if (!(in >> n_nodes) || n_nodes < 1 || !mean.load(in)) {
            return false;
        }
        loaded.emplace(n_nodes, mean);
    }
    means = std::move(loaded);
    return true;
}

//
// auto_budget
//

// rounds in a row before what they brought is compared with plain decoding
static constexpr int32_t proof_rounds = 12;

// rounds of a trial after a pause, before what they promise is: one shows the promise, but costs that have changed take
// a few to be learned anew, which is cheap where speculation loses only just
static constexpr int32_t short_trial = 1;
static constexpr int32_t long_trial  = 4;
static constexpr double  only_just   = 0.85;

// a gain below these is within the error of what is estimated, and of what is measured
static constexpr double worthwhile       = 1.08;
static constexpr double worthwhile_proof = 1.02;

// a drafter whose drafts take less than this part of a plain round costs nothing, and has to be on trial for its verified trees
// alone: these must promise at least so much
static constexpr double free_of_charge  = 0.02;
static constexpr double worthwhile_free = 1.04;

// a plain round now and then keeps its cost known as the context grows
static constexpr int32_t plain_every = 64;

// nodes of a forward, the roots included: few sizes, so that each is measured often and graphs are reused. On a device, where
// a graph is captured anew for another size, even fewer.
static const std::vector<int32_t> forward_sizes = { 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256 };
static const std::vector<int32_t> device_sizes  = { 1, 2, 4, 8, 12, 16, 23, 32, 48, 64, 96, 128, 192, 256 };

// Positions that no tree uses cost a draft time, and a tree that could not go deeper has lost tokens: the reach settles
// where about one tree in four uses all of it.
static constexpr int32_t shortest_reach  = 3;
static constexpr int32_t give_back       = 3; // trees in a row that did not
static constexpr int32_t shortest_streak = 16;
static constexpr int32_t longest_streak  = 256;

// What a large forward costs is not known before one is tried: no size is tried before one half as large, but the first few.
static constexpr int32_t first_tried = 8; // nodes of a lane

// rounds that are plain before any other, to learn their cost
static constexpr int first_plain = 2;

auto_budget auto_budget::for_lanes(bool more) const {
    auto_budget res = *this;
    res.plain       = auto_budget().plain;
    res.since_plain = 0;
    for (auto & known : res.trials) {
        trial & trial = known.second;
        trial.tokens  = running_mean(0.05);
        trial.seconds = running_mean(0.05);
        if (!more) {
            trial.plain_left   = 0;
            trial.left         = short_trial;
            trial.plain_streak = shortest_streak;
        }
    }
    return res;
}

bool auto_budget::wants_draft(drafter_set set) {
    if (plain.samples() < first_plain || since_plain >= plain_every) {
        return false;
    }
    trial & trial = trials[set];
    if (trial.plain_left > 0) {
        trial.plain_left -= 1;
        return false;
    }
    return true;
}

int32_t auto_budget::positions(int32_t n_max, drafter_set set) const {
    const auto found = trials.find(set);
    const int32_t reach = found == trials.end() ? trial().reach : found->second.reach;
    return on_device ? n_max : std::min(reach, n_max);
}

auto_budget::size_choice auto_budget::best_size(const std::vector<draft_tree *> & trees, double draft_seconds) const {
    const std::vector<double> probs = best_probabilities(trees);
    const int32_t n_lanes = (int32_t) trees.size();
    const int32_t n_nodes = n_lanes + (int32_t) probs.size();
    const double  trust   = std::clamp(calibration.get(), 0.2, 1.5);
    const double  fixed   = overhead.get() + draft_seconds;

    size_choice best;
    double  expected  = n_lanes;
    int32_t n_counted = n_lanes;
    for (const int32_t at_least : on_device ? device_sizes : forward_sizes) {
        const int32_t size = std::max(at_least, n_lanes);
        if (size > n_nodes || size > std::max(first_tried*n_lanes, 2*verify.most_nodes())) {
            break;
        }
        for (; n_counted < size; ++n_counted) {
            expected += trust*probs[n_counted - n_lanes];
        }
        const double rate = expected/(fixed + verify.estimate(size));
        if (rate > best.rate) {
            best = { size - n_lanes, expected, rate };
        }
    }
    return best;
}

double auto_budget::expected_speed(const std::vector<draft_tree *> & trees, double draft_seconds) const {
    return best_size(trees, draft_seconds).rate*plain.get()/trees.size();
}

double auto_budget::usual_speed(drafter_set set) const {
    const auto found = trials.find(set);
    return found == trials.end() ? 0.0 : found->second.promise.get();
}

bool auto_budget::costs_nothing(double draft_seconds) const {
    return plain.get() > 0.0 && draft_seconds <= free_of_charge*plain.get();
}

int32_t auto_budget::choose(const std::vector<draft_tree *> & trees, double draft_seconds, drafter_set set) {
    last_set           = set;
    last_lanes         = (int32_t) trees.size();
    last_draft_seconds = draft_seconds;
    last_choice        = best_size(trees, draft_seconds);
    if (costs_nothing(draft_seconds) && last_choice.rate*plain.get() < worthwhile_free*trees.size()) {
        last_choice = { 0, (double) trees.size(), plain_speed()*trees.size() };
        return 0;
    }
    trials[set].promise.add(last_choice.rate*plain.get()/trees.size());
    return last_choice.n_nodes;
}

void auto_budget::pause(trial & trial) {
    trial.plain_left   = trial.plain_streak;
    trial.plain_streak = std::min(trial.plain_streak*3/2, longest_streak);
    trial.left         = trial.promise.get() < only_just ? short_trial : long_trial;
    trial.tokens       = running_mean(0.05);
    trial.seconds      = running_mean(0.05);
}

void auto_budget::adjust_reach(trial & trial, const std::vector<draft_tree *> & trees) {
    int32_t deepest = 0;
    for (const draft_tree * tree : trees) {
        deepest = std::max(deepest, *std::max_element(tree->depth.begin(), tree->depth.end()));
    }
    if (deepest >= trial.reach) {
        trial.reach += 1; // more might have been wanted
        trial.unreached = 0;
    } else if (++trial.unreached >= give_back && trial.reach > shortest_reach) {
        trial.reach -= 1;
        trial.unreached = 0;
    }
}

void auto_budget::record_plain(int32_t n_lanes, double verify_seconds, double total_seconds) {
    verify.add(n_lanes, verify_seconds);
    plain.add_seconds(total_seconds);
    since_plain = 0;
}

void auto_budget::record_draft(const std::vector<draft_tree *> & trees, int32_t n_tokens, double draft_seconds, double verify_seconds,
        double total_seconds, drafter_set set) {
    const std::vector<double> probs    = best_probabilities(trees);
    const int32_t             n_lanes  = (int32_t) trees.size();
    const double              expected = std::accumulate(probs.begin(), probs.end(), 0.0);
    if (expected > 0.1) {
        calibration.add((n_tokens - n_lanes)/expected);
    }
    trial & trial = trials[set];
    verify  .add(n_lanes + (int32_t) probs.size(), verify_seconds);
    overhead.add_seconds(std::max(0.0, total_seconds - verify_seconds - draft_seconds));
    trial.tokens .add((double) n_tokens/n_lanes);
    trial.seconds.add_seconds(total_seconds);
    since_plain += 1;
    adjust_reach(trial, trees);

    trial.left -= n_lanes; // each shows what drafts promise
    const bool hopeless   = trial.left <= 0 && !costs_nothing(draft_seconds) && trial.promise.get() < worthwhile;
    const bool proven     = trial.tokens.samples()*n_lanes >= proof_rounds;
    const bool broke_word = proven && trial.tokens.get()*plain.get() < worthwhile_proof*trial.seconds.get();
    if (hopeless || broke_word) {
        pause(trial);
    } else if (proven) {
        trial.plain_streak = shortest_streak;
    }
}

static std::string milliseconds(double seconds) {
    char text[32];
    snprintf(text, sizeof(text), seconds < 0.00995 ? "%.2g ms" : "%.0f ms", 1e3*seconds);
    return text;
}

std::string auto_budget::explain() const {
    if (plain.samples() < first_plain) {
        return "Nothing was measured yet: the first rounds are plain, to learn what a token alone takes. Drafts come after them.";
    }
    const std::string alone = last_lanes == 1 ? "A token alone takes " :
            "A token alone for each of " + std::to_string(last_lanes) + " conversations takes ";
    std::string res = alone + milliseconds(plain.get());
    const auto found = trials.find(last_set);
    if (last_set == 0 || found == trials.end()) {
        return res + ". No drafter has had anything to propose yet.";
    }
    const trial & trial = found->second;
    char brings[32];
    snprintf(brings, sizeof(brings), "%.2g", last_choice.tokens);
    const double seconds = last_draft_seconds + verify.estimate(last_lanes + last_choice.n_nodes);
    res += (last_lanes == 1 ? ", the last tree of " : ", the last trees of ") + std::to_string(last_choice.n_nodes) + " draft nodes " +
            milliseconds(seconds) + " with the draft, and " + brings + " tokens were expected. ";
    char speed[64];
    snprintf(speed, sizeof(speed), "%.2f times plain decoding", trial.promise.get());
    if (trial.plain_left > 0) {
        return res + "Drafts promise " + speed + " lately, which does not pay: drafting is off for " + std::to_string(trial.plain_left) +
                " more rounds, then it is tried again.";
    }
    return res + "Drafts promise " + speed + " lately: drafting is on.";
}

void auto_budget::save(std::ostream & out) const {
    plain.save(out);
    overhead.save(out);
    calibration.save(out);
    verify.save(out);
}

bool auto_budget::load(std::istream & in) {
    auto_budget loaded(on_device);
    if (!loaded.plain.load(in) || !loaded.overhead.load(in) || !loaded.calibration.load(in) || !loaded.verify.load(in)) {
        return false;
    }
    *this = loaded;
    return true;
}
