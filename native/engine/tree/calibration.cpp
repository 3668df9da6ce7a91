#include "calibration.h"

#include <algorithm>
#include <cmath>
#include <sstream>

static constexpr double bias_step = 0.3; // of the first correction
static constexpr double step      = 0.1; // likewise of slopes, which few nodes tell
static constexpr int    n_ranks   = 3;   // 0, 1, and more
static constexpr int    n_off     = 3;   // likewise
static constexpr int    first_slope = n_off*n_ranks;
static constexpr int    first_depth = first_slope + 2; // on the spine, and off it

calibration::terms calibration::terms_of(float logprob, const node_place & place) {
    const double p    = std::clamp(std::exp((double) logprob), 1e-6, 1 - 1e-4);
    const double odds = std::log(p/(1 - p));
    const int    off  = std::min(place.off_spine, n_off - 1);
    const int    rank = std::min(place.rank, n_ranks - 1);
    const int    side = off > 0;
    return {
        { off*n_ranks + rank, first_slope + side, first_depth + side },
        { 1.0, 0.3*odds, (place.depth - 1)/8.0 },
        odds,
    };
}

double calibration::probability(const terms & terms) const {
    double z = terms.log_odds;
    for (size_t i = 0; i < terms.index.size(); ++i) {
        z += weights[terms.index[i]]*terms.value[i];
    }
    return 1/(1 + std::exp(-z));
}

double calibration::probability(float logprob, const node_place & place) const {
    return count == 0 ? std::exp((double) logprob) : probability(terms_of(logprob, place));
}

void calibration::record(float logprob, const node_place & place, bool accepted) {
    const terms  terms = terms_of(logprob, place);
    const double error = (accepted ? 1.0 : 0.0) - probability(terms);
    for (size_t i = 0; i < terms.index.size(); ++i) {
        const double gradient = error*terms.value[i];
        double     & square   = squares[terms.index[i]];
        square += gradient*gradient;
        weights[terms.index[i]] += (terms.index[i] < first_slope ? bias_step : step)*gradient/std::sqrt(1.0 + square);
    }
    count += 1;
}

std::string calibration::save() const {
    std::ostringstream out;
    out.precision(9);
    out << count;
    for (int i = 0; i < n_weights; ++i) {
        out << ' ' << weights[i] << ' ' << squares[i];
    }
    return out.str();
}

bool calibration::load(const std::string & text) {
    std::istringstream in(text);
    calibration loaded;
    in >> loaded.count;
    for (int i = 0; i < n_weights; ++i) {
        in >> loaded.weights[i] >> loaded.squares[i];
        if (!std::isfinite(loaded.weights[i]) || !(loaded.squares[i] >= 0)) {
            return false;
        }
    }
    if (!in || loaded.count < 0) {
        return false;
    }
    *this = loaded;
    return true;
}
