#include "draft-tree.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <queue>

// exp(x) for x <= 0 in a form that compilers turn into SIMD: 2^n * p(r), relative error below 3e-7.
static inline float exp_nonpositive(float x) {
    constexpr float round_to_int = 12582912.0f; // 1.5*2^23: adding it leaves no bits for a fraction
    x = x > -87.0f ? x : -87.0f; // NaN too: a damaged drafter's logits count for nothing
    const float n = (x*1.44269504088896341f + round_to_int) - round_to_int;
    const float r = x - n*0.693359375f + n*2.12194440e-4f;
    const float p = ((((1.9875691500e-4f*r + 1.3981999507e-3f)*r + 8.3334519073e-3f)*r + 4.1665795894e-2f)*r + 1.6666665459e-1f)*r + 5.0000001201e-1f;
    const int32_t bits = ((int32_t) n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return (p*r*r + r + 1.0f)*scale;
}

double log_sum_exp(const float * logits, int32_t n_vocab, float max) {
    constexpr int32_t lanes = 16;
    float sums[lanes] = {};
    int32_t i = 0;
    for (; i + lanes <= n_vocab; i += lanes) {
        for (int32_t l = 0; l < lanes; ++l) {
            sums[l] += exp_nonpositive(logits[i + l] - max);
        }
    }
    double sum = 0.0;
    for (int32_t l = 0; l < lanes; ++l) {
        sum += sums[l];
    }
    for (; i < n_vocab; ++i) {
        sum += exp_nonpositive(logits[i] - max);
    }
    return (double) max + std::log(sum);
}

static bool any_above(const float * x, int32_t n, float limit) {
    int32_t count = 0;
    for (int32_t i = 0; i < n; ++i) {
        count += x[i] > limit; // no early exit, so that it vectorises; false for NaN
    }
    return count > 0;
}

position_candidates top_candidates(const float * logits, int32_t n_vocab, int32_t k) {
    using entry = std::pair<float, llama_token>;
    // on equal logits the smaller id is the better one, as for a greedy sampler
    const auto better = [](const entry & a, const entry & b) {
        return a.first != b.first ? a.first > b.first : a.second < b.second;
    };
    std::vector<entry> best; // a heap whose front is the worst of the k best
    best.reserve(k + 1);

    float limit = -INFINITY;
    constexpr int32_t chunk = 128;
    for (int32_t beg = 0; beg < n_vocab; beg += chunk) {
        const int32_t end = std::min(beg + chunk, n_vocab);
        if (!any_above(logits + beg, end - beg, limit)) {
            continue;
        }
        for (int32_t i = beg; i < end; ++i) {
            if (!(logits[i] > limit)) {
                continue;
            }
            best.emplace_back(logits[i], i);
            std::push_heap(best.begin(), best.end(), better);
            if ((int32_t) best.size() > k) {
                std::pop_heap(best.begin(), best.end(), better);
                best.pop_back();
            }
            if ((int32_t) best.size() == k) {
                limit = best.front().first;
            }
        }
    }
    std::sort_heap(best.begin(), best.end(), better);

    position_candidates res;
    if (best.empty() || !std::isfinite(best.front().first)) {
        return res;
    }
    const double norm = log_sum_exp(logits, n_vocab, best.front().first);
    for (const entry & e : best) {
        res.tokens.push_back(e.second);
        res.logprobs.push_back((float) (e.first - norm));
    }
    return res;
}

int32_t draft_tree::child(int32_t node, llama_token token) const {
    for (int32_t i = node + 1; i < n_nodes(); ++i) {
        if (parents[i] == node && tokens[i] == token) {
            return i;
        }
    }
    return -1;
}

void draft_tree::truncate(int32_t n_drafted) {
    const size_t n = std::min<size_t>(tokens.size(), n_drafted + 1);
    tokens.resize(n);
    parents.resize(n);
    depth.resize(n);
    logprob.resize(n);
    prob.resize(n);
}

namespace {
struct candidate {
    double  score; // log-probability of the path
    int32_t parent;
    int32_t depth;
    int32_t rank;  // among the tokens of its position

    bool operator<(const candidate & other) const { return score < other.score; }
};
}

draft_tree build_tree(llama_token root, const std::vector<position_candidates> & positions, int32_t budget, bool chain) {
    draft_tree tree;
    tree.tokens  = { root };
    tree.parents = { -1 };
    tree.depth   = { 0 };
    tree.logprob = { 0.0f };
    tree.prob    = { 1.0 };

    std::priority_queue<candidate> open;
    const auto offer = [&](double above, int32_t parent, int32_t depth, int32_t rank) {
        if (depth <= (int32_t) positions.size() && rank < (int32_t) positions[depth - 1].tokens.size()) {
            open.push({ above + positions[depth - 1].logprobs[rank], parent, depth, rank });
        }
    };
    offer(0.0, 0, 1, 0);

    while (!open.empty() && tree.n_nodes() <= budget) {
        const candidate best = open.top();
        open.pop();

        const auto  & position = positions[best.depth - 1];
        const float   logprob  = position.logprobs[best.rank];
        const int32_t node     = tree.n_nodes();

        tree.tokens .push_back(position.tokens[best.rank]);
        tree.parents.push_back(best.parent);
        tree.depth  .push_back(best.depth);
        tree.logprob.push_back(logprob);
        tree.prob   .push_back(std::exp(best.score));

        offer(best.score, node, best.depth + 1, 0);
        if (!chain) {
            offer(best.score - logprob, best.parent, best.depth, best.rank + 1);
        }
    }
    return tree;
}
