// A small ordinary model of the target's vocabulary as a drafter: a beam in depth, every node from its own path.
//
// What it remembers of a lane is the text. Its own context follows when a draft is asked for: what the two have in common
// stays, the rest is decoded with the root in one forward. So whatever happens to the text costs nothing until then.
#pragma once

#include "beam-context.h"
#include "drafter.h"

#include <memory>
#include <string>
#include <vector>

class model_drafter : public drafter {
public:
    // Loads and checks the file. Throws std::invalid_argument with a sentence for the user.
    model_drafter(llama_context * target, const std::string & path, const drafter_params & params);

    const char * kind()      const override { return "model"; }
    int32_t      max_depth() const override { return depth; }

    void observe(const evaluated_tokens & tokens) override;
    void truncate(int32_t lane, llama_pos n_past) override;
    void forget(int32_t lane) override;

    std::vector<draft_tree> propose(const std::vector<draft_request> & requests) override;

    // A state is the text: the context follows it as it follows any other.
    size_t save_size(int32_t lane) override;
    void   save(int32_t lane, uint8_t * out) override;
    void   load(int32_t lane, const uint8_t * data, size_t size) override;

    void set_abort_callback(ggml_abort_callback callback, void * data) override {
        llama_set_abort_callback(beams->get(), callback, data);
    }

private:
    struct lane_text {
        llama_pos                begin = 0; // position of its first known token
        std::vector<llama_token> tokens;

        llama_pos                decoded_from = 0; // and of the first in the context's memory
        std::vector<llama_token> decoded;

        llama_pos end() const { return begin + (llama_pos) tokens.size(); }
        llama_token at(llama_pos pos) const { return tokens[pos - begin]; }
    };

    void      make_context(llama_context * target, const drafter_params & params);
    bool      follow(const std::vector<draft_request> & requests);
    llama_pos keep_common(int32_t lane, const draft_request & request);
    bool      make_room(int32_t lane, llama_pos first);
    void      clear(int32_t lane, llama_pos at);

    int32_t n_vocab_target;
    int32_t n_vocab;
    int32_t n_context;
    int32_t depth;

    std::unique_ptr<llama_model, model_deleter> model;
    std::unique_ptr<beam_context>               beams;
    std::vector<lane_text>                      lanes;
};
