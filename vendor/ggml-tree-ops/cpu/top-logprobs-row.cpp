// ggml_top_logprobs() on the CPU, row by row. The loops are written so that compilers make SIMD of them.

#include "ggml-top-logprobs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

// exp(x) for x <= 0 in a form that compilers turn into SIMD: 2^n * p(r), relative error below 3e-7.
static inline float exp_nonpositive(float x) {
    constexpr float round_to_int = 12582912.0f; // 1.5*2^23: adding it leaves no bits for a fraction
    x = x > -87.0f ? x : -87.0f; // NaN too: a damaged model's logits count for nothing
    const float n = (x*1.44269504088896341f + round_to_int) - round_to_int;
    const float r = x - n*0.693359375f + n*2.12194440e-4f;
    const float p = ((((1.9875691500e-4f*r + 1.3981999507e-3f)*r + 8.3334519073e-3f)*r + 4.1665795894e-2f)*r + 1.6666665459e-1f)*r + 5.0000001201e-1f;
    const int32_t bits = ((int32_t) n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return (p*r*r + r + 1.0f)*scale;
}

double ggml_log_sum_exp(const float * logits, int64_t n, float max) {
    constexpr int32_t lanes = 16;
    float sums[lanes] = {};
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        for (int32_t l = 0; l < lanes; ++l) {
            sums[l] += exp_nonpositive(logits[i + l] - max);
        }
    }
    double sum = 0.0;
    for (int32_t l = 0; l < lanes; ++l) {
        sum += sums[l];
    }
    for (; i < n; ++i) {
        sum += exp_nonpositive(logits[i] - max);
    }
    return (double) max + std::log(sum);
}

static bool any_above(const float * x, int64_t n, float limit) {
    int32_t count = 0;
    for (int64_t i = 0; i < n; ++i) {
        count += x[i] > limit; // no early exit, so that it vectorises; false for NaN
    }
    return count > 0;
}

namespace {
using entry = std::pair<float, int64_t>;
}

// The (at most) k largest, best first.
static std::vector<entry> largest(const float * logits, int64_t n, int32_t k) {
    const auto better = [](const entry & a, const entry & b) {
        return a.first != b.first ? a.first > b.first : a.second < b.second;
    };
    std::vector<entry> best; // a heap whose front is the worst of the k best
    best.reserve(k + 1);

    float limit = -INFINITY;
    constexpr int64_t chunk = 128;
    for (int64_t beg = 0; beg < n; beg += chunk) {
        const int64_t end = std::min(beg + chunk, n);
        if (!any_above(logits + beg, end - beg, limit)) {
            continue;
        }
        for (int64_t i = beg; i < end; ++i) {
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
    return best;
}

static void write_best(const float * logits, int64_t n, int32_t k, bool as_logits, float * out) {
    std::fill_n(out, k, -INFINITY);
    std::fill_n(out + k, k, -1.0f);

    const std::vector<entry> best = largest(logits, n, k);
    if (best.empty() || !std::isfinite(best.front().first)) {
        return;
    }
    const double norm = as_logits ? 0.0 : ggml_log_sum_exp(logits, n, best.front().first);
    for (size_t i = 0; i < best.size(); ++i) {
        out[i]     = (float) (best[i].first - norm);
        out[k + i] = (float) best[i].second;
    }
}

void ggml_top_logprobs_row(const float * logits, int64_t n, int32_t k, float * out) {
    write_best(logits, n, k, false, out);
}

void ggml_top_logits_row(const float * logits, int64_t n, int32_t k, float * out) {
    write_best(logits, n, k, true, out);
}
