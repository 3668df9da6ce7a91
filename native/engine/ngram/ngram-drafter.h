// Drafts without a model: what followed earlier in the lane's text, in given texts (a corpus) and in earlier answers. Takes
// microseconds a draft.
#pragma once

#include "drafter.h"

#include "text-predictor.h"

#include <memory>
#include <vector>

class ngram_drafter : public drafter {
public:
    // corpus: texts that all lanes look into. n_remembered: tokens of earlier answers that they look into too; the oldest are
    // forgotten; 0: none.
    ngram_drafter(int32_t n_lanes, const std::vector<std::vector<llama_token>> & corpus, int32_t n_remembered);

    const char * kind() const override { return "ngram"; }

    int32_t max_depth() const override { return deepest; }
    bool    depth_is_free() const override { return true; }

    void observe(const evaluated_tokens & tokens) override;
    void truncate(int32_t lane, llama_pos n_past) override;
    void forget(int32_t lane) override;

    std::vector<draft_tree> propose(const std::vector<draft_request> & requests) override;

    size_t save_size(int32_t lane) override;
    void   save(int32_t lane, uint8_t * out) override;
    void   load(int32_t lane, const uint8_t * data, size_t size) override;

private:
    static constexpr int32_t deepest = 63;

    struct followed_text {
        std::unique_ptr<text_predictor> text;
        llama_pos start  = 0;  // position of its first token
        int32_t   answer = -1; // where in it what the target wrote last begins; -1: it ends with what the target was given

        llama_pos end() const { return start + (llama_pos) text->size(); }
    };

    text_predictor::texts texts() const;
    void put(followed_text & lane, llama_pos pos, llama_token token, bool sampled);
    void cut(followed_text & lane, llama_pos n_past);
    void begin_anew(followed_text & lane, llama_pos pos);
    void end_answer(followed_text & lane);
    void shorten_answers();

    suffix_index                  corpus;
    std::unique_ptr<suffix_index> answers; // NULL: not remembered
    std::vector<std::vector<llama_token>> remembered; // of the answers, the oldest first
    int32_t                       n_remembered; // tokens, at most
    std::vector<followed_text>    lanes;
};
