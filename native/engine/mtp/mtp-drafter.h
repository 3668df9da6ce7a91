// Drafts with a model's own layer for predicting further tokens (MTP, "NextN": DeepSeek-V3, arXiv 2412.19437, section 2.2;
// Qwen3-Next, Qwen3.5). The layer takes the token at a position and the hidden state of the position before: the target's,
// and past the text's end the one that the layer itself left for the node's parent. It has a memory of its own.
#pragma once

#include "beam-context.h"
#include "draft-model.h"
#include "drafter.h"

#include <memory>
#include <string>
#include <vector>

class mtp_drafter : public drafter {
public:
    // path: of a file with the layer alone; "" for the target's own, which must have been loaded with load_mtp. Throws
    // std::invalid_argument with a sentence for the user.
    mtp_drafter(llama_context * target, const std::string & path, const drafter_params & params);
    ~mtp_drafter() override;

    const char * kind() const override { return "mtp"; }
    int32_t max_depth() const override { return depth; }

    void observe(const evaluated_tokens & tokens) override;
    void truncate(int32_t lane, llama_pos n_past) override;
    void forget(int32_t lane) override { clear(lane, lanes[lane].end); }

    std::vector<draft_tree> propose(const std::vector<draft_request> & requests) override;

    // What waits is decoded first.
    size_t save_size(int32_t lane) override;
    void   save(int32_t lane, uint8_t * out) override;
    void   load(int32_t lane, const uint8_t * data, size_t size) override;

    void set_abort_callback(ggml_abort_callback callback, void * data) override {
        llama_set_abort_callback(beams->get(), callback, data);
    }

private:
    // Tokens that were observed and are not in the layer's memory, each with the state before it.
    struct waiting_tokens {
        std::vector<llama_token> tokens;
        std::vector<llama_pos>   pos;
        std::vector<float>       states; // [tokens][n_embd]
    };

    struct lane_text {
        llama_pos          end  = 0;  // so many positions of the text are known
        std::vector<float> last;      // [n_embd] the state before position `end`; empty where it is not known
        waiting_tokens     waiting;
        llama_token        root = -1; // in memory at position `end`, of the last draft; -1: none
    };

    const llama_model * head() const { return model ? model.get() : llama_get_model(target); }

    void check_head() const;
    void make_context(const drafter_params & params);

    void clear(int32_t lane, llama_pos at);
    void begin_at(lane_text & text, llama_pos at) const;
    void drop_root(int32_t lane);
    void push(lane_text & text, const evaluated_tokens & tokens, int32_t from) const;
    void make_room(int32_t lane);
    void append(int32_t lane, std::vector<beam_context::input> & inputs) const;
    void decode(const std::vector<int32_t> & lanes, const std::vector<beam_context::input> & roots);

    const float * state_after(int32_t row) const;

    llama_context * target;
    size_t          n_embd;
    int32_t         n_vocab;
    int32_t         n_context;
    int32_t         depth;

    std::unique_ptr<llama_model, model_deleter> model; // of a file of its own
    std::unique_ptr<beam_context>               beams;
    std::vector<lane_text>                      lanes;
};
