// An EAGLE-3 head (arXiv 2503.01840) as a drafter: a layer that pairs a token with the hidden state of the position before.
//
// Of the text, that is the target's: the inputs of some of its layers, fused by the head. Of a drafted token, it is what the
// head itself left at the token's parent. The pair of position p + 1's token and p's state is at position p of the head's
// memory, so that the root's is one before the root's own.
#pragma once

#include "beam-context.h"
#include "drafter.h"

#include <memory>
#include <string>
#include <vector>

class eagle3_drafter : public drafter {
public:
    // Loads and checks the file. Throws std::invalid_argument with a sentence for the user.
    eagle3_drafter(llama_context * target, const std::string & path, const drafter_params & params);

    const char * kind()      const override { return "eagle3"; }
    int32_t      max_depth() const override { return depth; }

    void observe(const evaluated_tokens & tokens) override;
    void truncate(int32_t lane, llama_pos n_past) override;
    void forget(int32_t lane) override { clear(lane, lanes[lane].end()); }

    std::vector<draft_tree> propose(const std::vector<draft_request> & requests) override;

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

        // Of the newest positions: fused states [positions][n_embd], and behind them features that wait to be fused, [positions]
        // [layers][n_embd_target]. Together they end where the text does.
        std::vector<float> fused;
        std::vector<float> features;

        llama_pos                paired_from = 0; // the head's memory: position of its first pair
        std::vector<llama_token> paired;          // and the tokens of all its pairs

        llama_pos end() const { return begin + (llama_pos) tokens.size(); }
        llama_token at(llama_pos pos) const { return tokens[pos - begin]; }
    };

    void read_layout();
    void make_context(const drafter_params & params);

    int32_t   n_waiting(const lane_text & text) const { return (int32_t) (text.features.size()/width); }
    llama_pos fused_end(const lane_text & text) const { return text.end() - n_waiting(text); }
    llama_pos fused_from(const lane_text & text) const { return fused_end(text) - (llama_pos) (text.fused.size()/n_embd); }

    void      clear(int32_t lane, llama_pos at);
    void      forget_old(lane_text & text);
    void      fuse(const std::vector<int32_t> & lanes);
    void      fuse_some(const std::vector<const float *> & rows, float * out);
    llama_pos keep_common(int32_t lane, llama_pos n_pairs, llama_token root);
    void      follow(int32_t lane, llama_pos n_pairs, llama_token root, std::vector<beam_context::input> & inputs);
    void      decode(const std::vector<beam_context::input> & pairs, const std::vector<beam_context::input> & last);

    llama_context * target;
    int32_t n_vocab;
    int32_t n_context;
    int32_t depth;
    size_t  n_embd        = 0;
    size_t  n_embd_target = 0;
    size_t  width         = 0; // of a position's features

    std::vector<int32_t> layers; // of the target, whose inputs are read

    std::unique_ptr<llama_model, model_deleter>         model;
    std::unique_ptr<beam_context>                       beams;
    std::unique_ptr<llama_batch_ext, batch_ext_deleter> batch; // of features
    std::vector<lane_text>                              lanes;
    std::unique_ptr<wanted_layers>                      wanted;
};
