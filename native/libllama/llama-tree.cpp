// Draft trees in libllama: the C API. See llama-tree.h.

#include "llama-tree.h"
#include "llama-tree-impl.h"
#include "llama-workers.h"

#include "llama-batch.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-memory.h"
#include "llama-model.h"

#include <new>

static auto & fail = llama_tree_fail;

// Upstream's functions throw where there is no memory; none of it leaves the C API.
template<typename F>
static int32_t guarded(F && body) {
    try {
        return body();
    } catch (const std::bad_alloc &) {
        fail("out of memory");
        return -2;
    } catch (const std::exception & e) {
        fail("%s", e.what());
        return -3;
    }
}

//
// what a context can do
//

// Why trees can't be decoded on this context, or NULL.
static const char * why_no_trees(llama_context * ctx) {
    const auto & model = ctx->get_model();
    const llama_memory_t mem = ctx->get_memory();
    if (mem == nullptr || !ctx->get_cparams().causal_attn || llama_model_has_encoder(&model)) {
        return "it has no memory of sequences with causal attention";
    }
    if (model.hparams.ple_n_heads > 0) {
        return "its n-gram embeddings look a token's predecessors up by position alone, and siblings share one";
    }
    const int32_t n_layers = mem->tree_layers();
    if (n_layers < 0) {
        return "its memory is no KV cache with or without a sliding window, alone or beside recurrent states "
               "(n_rs_seq = 0 is needed)";
    }
    try {
        ctx->sched_reserve();
    } catch (const std::exception &) {
        return "there is no memory for its graph";
    }
    if (ctx->get_gf_res_reserve()->layer_outputs.n_tree_layers != n_layers) {
        return "its recurrent layers can't compute trees: only Gated DeltaNet layers can";
    }
    return nullptr;
}

bool llama_tree_supported(llama_context * ctx) {
    return why_no_trees(ctx) == nullptr;
}

static double mib(size_t bytes) {
    return bytes/1024.0/1024.0;
}

// What n_rs_seq = depth would take: a copy of every recurrent state per position.
static size_t snapshot_bytes(const llama_hparams & hparams, int32_t depth) {
    size_t floats = 0;
    for (uint32_t il = 0; il < hparams.n_layer(); ++il) {
        floats += hparams.is_recr(il) ? hparams.n_embd_r() + hparams.n_embd_s() : 0;
    }
    return floats*sizeof(float)*depth;
}

int32_t llama_tree_reserve(llama_context * ctx, int32_t n_nodes, int32_t depth) {
    llama_memory_t mem = ctx->get_memory();
    if (mem == nullptr || llama_tree_refuses(mem, __func__)) {
        return -1;
    }
    if (n_nodes < 1 || depth < 0 || depth >= n_nodes) {
        return fail("expected at least 1 node and a depth below the number of nodes, got %d nodes of depth %d", n_nodes, depth);
    }
    return guarded([&] {
        ctx->sched_reserve();
        const size_t n_bytes = mem->tree_reserve(*ctx, n_nodes);
        if (n_bytes > 0) {
            LLAMA_LOG_INFO("%s: forests of up to %d nodes: %.2f MiB for the inputs of the recurrent layers "
                    "(snapshots of their states, n_rs_seq = %d: %.2f MiB a sequence)\n",
                    "llama_tree_reserve", n_nodes, mib(n_bytes), depth, mib(snapshot_bytes(ctx->get_model().hparams, depth)));
        }
        return 0;
    });
}

//
// decode
//

static llama_batch_ext forest_batch(llama_context * ctx, const llama_batch & batch, const llama_forest & forest) {
    llama_batch_ext res(ctx);
    res.tree = true;
    res.tokens.resize(batch.n_tokens);
    for (const auto & tree : forest.trees) {
        for (int32_t k = 0; k < tree->n_nodes(); ++k) {
            const int32_t node = tree->nodes[k];
            auto & t = res.tokens[node];
            t.id     = batch.token[node];
            t.output = batch.logits == nullptr || batch.logits[node] != 0;
            t.pos[0] = tree->n_past + tree->depth[k];
            t.seq_ids.insert(tree->seq_id);
        }
    }
    return res;
}

static int32_t decode_forest(llama_context * ctx, const llama_batch & batch, const int32_t * parents) {
    const llama_forest_ptr forest = llama_forest_of(*ctx, batch, parents);
    if (!forest) {
        return -1;
    }
    llama_memory_t mem = ctx->get_memory();
    const llama_batch_ext nodes = forest_batch(ctx, batch, *forest);

    ctx->sched_reserve();
    if (!mem->forest_begin(*ctx, forest)) {
        return fail("the memory refuses a forest of %d nodes", forest->n_nodes());
    }
    const int32_t ret = ctx->decode(nodes);
    llama_check_workers(*ctx);
    if (ret != 0) {
        fail("decoding %d nodes of %zu sequences failed with %d", forest->n_nodes(), forest->trees.size(), ret);
    }
    return ret;
}

