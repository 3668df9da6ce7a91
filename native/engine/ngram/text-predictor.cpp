#include "text-predictor.h"

#include <algorithm>
#include <queue>
#include <stdexcept>

// A match is worth looking at with this many of its own shorter ends, and this many matches of a position are used.
static constexpr int32_t n_ends   = 3;
static constexpr int32_t n_levels = 4;

// Of a context with more continuations than this, the newest are looked at; none of them is probable.
static constexpr int32_t n_next = 24;

// An alignment ends after this many tokens in a row that differ; after one, the token is looked for this far on.
static constexpr int32_t most_misses = 3;
static constexpr int32_t most_left_out = 4;
static constexpr int32_t aligned_from = 6; // tokens that agree

text_predictor::text_predictor(texts others) : own(max_context), others(std::move(others)) {
    if (this->others.size() > max_others) {
        throw std::invalid_argument("text_predictor: too many texts");
    }
}

//
// the text
//

void text_predictor::append(int32_t token, bool by_model) {
    if (by_model) {
        learn(token);
    }
    for (size_t i = 1; i < n_indexes(); ++i) {
        here.matches[i] = index(i).advance(here.matches[i], token);
    }
    follow(here, token);
    own.append(token);
    here.matches[0] = own.repeated_end();
    realign();
}

void text_predictor::truncate(size_t n_tokens) {
    if (n_tokens >= own.size()) {
        return;
    }
    own.truncate(n_tokens);
    here = {};
    here.matches[0] = own.repeated_end();
    match_others_again();
    realign();
}

void text_predictor::match_others_again() {
    const size_t first = own.size() - std::min<size_t>(own.size(), max_context);
    for (size_t i = 1; i < n_indexes(); ++i) {
        here.matches[i] = {};
        for (size_t t = first; t < own.size(); ++t) {
            here.matches[i] = index(i).advance(here.matches[i], own.token(t));
        }
    }
}

// Goes on in the copied text, over a token that was replaced or after some that were left out.
void text_predictor::follow(place & at, int32_t token) const {
    if (at.aligned < 0) {
        return;
    }
    const int32_t end = (int32_t) own.size();
    const auto    is  = [&](int32_t position) { return position < end && own.token(position) == token; };
    if (is(at.aligned)) {
        at.agreed += 1;
        at.misses  = 0;
        at.aligned += 1;
        return;
    }
    int32_t left_out = 1;
    while (left_out <= most_left_out && !is(at.aligned + left_out)) {
        left_out += 1;
    }
    at.aligned += left_out <= most_left_out ? left_out + 1 : 1;
    at.agreed   = 0;
    at.misses  += 1;
    if (at.misses > most_misses || at.aligned >= end) {
        at.aligned = -1;
    }
}

// An exact match that is longer than what agrees with the copied text shows a better place to copy from.
void text_predictor::realign() {
    const auto & match = here.matches[0];
    if (match.length >= aligned_from && (here.aligned < 0 || match.length > here.agreed)) {
        here.aligned = own.first_end(match);
        here.agreed  = match.length;
        here.misses  = 0;
    }
}

text_predictor::place text_predictor::after(const place & at, int32_t token) const {
    place res = at;
    for (size_t i = 0; i < n_indexes(); ++i) {
        res.matches[i] = index(i).advance(at.matches[i], token);
    }
    follow(res, token);
    return res;
}

//
// predictions
//

struct text_predictor::source {
    match_trust::kind     kind;
    int32_t               length;
    const suffix_index  * index; // of an exact match
    suffix_index::context match;
    double                chance;
};

// All that the next token may be copied from, the most trusted first.
std::vector<text_predictor::source> text_predictor::sources(const place & at) const {
    std::vector<source> res;
    const auto add = [&](match_trust::kind kind, int32_t length, const suffix_index * index, suffix_index::context match) {
        res.push_back({ kind, length, index, match, trust.get(kind, length, 0) });
    };
    for (size_t i = 0; i < n_indexes(); ++i) {
        suffix_index::context match = at.matches[i];
        for (int32_t k = 0; k < n_ends && match.length > 0; ++k) {
            add(match_trust::exact, match.length, &index(i), match);
            match = index(i).shorter(match);
        }
    }
    if (at.aligned >= 0 && at.aligned < (int32_t) own.size()) {
        add(match_trust::aligned, at.agreed + 1, nullptr, {});
    }
    std::stable_sort(res.begin(), res.end(), [](const source & a, const source & b) { return a.chance > b.chance; });
    return res;
}

