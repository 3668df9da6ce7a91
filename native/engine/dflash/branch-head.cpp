// DSpark and Domino: the head adds a term of the tokens before in the branch to the logits of a position.

#include "dflash/drafter-head.h"

#include "llama-branch-head.h"

#include <stdexcept>
#include <string>

namespace {
class branch_head : public drafter_head {
public:
    branch_head(llama_branch_head * head, bool from_anchor) : head(head), from_anchor(from_anchor) {}

    int32_t n_top()               const override { return 1; } // only so that the rows stay where they are
    bool    samples_from_anchor() const override { return from_anchor; }

    void forwarded(llama_context * ctx, int32_t first_row, int32_t) override {
        this->ctx       = ctx;
        this->first_row = first_row;
    }

    // The probabilities are of the whole vocabulary, normalised anew for every parent.
    std::vector<position_candidates> children(int32_t depth, const std::vector<branch_parent> & parents, int32_t k) override {
        std::vector<llama_branch_parent> nodes;
        for (const branch_parent & parent : parents) {
            nodes.push_back({ parent.token, parent.before });
        }
        std::vector<float> entries(parents.size()*2*k);
        const int32_t ret = llama_branch_head_children(
                head.get(), ctx, first_row + depth - 1, depth, nodes.data(), (int32_t) nodes.size(), k, entries.data());
        if (ret != 0) {
            throw std::runtime_error("the drafter's head failed with " + std::to_string(ret) + " at depth " +
                    std::to_string(depth) + ", for " + std::to_string(parents.size()) + " nodes");
        }
        std::vector<position_candidates> res;
        for (size_t i = 0; i < parents.size(); ++i) {
            res.push_back(candidates_of(entries.data() + i*2*k, k, k));
        }
        return res;
    }

private:
    struct deleter { void operator()(llama_branch_head * h) const { llama_branch_head_free(h); } };

    std::unique_ptr<llama_branch_head, deleter> head;
    const bool      from_anchor;
    llama_context * ctx       = nullptr;
    int32_t         first_row = 0;
};
}

// Files that don't say it are of the kind that was first: it samples from the anchor.
std::unique_ptr<drafter_head> take_branch_head(llama_model * model, const llama_model * target) {
    llama_branch_head * head = llama_branch_head_take(model, target);
    return head ? std::make_unique<branch_head>(head, says(model, "dflash.sample_from_anchor", true)) : nullptr;
}
