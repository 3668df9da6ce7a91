#include "model/draft-model-file.h"

#include "model-file.h"

#include "llama.h"

void draft_model_file::check() const {
    const std::string arch = architecture();
    if (arch == "dflash" || arch == "eagle3") {
        refuse("the draft model " + path + " has architecture \"" + arch + "\", which is no model by itself: give its path alone as "
                "draft_model, or the settings of its kind");
    }
    check_target_file(path);
    check_architecture();
}

bool draft_model_file::is_unused(int64_t token) const {
    const int64_t key = gguf_find_key(gguf.get(), "tokenizer.ggml.token_type");
    if (key < 0 || gguf_get_kv_type(gguf.get(), key) != GGUF_TYPE_ARRAY || gguf_get_arr_type(gguf.get(), key) != GGUF_TYPE_INT32 ||
            token >= (int64_t) gguf_get_arr_n(gguf.get(), key)) {
        return false;
    }
    return ((const int32_t *) gguf_get_arr_data(gguf.get(), key))[token] == LLAMA_TOKEN_TYPE_UNUSED;
}

sentences draft_model_file::misfits(llama_context * target) const {
    const llama_model * model = llama_get_model(target);
    const llama_vocab * vocab = llama_model_get_vocab(model);
    const int64_t n_theirs = llama_vocab_n_tokens(vocab);
    sentences found = token_misfits(model);
    const std::string sizes = "the drafter has a vocabulary of " + std::to_string(n_tokens()) + " tokens, the target of " + std::to_string(n_theirs);
    for (int64_t t = n_theirs; t < n_tokens() && found.empty(); ++t) {
        if (!is_unused(t)) {
            found.push_back(sizes + ", and token " + std::to_string(t) + " of the drafter is one that it uses");
        }
    }
    for (int64_t t = n_tokens(); t < n_theirs && found.empty(); ++t) {
        if ((llama_vocab_get_attr(vocab, (llama_token) t) & LLAMA_TOKEN_ATTR_UNUSED) == 0) {
            found.push_back(sizes + ", and token " + std::to_string(t) + " of the target (\"" + llama_vocab_get_text(vocab, (llama_token) t) +
                    "\") is one that it uses");
        }
    }
    return found;
}