// Calls visit(source, rank, tokens) for the matches that are used, with the tokens that no better match has and their shares
// of it; until it returns false.
template<typename visitor> void text_predictor::each_level(const place & at, visitor && visit) const {
    std::vector<candidate> next;
    std::vector<int32_t>   seen;
    int32_t rank = 0;
    for (const source & from : sources(at)) {
        next.clear();
        double  total    = 0.0;
        int32_t n_looked = 0;
        const auto offer = [&](int32_t token, int32_t count) {
            n_looked += 1;
            if (std::find(seen.begin(), seen.end(), token) == seen.end()) {
                next.push_back({ token, (double) count });
                total += count;
            }
            return n_looked < n_next;
        };
        if (from.kind == match_trust::aligned) {
            offer(own.token(at.aligned), 1);
        } else {
            from.index->each_next(from.match, offer);
            if (n_looked == n_next) {
                total = std::max(total, (double) from.index->count(from.match));
            }
        }
        if (next.empty()) {
            continue;
        }
        for (candidate & c : next) {
            c.prob /= total;
            seen.push_back(c.token);
        }
        if (!visit(from, rank, next) || ++rank == n_levels) {
            return;
        }
    }
}

std::vector<text_predictor::candidate> text_predictor::predict(const place & at) const {
    std::vector<candidate> res;
    double left = 1.0;
    each_level(at, [&](const source & from, int32_t rank, const std::vector<candidate> & next) {
        const double share = left*trust.get(from.kind, from.length, rank);
        for (const candidate & c : next) {
            res.push_back({ c.token, share*c.prob });
        }
        left -= share;
        return left > 0.01;
    });
    std::stable_sort(res.begin(), res.end(), [](const candidate & a, const candidate & b) { return a.prob > b.prob; });
    return res;
}

void text_predictor::learn(int32_t token) {
    each_level(here, [&](const source & from, int32_t rank, const std::vector<candidate> & next) {
        const bool hit = std::any_of(next.begin(), next.end(), [&](const candidate & c) { return c.token == token; });
        trust.learn(from.kind, from.length, rank, hit);
        return !hit;
    });
}

//
// the tree
//

std::vector<predicted_node> text_predictor::grow(int32_t max_nodes, int32_t max_depth, double least_path_prob, bool chain) const {
    struct open_node {
        double         path_prob;
        size_t         order; // of equals, those that were found first
        int32_t        depth;
        predicted_node node;

        bool operator<(const open_node & other) const {
            return path_prob != other.path_prob ? path_prob < other.path_prob : order > other.order;
        }
    };
    std::vector<predicted_node>    tree;
    std::vector<place>             places;
    std::priority_queue<open_node> open;
    size_t n_found = 0;
    const auto expand = [&](const place & at, int32_t parent, int32_t depth, double path_prob) {
        for (const candidate & c : predict(at)) {
            if (path_prob*c.prob < least_path_prob) {
                break;
            }
            open.push({ path_prob*c.prob, n_found++, depth, { c.token, parent, (float) c.prob } });
            if (chain) {
                break;
            }
        }
    };
    expand(here, -1, 1, 1.0);
    while (!open.empty() && (int32_t) tree.size() < max_nodes) {
        const open_node best = open.top();
        open.pop();
        const int32_t parent = best.node.parent;
        tree  .push_back(best.node);
        places.push_back(after(parent < 0 ? here : places[parent], best.node.token));
        if ((int32_t) tree.size() < max_nodes && best.depth < max_depth) {
            expand(places.back(), (int32_t) tree.size() - 1, best.depth + 1, best.path_prob);
        }
    }
    return tree;
}
