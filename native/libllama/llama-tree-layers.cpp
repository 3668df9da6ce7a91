// See llama-tree-layers.h.

#include "llama-tree-layers.h"

#include "llama-tree.h"
#include "llama-tree-impl.h"

#include "llama-context.h"
#include "llama-graph.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <unordered_set>

//
// what a graph names
//

// The names under which graphs have the embeddings that enter layer 0. The last of them counts: llm_graph_context's own
// "embd" comes first, then what a model makes of it (a scale, a norm, positions).
static bool names_embeddings(const char * name) {
    for (const char * known : { "embd", "inp_embd", "inp_embd_scaled", "inp_scaled", "inp_norm", "embd_norm", "inpL" }) {
        if (strcmp(name, known) == 0) {
            return true;
        }
    }
    return false;
}

// "deepstack_out": what images add to a layer's output comes after "l_out".
static bool names_output(const char * name) {
    return strcmp(name, "l_out") == 0 || strcmp(name, "deepstack_out") == 0;
}

void llama_tree_note_layer(const llm_graph_context & graph, ggml_tensor * cur, const char * name, int il) {
    auto & seen = graph.res->layer_outputs;
    if (il >= 0 && il < (int) graph.n_layer && names_output(name)) {
        seen.of_layer.resize(graph.n_layer);
        seen.of_layer[il] = cur;
    } else if (seen.of_layer.empty() && names_embeddings(name)) {
        seen.embeddings = cur;
    }
}

//
// the last layer
//

namespace {
class input_all_rows : public llm_graph_input_i {
public:
    void set_input(const llama_ubatch *) override {
        if (!rows->buffer) {
            return; // the graph has no use for it
        }
        std::vector<int32_t> ids(rows->ne[0]);
        std::iota(ids.begin(), ids.end(), 0);
        ggml_backend_tensor_set(rows, ids.data(), 0, ggml_nbytes(rows));
    }

    bool can_reuse(const llm_graph_params & params) override { return rows->ne[0] == params.ubatch.n_tokens; }

    ggml_tensor * rows = nullptr; // I32 [n_tokens]
};
}

// Not while hidden states for the target's own draft head are asked for: its graph then counts on its own cut.
static bool cuts_late(const llama_cparams & cparams, int64_t n_layer) {
    return cparams.whole_last_layer && cparams.embeddings_layer_inp[n_layer] && !cparams.embeddings_nextn;
}

ggml_tensor * llama_tree_all_rows(const llm_graph_context & graph, ggml_tensor * out_ids) {
    graph.res->layer_outputs.out_ids = out_ids;
    if (!cuts_late(graph.cparams, graph.n_layer)) {
        return out_ids;
    }
    auto input = std::make_unique<input_all_rows>();
    input->rows = ggml_new_tensor_1d(graph.ctx0, GGML_TYPE_I32, graph.n_tokens);
    ggml_set_input(input->rows);
    ggml_set_name(input->rows, "all_rows");
    ggml_tensor * rows = input->rows;
    graph.res->add_input(std::move(input));
    return rows;
}

// The first norm that is of no layer and comes after the last layer is the final one.
ggml_tensor * llama_tree_cut_rows(const llm_graph_context & graph, ggml_tensor * cur, int il) {
    auto & seen = graph.res->layer_outputs;
    const bool is_final = il == -1 && !seen.of_layer.empty() && seen.of_layer.back();
    if (!is_final || seen.cut || !cuts_late(graph.cparams, graph.n_layer) || cur->ne[1] != graph.n_tokens) {
        return cur;
    }
    seen.cut = true;
    return ggml_get_rows(graph.ctx0, cur, seen.out_ids);
}

//
// the inputs
//

// One row of floats for every token.
static bool has_a_row_per_token(const ggml_tensor * t, const llm_graph_params & params) {
    return t && t->type == GGML_TYPE_F32 && ggml_is_contiguous(t) && t->ne[0] == params.hparams.n_embd &&
        t->ne[1] == params.ubatch.n_tokens && t->ne[2] == 1 && t->ne[3] == 1;
}

