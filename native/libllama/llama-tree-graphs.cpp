// Schedulers beside a context's own.

#include "llama-tree-graphs.h"

#include "llama-tree.h"

#include "llama-context.h"
#include "llama-memory.h"
#include "llama-model.h"

#include <utility>
#include <vector>

ggml_backend_sched_t llama_tree_new_sched(const llama_context & lctx, size_t n_graph) {
    const ggml_backend_sched_t like = lctx.get_sched();
    std::vector<ggml_backend_t>             backends;
    std::vector<ggml_backend_buffer_type_t> bufts;
    for (int i = 0; i < ggml_backend_sched_get_n_backends(like); ++i) {
        backends.push_back(ggml_backend_sched_get_backend(like, i));
        bufts.push_back(ggml_backend_sched_get_buffer_type(like, backends.back()));
    }
    return ggml_backend_sched_new(backends.data(), bufts.data(), (int) backends.size(), n_graph, false, false);
}

// A context whose batches with outputs and without take turns builds and allocates its graph anew every time: a scheduler
// holds one graph. With a scheduler for each kind both graphs stay, and a device replays them.
void llama_context::select_sched(bool has_outputs) {
    if (!other_graph.wanted || has_outputs == other_graph.has_outputs) {
        return;
    }
    if (!other_graph.sched) {
        other_graph.sched.reset(ggml_backend_sched_new(backend_ptrs.data(), backend_buft.data(), (int) backend_ptrs.size(),
                gf_res_reserve->get_max_nodes(), false, cparams.op_offload));
    }
    std::swap(sched, other_graph.sched);
    std::swap(gf_res_prev_active, other_graph.active);
    other_graph.has_outputs = has_outputs;
}

void llama_tree_keep_both_graphs(llama_context * ctx) {
    ctx->keep_both_graphs();
    if (llama_memory_t mem = ctx->get_memory()) {
        mem->tree_reserve(*ctx, 1); // as many cells for as long as possible
    }
}
