#include "draft-model.h"

#include "model-file.h"

#include "llama-tree.h"

llama_model * load_draft_model(const std::string & path, int32_t n_gpu_layers, bool load_mtp) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = n_gpu_layers;
    params.load_mtp     = load_mtp;
    llama_model * model = llama_model_load_from_file(path.c_str(), params);
    if (model == nullptr) {
        refuse("llama.cpp could not load the draft model " + path + " (its log says why; verbose=True shows it): "
                "the file is damaged, or of a newer format");
    }
    return model;
}

llama_context_params context_params(const drafter_params & params) {
    llama_context_params res = llama_context_default_params();
    res.n_threads       = params.n_threads;
    res.n_threads_batch = params.n_threads;
    res.type_k          = (ggml_type) params.type_k;
    res.type_v          = (ggml_type) params.type_v;
    res.flash_attn_type = params.flash_attn ? LLAMA_FLASH_ATTN_TYPE_AUTO : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    return res;
}

//
// layers of the target
//

wanted_layers::wanted_layers(llama_context * target, const std::vector<int32_t> & layers) : target(target) {
    for (const int32_t il : layers) {
        if (llama_tree_want_layer_inp(target, il, true) == 0) {
            ids.push_back(il);
        }
    }
}

wanted_layers::~wanted_layers() {
    for (const int32_t il : ids) {
        llama_tree_want_layer_inp(target, il, false);
    }
}
