#include "mtp/mtp-file.h"

#include "model-file.h"

std::string mtp_file::architecture() const {
    return gguf_get_val_str(gguf.get(), find("general.architecture", GGUF_TYPE_STRING));
}

uint32_t mtp_file::number(const std::string & key) const {
    const int64_t id = gguf_find_key(gguf.get(), (architecture() + "." + key).c_str());
    return id >= 0 && gguf_get_kv_type(gguf.get(), id) == GGUF_TYPE_UINT32 ? gguf_get_val_u32(gguf.get(), id) : 0;
}

bool mtp_file::is_alone() const {
    return number("nextn_predict_layers") > 0 && !has("blk.0.attn_norm.weight");
}

void mtp_file::check() const {
    check_target_file(path);
    check_architecture();
    if (!is_alone()) {
        refuse("the draft model " + path + " is no MTP layer alone: it has no nextn_predict_layers, or the layers before it too. For a "
                "target's own layer give draft_model=\"mtp\"");
    }
}

sentences mtp_file::misfits(llama_context * target) const {
    const llama_model * model = llama_get_model(target);
    char arch[64] = "?";
    llama_model_meta_val_str(model, "general.architecture", arch, sizeof(arch));
    sentences found = vocabulary_misfits(model);
    if (architecture() != arch) {
        found.push_back("the layer is of architecture \"" + architecture() + "\", the target of \"" + arch + "\"");
    }
    if (number("embedding_length") != (uint32_t) llama_model_n_embd(model)) {
        found.push_back("the layer reads hidden states of size " + std::to_string(number("embedding_length")) + ", the target's have " +
                std::to_string(llama_model_n_embd(model)));
    }
    return found;
}

sentences mtp_misfits(const llama_model * model) {
    const int32_t n_layers = llama_model_n_layer_nextn(model);
    if (n_layers == 0) {
        return { "its file has no MTP layers (nextn_predict_layers): use a file that was converted with them, or another kind of drafter" };
    }
    if (n_layers > 1) {
        return { "it has " + std::to_string(n_layers) + " MTP layers, each for another depth, and drafting with more than one is not supported: "
                "use another kind of drafter" };
    }
    return {};
}
