#include "context-scores.h"

#include "synthetic.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace {
class context_scores : public beam_scores {
public:
    context_scores(beam_context & beams, const std::vector<draft_request> & requests, const std::vector<int32_t> & rows, const beam_drafting & how) :
            beams(beams), requests(requests), rows(rows), how(how) {}

    ~context_scores() { beams.drop_nodes(); }

    std::vector<position_candidates> children(int32_t depth, const std::vector<beam_parent> & parents, int32_t k) override {
        if (depth > 1 && !decode(depth, parents)) {
            return std::vector<position_candidates>(parents.size()); // no room: the trees stay as deep as they are
        }
        std::vector<position_candidates> res;
        std::vector<float> left;
        for (size_t i = 0; i < parents.size(); ++i) {
            const int32_t row = depth > 1 ? (int32_t) i : rows[parents[i].request];
            res.push_back(beams.candidates(row, k));
            leave_known(res.back());
            if (how.carries_state) {
                left.insert(left.end(), beams.state(row), beams.state(row) + beams.n_embd());
            }
        }
        states.swap(left);
        if (requests.front().made_up) {
            synthetic_acceptance::shape(res);
        }
        return res;
    }

private:
    bool decode(int32_t depth, const std::vector<beam_parent> & parents) {
        std::vector<beam_context::node> nodes;
        for (const beam_parent & parent : parents) {
            const draft_request & request = requests[parent.request];
            const float * state = how.carries_state ? &states[parent.before*beams.n_embd()] : nullptr;
            nodes.push_back({ { request.lane, parent.token, request.n_past + how.root_pos + depth - 1, state }, depth == 2 ? -1 : parent.before });
        }
        const int32_t ret = beams.decode_nodes(nodes);
        if (ret < 0) {
            throw std::runtime_error("the draft model's forward over " + std::to_string(nodes.size()) + " nodes failed with " + std::to_string(ret));
        }
        return ret == 0;
    }

    void leave_known(position_candidates & found) const {
        size_t n = 0;
        for (size_t i = 0; i < found.tokens.size(); ++i) {
            if (found.tokens[i] < how.n_vocab) {
                found.tokens  [n] = found.tokens  [i];
                found.logprobs[n] = found.logprobs[i];
                n += 1;
            }
        }
        found.tokens  .resize(n);
        found.logprobs.resize(n);
    }

    beam_context                     & beams;
    const std::vector<draft_request> & requests;
    const std::vector<int32_t>       & rows;
    beam_drafting                      how;
    std::vector<float>                 states; // [parents of the last depth][n_embd]
};
}

std::vector<draft_tree> grow_in_context(
        beam_context & beams, const std::vector<draft_request> & requests, const std::vector<int32_t> & rows, const beam_drafting & how) {
    std::vector<beam_request> asked;
    for (size_t i = 0; i < requests.size(); ++i) {
        const draft_request & request = requests[i];
        const int32_t width   = request.chain ? 1 : beams.width();
        const int32_t n_nodes = rows[i] < 0 ? 0 : request.n_nodes;
        asked.push_back({ request.root, std::min(request.depth, how.depth), width, n_nodes, request.chain, request.least_mass, true });
    }
    context_scores scores(beams, requests, rows, how);
    return grow_beams(asked, scores);
}