// Does something else than one hidden state a token pass between layers, or another one than a layer's output?
static bool passes_something_else(const std::vector<ggml_tensor *> & outputs, const llm_graph_params & params) {
    if (params.arch == LLM_ARCH_HRM_TEXT) {
        return true; // runs stacks of layers in cycles, with a norm and a sum between them
    }
    if (params.hparams.attn_res_block_size > 0) {
        return true; // layers read mixtures of the outputs of several layers before them
    }
    for (size_t il = 0; il + 1 < outputs.size(); ++il) {
        if (outputs[il] && !has_a_row_per_token(outputs[il], params)) {
            return true; // several streams: hyper-connections, AltUp
        }
    }
    return false;
}

// Are rows of `t` those that out_ids names?
static bool is_cut(const ggml_tensor * t, const ggml_tensor * out_ids, ggml_cgraph * gf) {
    std::unordered_set<const ggml_tensor *> cut = { out_ids };
    for (int i = 0; i < ggml_graph_n_nodes(gf); ++i) {
        const ggml_tensor * node = ggml_graph_node(gf, i);
        if (std::any_of(node->src, node->src + GGML_MAX_SRC, [&](const ggml_tensor * src) { return src && cut.count(src); })) {
            cut.insert(node);
        }
    }
    return cut.count(t) > 0;
}

// The output of the last layer, if there is one for every token and the head still gets its own rows only.
static bool is_whole(const ggml_tensor * output, const llm_graph_result & res, const llm_graph_params & params, int n_layer) {
    return has_a_row_per_token(output, params) && res.layer_outputs.cut == cuts_late(params.cparams, n_layer) &&
        !is_cut(output, res.layer_outputs.out_ids, res.get_gf());
}

void llama_tree_set_layer_inputs(llm_graph_result & res, const llm_graph_params & params) {
    const auto & outputs = res.layer_outputs.of_layer;
    const auto & wanted  = params.cparams.embeddings_layer_inp;
    const int    n_layer = (int) outputs.size();
    if (passes_something_else(outputs, params)) {
        return;
    }

    ggml_tensor * input = res.layer_outputs.embeddings;
    for (int il = 0; il < n_layer; ++il) {
        if (!res.t_layer_inp[il] && has_a_row_per_token(input, params)) {
            res.t_layer_inp[il] = input;
        }
        input = outputs[il] ? outputs[il] : input; // a layer without an output does nothing (deci)
    }
    if (n_layer > 0 && wanted[n_layer] && !res.t_layer_inp[n_layer] && is_whole(input, res, params, n_layer)) {
        res.t_layer_inp[n_layer] = input;
    }
    for (size_t il = 0; il < wanted.size(); ++il) {
        const ggml_tensor * taken = wanted[il] ? res.t_layer_inp[il] : nullptr;
        if (taken && taken->view_src) {
            ggml_set_output(taken->view_src); // what a view shows is not kept for the view's sake
        }
    }
}

//
// C API
//

bool llama_tree_compute::expose_output(llama_context * ctx, bool whole) {
    const uint32_t n_layer = ctx->model.hparams.n_layer();
    const bool     before  = ctx->cparams.embeddings_layer_inp[n_layer];
    const auto     leave   = [&](bool exposed) {
        ctx->set_embeddings_layer_inp(n_layer, before);
        ctx->cparams.whole_last_layer = whole && exposed;
        return exposed;
    };
    ctx->cparams.whole_last_layer = whole;
    ctx->set_embeddings_layer_inp(n_layer, true);
    try {
        ctx->sched_reserve();
    } catch (const std::exception &) {
        leave(false);
        throw;
    }
    return leave(ctx->get_gf_res_reserve()->get_layer_inp((int) n_layer) != nullptr);
}

static bool has_layer_inp(llama_context * ctx, int32_t il, int32_t n_layer) {
    if (il == n_layer) { // most graphs cut their last layer's rows, some keep them all anyway
        return llama_tree_compute::expose_output(ctx, false) || llama_tree_compute::expose_output(ctx, true);
    }
    ctx->sched_reserve();
    return ctx->get_gf_res_reserve()->get_layer_inp(il) != nullptr;
}

bool llama_tree_has_layer_inp(llama_context * ctx, int32_t il) {
    const int32_t n_layer = (int32_t) ctx->get_model().hparams.n_layer();
    if (il < 0 || il > n_layer || llama_tree_refuses(ctx->get_memory(), __func__)) {
        return false;
    }
    try {
        return has_layer_inp(ctx, il, n_layer);
    } catch (const std::exception & e) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, e.what());
        return false;
    }
}
