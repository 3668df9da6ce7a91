// See llama-eagle3.h.

#include "llama-eagle3.h"

#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-model-loader.h"
#include "llama-model.h"

#include "gguf.h"

#include <cstring>
#include <stdexcept>

llm_ffn_op_type llama_eagle3_activation(const llama_model_loader & ml) {
    const char *  name = "eagle3.hidden_activation";
    const int64_t id   = gguf_find_key(ml.metadata, name);
    if (id < 0) {
        return LLM_FFN_SILU;
    }
    if (gguf_get_kv_type(ml.metadata, id) != GGUF_TYPE_STRING) {
        throw std::runtime_error(format("%s is %s, expected text", name, gguf_type_name(gguf_get_kv_type(ml.metadata, id))));
    }
    const std::string value = gguf_get_val_str(ml.metadata, id);
    if (value == "silu")              { return LLM_FFN_SILU; }
    if (value == "gelu")              { return LLM_FFN_GELU_ERF; } // by torch's name the exact one
    if (value == "gelu_pytorch_tanh") { return LLM_FFN_GELU; }
    if (value == "relu")              { return LLM_FFN_RELU; }
    throw std::runtime_error(format("%s is \"%s\", expected silu, gelu, gelu_pytorch_tanh or relu", name, value.c_str()));
}

static bool flag(const llama_model & model, const char * name, bool otherwise) {
    const auto found = model.gguf_kv.find(name);
    return found == model.gguf_kv.end() ? otherwise : found->second == "true";
}

bool llama_eagle3_goes_on_normed(const llama_model & model) {
    return flag(model, "eagle3.norm_output", false);
}

bool llama_eagle3_head_sees_normed(const llama_model & model) {
    return flag(model, "eagle3.norm_before_head", true);
}

int64_t llama_eagle3_norm_parts(const ggml_tensor * norm) {
    return norm ? norm->ne[1] : 1;
}

ggml_tensor * llama_eagle3_norm_features(llm_graph_context & graph, const llama_model & model, ggml_tensor * features) {
    const int64_t n_parts = llama_eagle3_norm_parts(model.output_norm_enc);
    const int64_t width   = features->ne[0]/n_parts;
    const int64_t n       = features->ne[1];

    ggml_tensor * cur = ggml_reshape_3d(graph.ctx0, features, width, n_parts, n);
    cur = ggml_rms_norm(graph.ctx0, cur, graph.hparams.f_norm_rms_eps);
    cur = ggml_mul(graph.ctx0, cur, ggml_reshape_2d(graph.ctx0, model.output_norm_enc, width, n_parts));
    return ggml_reshape_2d(graph.ctx0, cur, features->ne[0], n);
}
