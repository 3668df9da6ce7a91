#include "tree/branch-tree.h"

#include "tree/beam.h"

namespace {
class of_one_lane : public beam_scores {
public:
    explicit of_one_lane(branch_scores & scores) : scores(scores) {}

    std::vector<position_candidates> children(int32_t depth, const std::vector<beam_parent> & parents, int32_t k) override {
        std::vector<branch_parent> asked;
        for (const beam_parent & parent : parents) {
            asked.push_back({ parent.token, parent.before });
        }
        return scores.children(depth, asked, k);
    }

private:
    branch_scores & scores;
};
}

draft_tree build_tree(llama_token root, branch_scores & scores, int32_t n_positions, int32_t budget, bool chain) {
    of_one_lane lane(scores);
    return grow_beams({ { root, n_positions, budget + 1, budget, chain, 0.0, false } }, lane).front();
}
