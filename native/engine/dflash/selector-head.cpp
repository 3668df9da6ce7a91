// DFlash2: a selector scores a few candidates of each position given each candidate of the position before.

#include "dflash/drafter-head.h"

#include "ggml-top-logprobs.h"
#include "llama-ext.h"
#include "llama-tree.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace {
// Upstream's graph leaves a row for every position (the "lattice"): the k tokens with the highest logits, then k rows of k
// scores, one row for each candidate of the position before. A score is the candidate's logit plus the selector's term for
// the pair.
//
// The selector chooses among the candidates and scores no other token, so a score says how they compare with each other:
// softmax over the k. How likely it is that the token is among them at all is what the logits say of the whole vocabulary,
// whatever the parent. The product is a candidate's probability; what is left to 1 belongs to the tokens that can't be
// drafted.
class selector_head : public drafter_head {
public:
    explicit selector_head(const llama_model * model) :
        k(llama_model_dflash_selector_top_k(model)),
        n_vocab(llama_vocab_n_tokens(llama_model_get_vocab(model))),
        width(llama_model_n_embd(model)),
        from_anchor(says(model, "dflash.sample_from_anchor", false)) {}

    int32_t n_top()               const override { return k; } // the candidates
    bool    samples_from_anchor() const override { return from_anchor; }

    void prepare(llama_context * ctx) override {
        llama_set_embeddings_nextn(ctx, true, /*masked*/ false); // where the lattice comes out
    }

    void forwarded(llama_context * ctx, int32_t first_row, int32_t n_positions) override {
        lattice = llama_get_embeddings_nextn(ctx) + (size_t) first_row*width;

        log_mass.clear();
        for (int32_t i = 0; i < n_positions; ++i) {
            const float * logprobs = llama_tree_get_top_ith(ctx, first_row + i);
            if (logprobs == nullptr) {
                throw std::runtime_error("the drafter's forward left no log-probabilities at position " + std::to_string(i));
            }
            double mass = 0.0;
            for (int32_t c = 0; c < k; ++c) {
                mass += std::exp(logprobs[c]);
            }
            log_mass.push_back((float) std::log(std::min(mass, 1.0)));
        }
    }

    std::vector<position_candidates> children(int32_t depth, const std::vector<branch_parent> & parents, int32_t n_wanted) override {
        std::vector<position_candidates> res;
        for (const branch_parent & parent : parents) {
            const float * scores = scores_after(depth, parent.token);
            const bool possible  = scores && std::isfinite(log_mass[depth - 1]);
            res.push_back(possible ? best(scores, depth, n_wanted) : position_candidates());
        }
        return res;
    }

private:
    const float * candidates(int32_t depth) const { return lattice + (size_t) (depth - 1)*width; } // [k] tokens, as floats

    // The scores [k] of a depth's candidates after a parent. All rows of the first depth are the root's.
    const float * scores_after(int32_t depth, llama_token parent) const {
        const float * table = candidates(depth) + k;
        if (depth == 1) {
            return table;
        }
        const float * before = candidates(depth - 1);
        const int32_t rank   = (int32_t) (std::find(before, before + k, (float) parent) - before);
        return rank < k ? table + (size_t) rank*k : nullptr;
    }

    position_candidates best(const float * scores, int32_t depth, int32_t n_wanted) const {
        std::vector<float> entries(2*k); // of the scores as if they were all logits: ranks and log-probabilities among the k
        ggml_top_logprobs_row(scores, k, k, entries.data());

        position_candidates res = candidates_of(entries.data(), k, std::min(k, n_wanted));
        for (size_t i = 0; i < res.tokens.size(); ++i) {
            const float token = candidates(depth)[res.tokens[i]];
            res.tokens[i]    = token >= 0.0f && token < (float) n_vocab ? (llama_token) token : 0; // NaN in a damaged drafter
            res.logprobs[i] += log_mass[depth - 1];
        }
        return res;
    }

    const int32_t k;
    const int32_t n_vocab;
    const size_t  width;
    const bool    from_anchor;

    // of the last forward
    const float      * lattice = nullptr; // [n_positions][width]
    std::vector<float> log_mass;          // [n_positions] of the candidates' probability, all together
};
}

std::unique_ptr<drafter_head> take_selector_head(llama_model * model) {
    return llama_model_dflash_selector_top_k(model) > 0 ? std::make_unique<selector_head>(model) : nullptr;
}
