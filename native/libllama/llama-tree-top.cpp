// See llama-tree-top.h.

#include "llama-tree-top.h"

#include "ggml-top-logprobs.h"
#include "llama-context.h"
#include "llama-graph.h"
#include "llama-model.h"
#include "llama-tree.h"

#include <algorithm>
#include <cstdlib>
#include <exception>

static ggml_tensor * top_of(const llm_graph_result & res) {
    ggml_cgraph * gf = res.get_gf();
    ggml_tensor * last = ggml_graph_n_nodes(gf) > 0 ? ggml_graph_node(gf, -1) : nullptr;
    return last && ggml_is_top_logprobs(last) ? last : nullptr;
}

void llama_top_outputs::build(llm_graph_result & res) const {
    if (n_top == 0 || res.t_logits == nullptr || res.t_logits->ne[1] == 0) {
        return;
    }
    ggml_tensor * top = n_top < 0 ? ggml_top_logits(res.get_ctx(), res.t_logits, -n_top) : ggml_top_logprobs(res.get_ctx(), res.t_logits, n_top);
    ggml_set_name(top, "top_logprobs");
    ggml_set_output(top);
    ggml_build_forward_expand(res.get_gf(), top);
}

void llama_top_outputs::forget() {
    logits = nullptr;
    top.clear();
}

bool llama_top_outputs::take(const llm_graph_result & res, ggml_backend_sched_t sched, int64_t n_rows) {
    ggml_tensor * tensor = n_top != 0 && n_rows > 0 ? top_of(res) : nullptr;
    if (tensor == nullptr) {
        return false;
    }
    logits = res.get_logits();
    fetched.assign(n_rows, false);
    top.resize(2*std::abs(n_top)*n_rows);
    ggml_backend_tensor_get_async(ggml_backend_sched_get_tensor_backend(sched, tensor), tensor, top.data(), 0, ggml_nbytes(tensor));
    return true;
}

void llama_top_outputs::fetch(int64_t i, float * row) {
    if (logits == nullptr || fetched[i]) {
        return;
    }
    ggml_backend_tensor_get(logits, row, i*logits->nb[1], ggml_row_size(logits->type, logits->ne[0]));
    fetched[i] = true;
}

void llama_top_outputs::fetch_all(float * rows) {
    for (size_t i = 0; logits && i < fetched.size(); ++i) {
        fetch((int64_t) i, rows + i*logits->ne[0]);
    }
}

const float * llama_top_outputs::entries(int64_t i) const {
    return top.empty() ? nullptr : top.data() + 2*std::abs(n_top)*i;
}

//
// C API
//

void llama_tree_set_top(llama_context * ctx, int32_t n_top) {
    ctx->set_top(std::max(0, n_top));
}

void llama_tree_set_top_logits(llama_context * ctx, int32_t n_top) {
    ctx->set_top(-std::max(0, n_top));
}

const float * llama_tree_get_top_ith(llama_context * ctx, int32_t i) {
    ctx->synchronize();
    try {
        return ctx->get_top_ith(i);
    } catch (const std::exception &) { // no such row
        return nullptr;
    }
}

ggml_backend_dev_t llama_tree_output_device(const llama_model * model) {
    const ggml_backend_dev_t dev = model->dev_output();
    return dev == nullptr || ggml_backend_dev_type(dev) == GGML_BACKEND_DEVICE_TYPE_CPU ? nullptr : dev;
}

bool llama_tree_outputs_on_device(const llama_model * model) {
    return llama_tree_output_device(model) != nullptr;
}
