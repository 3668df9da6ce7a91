#include "eagle3/eagle3-file.h"

#include "model-file.h"

void eagle3_file::check() const {
    check_architecture();
    check_transformer();
    u32("eagle3.target_hidden_size", 1, 1 << 20);
    find("eagle3.target_layers", GGUF_TYPE_ARRAY);
    check_tensors();
    if (has("token_embd.weight")) {
        check_shape("token_embd.weight", n_embd(), n_tokens());
    }
    int64_t n_known = n_tokens(), one = 1;
    shape("d2t", n_known, one);
    if (has("output.weight")) {
        check_shape("output.weight", n_embd(), n_known);
    }
}

// What it has none of is the target's, which has to be as wide.
sentences eagle3_file::table_misfits(const char * name, int64_t n_embd_target) const {
    if (has(name) || n_embd() == n_embd_target) {
        return {};
    }
    return { std::string("the head has no tensor ") + name + ", and can't use that of a target of hidden size " + std::to_string(n_embd_target) +
            ", as its own is " + std::to_string(n_embd()) };
}

sentences eagle3_file::misfits(llama_context * target) const {
    const llama_model * model  = llama_get_model(target);
    const int64_t n_embd_target = llama_model_n_embd(model);
    const int64_t n_embd_read   = u32("eagle3.target_hidden_size", 1, 1 << 20);
    sentences found;
    if (n_embd_read != n_embd_target) {
        found.push_back("the head reads hidden states of size " + std::to_string(n_embd_read) + ", the target's have " +
                std::to_string(n_embd_target));
    }
    for (const sentences & more : { vocabulary_misfits(model), layer_misfits(target), table_misfits("token_embd.weight", n_embd_target),
            table_misfits("output.weight", n_embd_target) }) {
        found.insert(found.end(), more.begin(), more.end());
    }
    return found;
}
