#include "dflash/dflash-file.h"

#include "model-file.h"

// What a gated or rnn Markov head has beside its tables, and a Domino head: llama-branch-head.h.
void dflash_file::check_branch_head() const {
    const int64_t n_vocab = n_tokens();
    const int64_t n_embd = u32("dflash.embedding_length", 1, 1 << 20);
    int64_t rank = 0, n_rows = 0, state = 0, inner = 0;
    const bool has_gate  = has("draft_head.gate.weight");
    const bool has_joint = has("draft_head.joint.weight");
    const bool has_gru   = has("draft_head.gru_input.weight");
    if (has_gate + has_joint + has_gru > 1) {
        refuse("the draft model " + path + " has tensors of several kinds of heads (draft_head.*), expected one of them");
    }
    if ((has_gate || has_joint) && !shape("markov_w1.weight", rank, n_rows)) {
        refuse("the draft model " + path + " has parts of a Markov head (draft_head.*) but no tensor markov_w1.weight: it is damaged");
    }
    if (has_gate) {
        check_shape("draft_head.gate.weight", n_embd + rank, rank);
        check_shape("draft_head.gate.bias", rank, 1);
    }
    if (has_joint) {
        check_shape("draft_head.joint.weight", n_embd + 2*rank, 3*rank);
        check_shape("draft_head.joint.bias", 3*rank, 1);
    }
    if (has_gru) {
        shape("draft_head.gru_state.weight", state, n_rows);
        shape("draft_head.inner.weight", n_rows, inner);
        check_shape("draft_head.gru_input.weight", n_embd, 3*state);
        check_shape("draft_head.gru_state.weight", state, 3*state);
        check_shape("draft_head.inner.weight", n_embd + state, inner);
        check_shape("draft_head.outer.weight", inner, n_vocab);
        if (has_key("dflash.domino_prefix")) {
            u32("dflash.domino_prefix", 0, 1024);
        }
    }
}

void dflash_file::check_heads() const {
    const bool has_selector = has("selector_hidden.weight");
    if (has_selector && has("markov_w1.weight")) {
        refuse("the draft model " + path + " has both a selector (DFlash2) and a Markov head (DSpark), expected one of them");
    }
    if (!has_selector && has_key("dflash.selector_top_k")) {
        refuse("the draft model " + path + " has dflash.selector_top_k but no tensor selector_hidden.weight: it is damaged");
    }
    if (has_selector) {
        u32("dflash.selector_top_k",    1, 1024);
        u32("dflash.selector_rank",     1, 1 << 20);
        u32("dflash.conv_kernel_size",  1, 1024);
        u32("dflash.conv_group_size",   1, 1 << 20);
    }
    if (has_key("dflash.hyper_connection_count")) {
        u32("dflash.hyper_connection_count", 0, 1024);
    }
}

void dflash_file::check() const {
    check_architecture();
    u32("dflash.block_size", 2, 1024);
    check_transformer();
    check_heads();
    check_tensors();
    check_branch_head();
}

sentences dflash_file::misfits(llama_context * target) const {
    const llama_model * model = llama_get_model(target);
    sentences found;
    if (has_key("dflash.hyper_connection_count") && u32("dflash.hyper_connection_count", 0, 1024) > 0) {
        found.push_back("it is the DSpark drafter of a DeepSeek V4 target (dflash.hyper_connection_count > 0), whose layers this version "
                "does not draft with");
    }
    const int32_t n_embd = (int32_t) u32("dflash.embedding_length", 1, 1 << 20);
    if (n_embd != llama_model_n_embd(model)) {
        found.push_back("the drafter has hidden size " + std::to_string(n_embd) + ", the target " + std::to_string(llama_model_n_embd(model)));
    }
    for (const sentences & more : { vocabulary_misfits(model), mask_misfits(model), layer_misfits(target) }) {
        found.insert(found.end(), more.begin(), more.end());
    }
    return found;
}

sentences dflash_file::mask_misfits(const llama_model * target) const {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(target));
    const char * key = "tokenizer.ggml.mask_token_id";
    if (!has_key(key)) {
        return { std::string("the drafter has no mask token (") + key + "), which a DFlash drafter needs" };
    }
    const uint32_t mask = u32(key, 0, UINT32_MAX);
    if (n_tokens() == n_vocab && mask >= (uint32_t) n_vocab) {
        return { "the drafter has mask token " + std::to_string(mask) + " (" + key + "), the target has tokens 0 to " +
                std::to_string(n_vocab - 1) };
    }
    return {};
}
