// A context whose batches with outputs and without take turns builds and allocates its graph anew every time: a scheduler
// holds one graph. With a scheduler for each kind both graphs stay, and a device replays them.

#include "llama-tree.h"

#include "llama-context.h"
#include "llama-memory.h"
#include "llama-model.h"

#include <utility>

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