int32_t llama_tree_decode(llama_context * ctx, llama_batch batch, const int32_t * parents) {
    if (const char * reason = why_no_trees(ctx)) {
        return fail("this context can't hold a tree: %s. Verify a chain instead", reason);
    }
    const int32_t ret = guarded([&] { return decode_forest(ctx, batch, parents); });
    if (ctx->get_memory()->forest) { // also after an exception
        ctx->get_memory()->forest_end(ret == 0);
    }
    return ret;
}

//
// commit and discard
//

static const llama_tree * pending_tree(llama_memory_t mem, llama_seq_id seq_id) {
    if (mem == nullptr) {
        return nullptr;
    }
    const auto found = mem->pending.find(seq_id);
    return found == mem->pending.end() ? nullptr : found->second.get();
}

static int32_t check_path(const llama_tree & tree, const int32_t * path, int32_t n_path) {
    if (path == nullptr || n_path < 1 || n_path > tree.n_nodes()) {
        return fail("the path has %d nodes, expected 1 to %d (to keep none, call llama_tree_discard)", n_path, tree.n_nodes());
    }
    for (int32_t k = 0; k < n_path; ++k) {
        const int32_t above = k == 0 ? -1 : tree.place_of(path[k - 1]);
        const int32_t place = tree.place_of(path[k]);
        if (place < 0 || tree.parents[place] != above) {
            return fail("path[%d] = %d is no child of %d: a path starts at the root of its sequence (node %d) and goes from "
                    "parent to child", k, path[k], k == 0 ? -1 : path[k - 1], tree.nodes[0]);
        }
    }
    return 0;
}

// The user's abort callback must not stop a commit: half of the layers would be at another position.
int32_t llama_tree_compute::commit(llama_context * ctx, llama_seq_id seq_id, const std::vector<int32_t> & path) {
    const auto callback = ctx->abort_callback;
    const auto data     = ctx->abort_callback_data;
    ctx->set_abort_callback(nullptr, nullptr);

    int32_t ret = 0;
    try {
        if (!ctx->get_memory()->tree_commit(seq_id, path)) {
            fail("no memory to commit %zu nodes", path.size());
            ret = -2;
        }
        llama_check_workers(*ctx);
    } catch (const std::exception & e) { // nobody knows how far it came
        remove_sequence(ctx, seq_id);
        fail("committing %zu nodes failed, sequence %d was removed: %s", path.size(), seq_id, e.what());
        ret = -3;
    }
    ctx->set_abort_callback(callback, data);
    return ret;
}

void llama_tree_compute::remove_sequence(llama_context * ctx, llama_seq_id seq_id) {
    llama_memory_t mem = ctx->get_memory();
    mem->tree_discard(seq_id);
    mem->seq_rm(seq_id, -1, -1);
}

ggml_tensor * llama_tree_compute::last_logits(llama_context * ctx) {
    return ctx->gf_res_prev_active ? ctx->gf_res_prev_active->get_logits() : nullptr;
}

ggml_tensor * llama_tree_compute::last_embd(llama_context * ctx) {
    return ctx->gf_res_prev_active ? ctx->gf_res_prev_active->get_embd() : nullptr;
}

int32_t llama_tree_commit(llama_context * ctx, llama_seq_id seq_id, const int32_t * path, int32_t n_path) {
    const llama_tree * tree = pending_tree(ctx->get_memory(), seq_id);
    if (tree == nullptr) {
        return fail("nothing to commit: no tree is pending on sequence %d", seq_id);
    }
    if (check_path(*tree, path, n_path) != 0) {
        return -1;
    }
    return guarded([&] {
        ctx->synchronize(); // the forward may still be running
        return llama_tree_compute::commit(ctx, seq_id, { path, path + n_path });
    });
}

int32_t llama_tree_discard(llama_context * ctx, llama_seq_id seq_id) {
    if (pending_tree(ctx->get_memory(), seq_id) == nullptr) {
        return fail("nothing to discard: no tree is pending on sequence %d", seq_id);
    }
    return guarded([&] {
        ctx->synchronize();
        ctx->get_memory()->tree_discard(seq_id);
        return 0;
    });
}

bool llama_tree_pending(const llama_context * ctx, llama_seq_id seq_id) {
    llama_memory_t mem = ctx->get_memory();
    return seq_id < 0 ? mem != nullptr && !mem->pending.empty() : pending_tree(mem, seq_id) != nullptr;
}
