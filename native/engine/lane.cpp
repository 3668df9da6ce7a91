#include "lane.h"

#include <utility>

void lane::begin(const round_request & request, int32_t n_max) {
    take(merge(request.root, {}));
    n_past = request.n_past;
    n_left = request.n_max;
    this->n_max = n_max;
    path.clear();
    tokens.clear();
    node    = -1;
    pending = false;
}

void lane::take(merged_tree proposed) {
    tree   = std::move(proposed.tree);
    offers = std::move(proposed.offers);
}

void lane::verified(int32_t first_row, bool pending) {
    this->first_row = first_row;
    this->pending   = pending;
    node = 0;
}

int32_t lane::enter() {
    if (path.size() == tokens.size()) { // else the sampler threw at this node before
        path.push_back(node);
    }
    return node;
}

sampled_token lane::sampled(llama_token token, bool is_last) {
    const int32_t at = node;
    tokens.push_back(token);
    node = is_last ? -1 : tree.child(at, token);
    return { token, at, node };
}

void lane::stop() {
    node = -1;
    if (path.empty()) {
        path.push_back(0);
    }
}

void lane::abandoned() {
    pending = false;
    node    = -1;
    path.clear();
}

std::vector<llama_token> lane::path_tokens() const {
    std::vector<llama_token> res;
    for (const int32_t i : path) {
        res.push_back(tree.tokens[i]);
    }
    return res;
}

std::vector<int32_t> lane::path_rows() const {
    std::vector<int32_t> res;
    for (const int32_t i : path) {
        res.push_back(row(i));
    }
    return res;
}
