#include "drafting.h"

#include <algorithm>

drafting::drafting(std::vector<std::unique_ptr<drafter>> drafters, int32_t n_lanes, bool calibrated) : calibrated(calibrated) {
    for (auto & drafter : drafters) {
        tended.emplace_back(std::move(drafter), n_lanes);
    }
}

int32_t drafting::max_depth() const {
    int32_t deepest = 0;
    for (const tended_drafter & drafter : tended) {
        deepest = std::max(deepest, drafter.get().max_depth());
    }
    return deepest;
}

void drafting::target_decoded() {
    for (tended_drafter & drafter : tended) {
        drafter.target_decoded();
    }
}

void drafting::observe(const evaluated_tokens & tokens) {
    for (tended_drafter & drafter : tended) {
        drafter.observe(tokens);
    }
}

void drafting::truncate(int32_t lane, llama_pos n_past) {
    for (tended_drafter & drafter : tended) {
        drafter.truncate(lane, n_past);
    }
}

//
// whom to ask
//

// Those that are fit, by what they cost. With a budget, as many of the first as it wants: the costliest rest first.
std::vector<size_t> drafting::candidates(auto_budget * budget) {
    std::vector<size_t> fit;
    for (size_t i = 0; i < tended.size(); ++i) {
        if (tended[i].fit()) {
            fit.push_back(i);
        }
    }
    if (budget == nullptr) {
        return fit;
    }
    std::stable_sort(fit.begin(), fit.end(), [&](size_t a, size_t b) { return tended[a].usual_seconds() < tended[b].usual_seconds(); });
    while (!fit.empty() && !budget->wants_draft(set_of(fit))) {
        fit.pop_back();
    }
    return fit;
}

drafter_set drafting::set_of(const std::vector<size_t> & drafters) {
    drafter_set set = 0;
    for (const size_t i : drafters) {
        set |= drafter_set(1) << i;
    }
    return set;
}

std::vector<merged_tree> drafting::propose(const std::vector<draft_request> & requests, auto_budget * budget) {
    answers.clear();
    asked            = 0;
    expected_seconds = 0.0;

    const std::vector<size_t> candidates = this->candidates(budget);
    for (const size_t i : candidates) {
        if (budget != nullptr && !answers.empty() && is_enough(requests, *budget, set_of(candidates))) {
            break;
        }
        ask(i, requests, budget);
    }
    std::vector<merged_tree> trees = merged(requests);
    const bool found = std::any_of(trees.begin(), trees.end(), [](const merged_tree & tree) { return tree.tree.n_nodes() > 1; });
    if (!found && budget != nullptr && budget->costs_nothing(expected_seconds)) {
        asked = 0; // a plain round
    }
    return trees;
}

// What the cheap ones have found promises more than all of them do usually.
bool drafting::is_enough(const std::vector<draft_request> & requests, const auto_budget & budget, drafter_set all) const {
    std::vector<merged_tree>  trees = merged(requests);
    std::vector<draft_tree *> nodes;
    for (merged_tree & tree : trees) {
        nodes.push_back(&tree.tree);
    }
    const double usual = budget.usual_speed(all);
    return usual > 0.0 && budget.expected_speed(nodes, expected_seconds) >= usual;
}

void drafting::ask(size_t i, const std::vector<draft_request> & requests, auto_budget * budget) {
    tended_drafter & drafter = tended[i];
    answer answer = { i, {}, {} };
    std::vector<draft_request> own;
    for (size_t r = 0; r < requests.size(); ++r) {
        draft_request request = requests[r];
        request.depth = std::min(request.depth, drafter.get().max_depth());
        if (budget != nullptr && !drafter.get().depth_is_free()) {
            request.depth      = budget->positions(request.depth, asked | drafter_set(1) << i);
            request.least_mass = drafter.seconds_per_depth()*budget->plain_speed();
        }
        if (request.depth > 0 && request.n_nodes > 0) {
            own.push_back(request);
            answer.requests.push_back((int32_t) r);
        }
    }
    if (own.empty()) {
        return;
    }
    answer.trees = drafter.propose(own);
    if (!answer.trees.empty()) {
        asked            |= drafter_set(1) << i;
        expected_seconds += drafter.usual_seconds();
        answers.push_back(std::move(answer));
    }
}

std::vector<merged_tree> drafting::merged(const std::vector<draft_request> & requests) const {
    std::vector<std::vector<proposal>> proposals(requests.size());
    for (const answer & answer : answers) {
        for (size_t k = 0; k < answer.trees.size(); ++k) {
            const calibration * odds = calibrated ? &tended[answer.drafter].odds : nullptr;
            proposals[answer.requests[k]].push_back({ &answer.trees[k], odds, (int32_t) answer.drafter });
        }
    }
    std::vector<merged_tree> res;
    for (size_t r = 0; r < requests.size(); ++r) {
        res.push_back(merge(requests[r].root, proposals[r]));
    }
    return res;
}

//
// what was accepted
//

void drafting::learn(const lane & lane) {
    for (int32_t child = 1; child < lane.tree.n_nodes(); ++child) {
        const auto at = std::find(lane.path.begin(), lane.path.end(), lane.tree.parents[child]);
        const size_t i = at - lane.path.begin();
        if (i >= lane.tokens.size()) {
            continue; // nothing was sampled at its parent
        }
        for (const node_offer & offer : lane.offers[child]) {
            tended[offer.drafter].odds.record(offer.logprob, offer.place, lane.tree.tokens[child] == lane.tokens[i]);
        }
    }
}
