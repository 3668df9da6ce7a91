#include "draft-model.h"

#include "model-file.h"

#include "llama-tree.h"

#include "ggml-backend.h"
#include "llama-ext.h"

#include <string>
#include <vector>

static bool is_worker(ggml_backend_dev_t device) {
    return std::string("RPC") == ggml_backend_reg_name(ggml_backend_dev_backend_reg(device));
}

// Of a target on RPC workers: its devices, and a share of 1 for the one that has its output.
struct worker_devices {
    std::vector<ggml_backend_dev_t> devices; // then NULL
    std::vector<float>              share;   // of the drafter's layers
    bool                            has_output = false;

    explicit worker_devices(const llama_model * target) : share(llama_max_devices(), 0.0f) {
        for (int32_t i = 0; i < llama_model_n_devices(target); ++i) {
            devices.push_back(llama_model_get_device(target, i));
            if (devices.back() == llama_tree_output_device(target)) {
                has_output = true;
                share[i]   = 1.0f;
            }
        }
        devices.push_back(nullptr);
    }
};

bool is_on_workers(const llama_model * model) {
    for (int32_t i = 0; i < llama_model_n_devices(model); ++i) {
        if (is_worker(llama_model_get_device(model, i))) {
            return true;
        }
    }
    return false;
}

llama_model * load_draft_model(const llama_model * target, const std::string & path, int32_t n_gpu_layers, bool load_mtp) {
    llama_model_params params = llama_model_default_params();
    params.n_gpu_layers = n_gpu_layers;
    params.load_mtp     = load_mtp;
    worker_devices workers(target);
    if (is_on_workers(target)) {
        params.devices      = workers.devices.data();
        params.tensor_split = workers.share.data();
        params.n_gpu_layers = workers.has_output ? n_gpu_layers : 0;
    }
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
