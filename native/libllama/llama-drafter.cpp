// See llama-drafter.h.

#include "llama-drafter.h"

#include "llama-graph.h"
#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-model-loader.h"
#include "llama-model.h"

#include "gguf.h"

#include <stdexcept>

static bool flag(const llama_model_loader & ml, const char * name, bool otherwise) {
    const int64_t id = gguf_find_key(ml.metadata, name);
    if (id < 0) {
        return otherwise;
    }
    if (gguf_get_kv_type(ml.metadata, id) != GGUF_TYPE_BOOL) {
        throw std::runtime_error(format("%s is %s, expected bool", name, gguf_type_name(gguf_get_kv_type(ml.metadata, id))));
    }
    return gguf_get_val_bool(ml.metadata, id);
}

void llama_drafter_read_hparams(const llama_model_loader & ml, llama_hparams & hparams) {
    const bool all_causal = flag(ml, "dflash.attention.causal", true);
    if (flag(ml, "dflash.attention.sliding_window_causal", all_causal)) {
        hparams.non_causal_type = LLAMA_NON_CAUSAL_TYPE_DENSE_ONLY;
    }
    if (flag(ml, "dflash.attention.sliding_window_from_anchor", false)) {
        hparams.swa_from_first = true;
        hparams.n_swa += 1; // speculators' windows do not count the position itself
    }
    hparams.swa_both_ways      = flag(ml, "dflash.attention.sliding_window_both_ways", false);
    hparams.sample_from_anchor = flag(ml, "dflash.sample_from_anchor", false); // a Markov head's default is the engine's
    hparams.target_output_norm = flag(ml, "dflash.target_output_norm", false);
}

const std::vector<const char *> & llama_drafter_head_tensors() {
    static const std::vector<const char *> names = {
        "gate.weight", "gate.bias", "joint.weight", "joint.bias",
        "gru_input.weight", "gru_state.weight", "inner.weight", "outer.weight",
    };
    return names;
}

static ggml_tensor * output_norm(llm_graph_context & graph, const llama_model & target, ggml_tensor * x) {
    const bool is_rms = target.output_norm_b == nullptr;
    x = is_rms ? ggml_rms_norm(graph.ctx0, x, target.hparams.f_norm_rms_eps) : ggml_norm(graph.ctx0, x, target.hparams.f_norm_eps);
    if (target.output_norm) {
        x = ggml_mul(graph.ctx0, x, target.output_norm);
    }
    return is_rms ? x : ggml_add(graph.ctx0, x, target.output_norm_b);
}

ggml_tensor * llama_drafter_norm_features(llm_graph_context & graph, const llama_model & model, ggml_tensor * features) {
    if (!graph.hparams.target_output_norm || graph.cparams.ctx_other == nullptr) {
        return features;
    }
    const llama_model & target = *llama_get_model(graph.cparams.ctx_other);
    const int64_t       width  = graph.n_embd;

    ggml_tensor * res = nullptr;
    for (size_t k = 0; k < model.target_layer_ids.size(); ++k) {
        ggml_tensor * part = ggml_cont(graph.ctx0, ggml_view_2d(graph.ctx0, features, width, features->ne[1],
                features->nb[1], k*width*ggml_element_size(features)));
        if (model.target_layer_ids[k] == (int32_t) target.hparams.n_layer()) {
            part = output_norm(graph, target, part);
        }
        res = res ? ggml_concat(graph.ctx0, res, part, 0) : part;
    }
    return res;
}
