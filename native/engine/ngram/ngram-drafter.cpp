#include "ngram-drafter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

// No forward is so cheap that a less probable path is worth a node.
static constexpr double least_path_prob = 0.02;

// An answer that is shorter teaches nothing.
static constexpr int32_t shortest_answer = 4; // tokens

ngram_drafter::ngram_drafter(int32_t n_lanes, const std::vector<std::vector<llama_token>> & given, int32_t n_remembered) :
        corpus(text_predictor::max_context, false), n_remembered(n_remembered), lanes(n_lanes) {
    for (const std::vector<llama_token> & text : given) {
        corpus.begin_text();
        for (const llama_token token : text) {
            corpus.append(token);
        }
    }
    if (n_remembered > 0) {
        answers = std::make_unique<suffix_index>(text_predictor::max_context, false);
    }
    for (followed_text & lane : lanes) {
        begin_anew(lane, 0);
    }
}

text_predictor::texts ngram_drafter::texts() const {
    text_predictor::texts res;
    if (corpus.size() > 0) {
        res.push_back(&corpus);
    }
    if (answers) {
        res.push_back(answers.get());
    }
    return res;
}

//
// the text
//

void ngram_drafter::begin_anew(followed_text & lane, llama_pos pos) {
    lane.text   = std::make_unique<text_predictor>(texts());
    lane.start  = pos;
    lane.answer = -1;
}

// Afterwards the text ends with this token. It goes on where it already holds it.
void ngram_drafter::put(followed_text & lane, llama_pos pos, llama_token token, bool sampled) {
    if (pos < lane.start || pos > lane.end()) {
        end_answer(lane);
        begin_anew(lane, pos);
    }
    const size_t i = pos - lane.start;
    if (i < lane.text->size() && lane.text->token(i) == token) {
        cut(lane, pos + 1);
    } else {
        cut(lane, pos);
        if (!sampled) {
            end_answer(lane);
        }
        lane.text->append(token, sampled);
    }
    if (sampled && lane.answer < 0) {
        lane.answer = (int32_t) i;
    }
}

void ngram_drafter::cut(followed_text & lane, llama_pos n_past) {
    if (n_past >= lane.end()) {
        return;
    }
    if (n_past <= lane.start) {
        end_answer(lane);
        begin_anew(lane, n_past);
        return;
    }
    const int32_t n_tokens = n_past - lane.start;
    if (lane.answer >= n_tokens) {
        end_answer(lane);
    }
    lane.text->truncate(n_tokens);
}

void ngram_drafter::observe(const evaluated_tokens & tokens) {
    followed_text & lane = lanes.at(tokens.lane);
    for (int32_t i = 0; i < tokens.n; ++i) {
        put(lane, tokens.pos + i, tokens.tokens[i], tokens.sampled);
    }
}

void ngram_drafter::truncate(int32_t lane, llama_pos n_past) {
    cut(lanes.at(lane), n_past);
}

void ngram_drafter::forget(int32_t lane) {
    end_answer(lanes.at(lane));
    begin_anew(lanes.at(lane), 0);
}

//
// earlier answers
//

void ngram_drafter::end_answer(followed_text & lane) {
    const int32_t begin = lane.answer;
    lane.answer = -1;
    if (!answers || begin < 0 || (int32_t) lane.text->size() - begin < shortest_answer) {
        return;
    }
    remembered.emplace_back();
    answers->begin_text();
    for (size_t i = begin; i < lane.text->size(); ++i) {
        remembered.back().push_back(lane.text->token(i));
        answers->append(lane.text->token(i));
    }
    if ((int32_t) answers->size() > n_remembered) {
        shorten_answers();
    }
    for (followed_text & other : lanes) {
        other.text->others_changed();
    }
}

// An index without a log can't forget: it is made anew, of the newer half.
void ngram_drafter::shorten_answers() {
    size_t first = remembered.size();
    for (int32_t n = 0; first > 0 && n + (int32_t) remembered[first - 1].size() <= n_remembered/2; --first) {
        n += (int32_t) remembered[first - 1].size();
    }
    remembered.erase(remembered.begin(), remembered.begin() + first);
    *answers = suffix_index(text_predictor::max_context, false);
    for (const std::vector<llama_token> & answer : remembered) {
        answers->begin_text();
        for (const llama_token token : answer) {
            answers->append(token);
        }
    }
}

//
// drafts
//

static draft_tree tree_of(llama_token root, const std::vector<predicted_node> & nodes) {
    draft_tree tree;
    tree.tokens  = { root };
    tree.parents = { -1 };
    tree.depth   = { 0 };
    tree.logprob = { 0.0f };
    tree.prob    = { 1.0 };
    for (const predicted_node & node : nodes) {
        const int32_t parent = node.parent + 1;
        tree.tokens .push_back(node.token);
        tree.parents.push_back(parent);
        tree.depth  .push_back(tree.depth[parent] + 1);
        tree.logprob.push_back(std::log(node.prob));
        tree.prob   .push_back(tree.prob[parent]*node.prob);
    }
    return tree;
}

std::vector<draft_tree> ngram_drafter::propose(const std::vector<draft_request> & requests) {
    std::vector<draft_tree> trees;
    for (const draft_request & request : requests) {
        followed_text & lane = lanes.at(request.lane);
        put(lane, request.n_past, request.root, true);
        trees.push_back(tree_of(request.root, lane.text->grow(request.n_nodes, request.depth, least_path_prob, request.chain)));
    }
    return trees;
}

//
// states: the position of the text's first token, where the answer begins, and the tokens
//

static constexpr size_t head_size = 2*sizeof(int32_t);

size_t ngram_drafter::save_size(int32_t lane) {
    return head_size + lanes.at(lane).text->size()*sizeof(llama_token);
}

void ngram_drafter::save(int32_t id, uint8_t * out) {
    const followed_text & lane = lanes.at(id);
    memcpy(out, &lane.start, sizeof(int32_t));
    memcpy(out + sizeof(int32_t), &lane.answer, sizeof(int32_t));
    for (size_t i = 0; i < lane.text->size(); ++i) {
        const llama_token token = lane.text->token(i);
        memcpy(out + head_size + i*sizeof(token), &token, sizeof(token));
    }
}

void ngram_drafter::load(int32_t id, const uint8_t * data, size_t size) {
    followed_text & lane = lanes.at(id);
    end_answer(lane);
    begin_anew(lane, 0);
    if (size < head_size || (size - head_size) % sizeof(llama_token) != 0) {
        throw std::invalid_argument("the state of an n-gram drafter has " + std::to_string(size) + " bytes: it is damaged");
    }
    const int32_t n_tokens = (int32_t) ((size - head_size)/sizeof(llama_token));
    int32_t start, answer;
    memcpy(&start, data, sizeof(start));
    memcpy(&answer, data + sizeof(start), sizeof(answer));
    if (start < 0 || answer < -1 || answer > n_tokens) {
        throw std::invalid_argument("the state of an n-gram drafter is damaged: its text begins at position " +
                std::to_string(start) + ", its answer at token " + std::to_string(answer) + " of " + std::to_string(n_tokens));
    }
    lane.start = start;
    for (int32_t i = 0; i < n_tokens; ++i) {
        llama_token token;
        memcpy(&token, data + head_size + i*sizeof(token), sizeof(token));
        lane.text->append(token, answer >= 0 && i >= answer);
    }
    lane.answer = answer;
}
