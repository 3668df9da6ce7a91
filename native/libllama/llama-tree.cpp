// Draft trees in libllama: the C API and the tree verbs of the attention memories. See llama-tree.h.

#include "llama-tree.h"
#include "llama-tree-impl.h"

#include "llama-batch.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-kv-cache-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-memory.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>
#include <string>

//
// errors
//

static thread_local std::string last_error;

LLAMA_ATTRIBUTE_FORMAT(1, 2)
static int32_t fail(const char * format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);

    try {
        last_error = text;
    } catch (const std::bad_alloc &) { // the code that is returned has to do
        last_error.clear();
    }
    LLAMA_LOG_ERROR("llama_tree: %s\n", text);
    return -1;
}

const char * llama_tree_last_error(void) {
    return last_error.c_str();
}

bool llama_tree_refuses(const llama_memory_i * mem, const char * func) {
    if (!mem || !mem->tree) {
        return false;
    }
    fail("%s: a draft tree of %d nodes is pending on this context: call llama_tree_commit or llama_tree_discard first",
            func, mem->tree->n_nodes());
    return true;
}

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
// the tree
//

llama_tree::llama_tree(llama_seq_id seq_id, llama_pos n_past, const int32_t * parents_in, int32_t n_nodes) :
        seq_id(seq_id), n_past(n_past), parents(parents_in, parents_in + n_nodes), depth(n_nodes, 0) {
    visible.resize((size_t) n_nodes*n_nodes);
    for (int32_t i = 0; i < n_nodes; ++i) {
        const int32_t p = parents[i];
        if (p >= 0) {
            depth[i] = depth[p] + 1;
            std::copy_n(visible.begin() + (size_t) p*n_nodes, p + 1, visible.begin() + (size_t) i*n_nodes);
        }
        visible[(size_t) i*n_nodes + i] = true;
    }
}

//
// verbs of the unified KV cache
//

// A device replays a graph as long as it looks at as many cells. Reading some masked ones costs it next to nothing.
size_t llama_kv_cache::tree_reserve(const llama_context &, int32_t) {
    const bool on_device = std::none_of(layers.begin(), layers.end(), [](const kv_layer & layer) {
        return ggml_backend_buffer_is_host(layer.k->buffer);
    });
    tree_pad = on_device ? 2048 : 1;
    return 0;
}

bool llama_kv_cache::tree_begin(const llama_context &, const llama_tree_ptr & new_tree) {
    if (n_stream != 1 || other) {
        return false;
    }
    tree = new_tree;
    tree_cells.clear();
    return true;
}

template<typename T>
static void drop_strangers(const llama_tree & tree, const std::vector<uint32_t> & cells, T * mask, int64_t n_kv, T drop) {
    for (int32_t i = 0; i < tree.n_nodes(); ++i) {
        for (int32_t j = 0; j < tree.n_nodes(); ++j) {
            if (!tree.sees(i, j)) {
                mask[n_kv*i + cells[j]] = drop;
            }
        }
    }
}

// The causal mask has let every node see all nodes at its own or a smaller depth: hide those that are no ancestors.
void llama_kv_cache::tree_mask(ggml_tensor * dst) const {
    GGML_ASSERT((int32_t) tree_cells.size() == tree->n_nodes());

    if (dst->type == GGML_TYPE_F16) {
        drop_strangers(*tree, tree_cells, (ggml_fp16_t *) dst->data, dst->ne[0], ggml_fp32_to_fp16(-INFINITY));
    } else {
        drop_strangers(*tree, tree_cells, (float *) dst->data, dst->ne[0], -INFINITY);
    }
}

// Copy one cell's K and V from `src` to `dst` in every layer. Only for buffers in host memory.
void llama_kv_cache::tree_copy_cell(uint32_t src, uint32_t dst) {
    for (auto & layer : layers) {
        const size_t k_row = layer.k->nb[1];
        memcpy((char *) layer.k->data + dst*k_row, (const char *) layer.k->data + src*k_row, k_row);

        if (!layer.v) {
            continue;
        }
        if (!v_trans) {
            const size_t v_row = layer.v->nb[1];
            memcpy((char *) layer.v->data + dst*v_row, (const char *) layer.v->data + src*v_row, v_row);
            continue;
        }
        // transposed: element j of cell c is at index j*kv_size + c
        const size_t size   = ggml_type_size(layer.v->type);
        const size_t stride = size*get_size();
        for (int64_t j = 0; j < layer.v->ne[0]; ++j) {
            char * row = (char *) layer.v->data + j*stride;
            memcpy(row + dst*size, row + src*size, size);
        }
    }
}

bool llama_kv_cache::tree_can_compact() const {
    if (!std::is_sorted(tree_cells.begin(), tree_cells.end())) {
        return false; // the cells wrapped around the end of the cache
    }
    return std::all_of(layers.begin(), layers.end(), [](const kv_layer & layer) {
        return ggml_backend_buffer_is_host(layer.k->buffer) && (!layer.v || ggml_backend_buffer_is_host(layer.v->buffer));
    });
}

// Where the cache is in host memory the path moves to the first cells of the tree, so that cells stay in the order of
// their positions and no hole is left. Elsewhere the path stays where it is and the holes are filled by later batches.
bool llama_kv_cache::tree_commit(const std::vector<int32_t> & path) {
    auto & cells = v_cells[0];

    const bool compact = tree_can_compact();

    std::vector<uint32_t> kept;
    for (const int32_t node : path) {
        kept.push_back(tree_cells[node]);
    }
    const llama_kv_cells path_cells = cells.cp(kept);

    if (compact) {
        for (size_t k = 0; k < path.size(); ++k) {
            if (kept[k] != tree_cells[k]) {
                tree_copy_cell(kept[k], tree_cells[k]); // in ascending order: a later source is never overwritten
            }
            kept[k] = tree_cells[k];
        }
    }

    tree_drop_cells();
    cells.set(kept, path_cells);
    v_heads[0] = compact ? kept.back() + 1 : v_heads[0];
    tree.reset();
    return true;
}

void llama_kv_cache::tree_discard() {
    tree_drop_cells();
    tree.reset();
}

// After a failed decode some or all of the cells do not hold the tree (any more): only positions past n_past are its own.
void llama_kv_cache::tree_drop_cells() {
    auto & cells = v_cells[0];
    if (!tree) { // a commit failed after this cache's part of it
        return;
    }
    for (const uint32_t c : tree_cells) {
        if (!cells.is_empty(c) && cells.seq_has(c, tree->seq_id) && cells.pos_get(c) >= tree->n_past) {
            cells.rm(c);
            v_heads[0] = std::min(v_heads[0], c);
        }
    }
}

//
// verbs of the sliding-window cache: a full cache and a window cache, each with cells of its own
//

size_t llama_kv_cache_iswa::tree_reserve(const llama_context & lctx, int32_t n_nodes) {
    return kv_base->tree_reserve(lctx, n_nodes) + kv_swa->tree_reserve(lctx, n_nodes);
}

bool llama_kv_cache_iswa::tree_begin(const llama_context & lctx, const llama_tree_ptr & new_tree) {
    if (!kv_base->tree_begin(lctx, new_tree) || !kv_swa->tree_begin(lctx, new_tree)) {
        kv_base->tree.reset();
        return false;
    }
    tree = new_tree;
    return true;
}

bool llama_kv_cache_iswa::tree_commit(const std::vector<int32_t> & path) {
    kv_base->tree_commit(path);
    kv_swa ->tree_commit(path);
    tree.reset();
    return true;
}

void llama_kv_cache_iswa::tree_discard() {
    kv_base->tree_discard();
    kv_swa ->tree_discard();
    tree.reset();
}

//
// C API
//

static int32_t n_recurrent_layers(const llama_memory_recurrent & mem) {
    return (int32_t) std::count_if(mem.r_l.begin(), mem.r_l.end(), [](const ggml_tensor * r) { return r != nullptr; });
}

int32_t llama_kv_cache::tree_layers() const {
    return n_stream == 1 && !other ? 0 : -1;
}

int32_t llama_kv_cache_iswa::tree_layers() const {
    return std::min(kv_base->tree_layers(), kv_swa->tree_layers());
}

int32_t llama_memory_recurrent::tree_layers() const {
    return n_rs_seq == 0 ? n_recurrent_layers(*this) : -1;
}

int32_t llama_memory_hybrid::tree_layers() const {
    return mem_attn->tree_layers() == 0 ? mem_recr->tree_layers() : -1;
}

// Why trees can't be decoded on this context, or NULL.
static const char * why_no_trees(llama_context * ctx) {
    const auto & model = ctx->get_model();
    const llama_memory_t mem = ctx->get_memory();
    if (mem == nullptr || !ctx->get_cparams().causal_attn || llama_model_has_encoder(&model)) {
        return "it has no memory of one sequence with causal attention";
    }
    if (model.hparams.ple_n_heads > 0) {
        return "its n-gram embeddings look a token's predecessors up by position alone, and siblings share one";
    }
    const int32_t n_layers = mem->tree_layers();
    if (n_layers < 0) {
        return "its memory is no unified or sliding-window KV cache, alone or beside recurrent states "
               "(kv_unified = true and n_rs_seq = 0 are needed)";
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
            LLAMA_LOG_INFO("%s: trees of up to %d nodes: %.2f MiB for the inputs of the recurrent layers "
                    "(snapshots of their states, n_rs_seq = %d: %.2f MiB)\n",
                    "llama_tree_reserve", n_nodes, mib(n_bytes), depth, mib(snapshot_bytes(ctx->get_model().hparams, depth)));
        }
        return 0;
    });
}

static int32_t check_parents(const int32_t * parents, int32_t n_nodes) {
    if (parents == nullptr) {
        return fail("parents is NULL, expected an array of %d node indices", n_nodes);
    }
    if (parents[0] != -1) {
        return fail("parents[0] = %d, expected -1: node 0 is the root", parents[0]);
    }
    for (int32_t i = 1; i < n_nodes; ++i) {
        if (parents[i] < 0 || parents[i] >= i) {
            return fail("parents[%d] = %d, expected 0 to %d: every node comes after its parent", i, parents[i], i - 1);
        }
    }
    return 0;
}

static int32_t check_batch(const llama_context * ctx, const llama_batch & batch) {
    const int32_t n_max = (int32_t) std::min(ctx->n_ubatch(), ctx->n_batch());
    if (batch.n_tokens < 1 || batch.n_tokens > n_max) {
        return fail("the tree has %d nodes, expected 1 to n_ubatch = %d", batch.n_tokens, n_max);
    }
    if (batch.token == nullptr || batch.embd != nullptr) {
        return fail("the batch holds embeddings, expected token ids");
    }
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        if (batch.n_seq_id && batch.n_seq_id[i] != 1) {
            return fail("node %d belongs to %d sequences, expected 1", i, batch.n_seq_id[i]);
        }
        if (batch.seq_id && batch.seq_id[i][0] != batch.seq_id[0][0]) {
            return fail("node %d belongs to sequence %d, node 0 to %d: a tree is of one sequence",
                    i, batch.seq_id[i][0], batch.seq_id[0][0]);
        }
    }
    return 0;
}

static int32_t check_positions(const llama_batch & batch, const llama_tree & tree) {
    for (int32_t i = 0; batch.pos && i < batch.n_tokens; ++i) {
        if (batch.pos[i] != tree.n_past + tree.depth[i]) {
            return fail("node %d has position %d, expected n_past + depth = %d + %d", i, batch.pos[i], tree.n_past, tree.depth[i]);
        }
    }
    return 0;
}

static llama_batch_ext tree_batch(llama_context * ctx, const llama_batch & batch, const llama_tree & tree) {
    llama_batch_ext res(ctx);
    res.tree = true;
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        llama_batch_ext::token t;
        t.id     = batch.token[i];
        t.output = batch.logits == nullptr || batch.logits[i] != 0;
        t.pos[0] = tree.n_past + tree.depth[i];
        t.seq_ids.insert(tree.seq_id);
        res.tokens.push_back(t);
    }
    return res;
}

static int32_t begin(llama_context * ctx, const llama_tree_ptr & tree) {
    ctx->sched_reserve();
    if (ctx->get_memory()->tree_begin(*ctx, tree)) {
        return 0;
    }
    return fail("the memory refuses a tree of %d nodes", tree->n_nodes());
}

static int32_t decode_tree(llama_context * ctx, const llama_batch & batch, const int32_t * parents) {
    llama_memory_t mem = ctx->get_memory();

    const llama_seq_id seq_id = batch.seq_id ? batch.seq_id[0][0] : 0;
    if (seq_id < 0 || seq_id >= (llama_seq_id) ctx->n_seq_max()) {
        return fail("the tree is of sequence %d, expected 0 to n_seq_max - 1 = %u", seq_id, ctx->n_seq_max() - 1);
    }

    const auto tree = std::make_shared<const llama_tree>(seq_id, mem->seq_pos_max(seq_id) + 1, parents, batch.n_tokens);
    if (check_positions(batch, *tree) != 0) {
        return -1;
    }

    const llama_batch_ext nodes = tree_batch(ctx, batch, *tree);
    if (const int32_t ret = begin(ctx, tree); ret != 0) {
        return ret;
    }

    const int32_t ret = ctx->decode(nodes);
    if (ret != 0) {
        mem->tree_discard();
        fail("decoding a tree of %d nodes at position %d failed with %d", tree->n_nodes(), tree->n_past, ret);
    }
    return ret;
}

int32_t llama_tree_decode(llama_context * ctx, llama_batch batch, const int32_t * parents) {
    llama_memory_t mem = ctx->get_memory();

    if (llama_tree_refuses(mem, __func__)) {
        return -1;
    }
    if (const char * reason = why_no_trees(ctx)) {
        return fail("this context can't hold a tree: %s. Verify a chain instead", reason);
    }
    if (check_batch(ctx, batch) != 0 || check_parents(parents, batch.n_tokens) != 0) {
        return -1;
    }
    const int32_t ret = guarded([&] { return decode_tree(ctx, batch, parents); });
    if (ret != 0 && mem->tree) { // an exception came in between
        mem->tree_discard();
    }
    return ret;
}

static int32_t check_path(const llama_tree & tree, const int32_t * path, int32_t n_path) {
    if (path == nullptr || n_path < 1 || n_path > tree.n_nodes()) {
        return fail("the path has %d nodes, expected 1 to %d (to keep none, call llama_tree_discard)", n_path, tree.n_nodes());
    }
    for (int32_t k = 0; k < n_path; ++k) {
        const int32_t above = k == 0 ? -1 : path[k - 1];
        if (path[k] < 0 || path[k] >= tree.n_nodes() || tree.parents[path[k]] != above) {
            return fail("path[%d] = %d is no child of %d: a path starts at the root (node 0) and goes from parent to child",
                    k, path[k], above);
        }
    }
    return 0;
}

// The user's abort callback must not stop a commit: half of the layers would be at another position.
int32_t llama_tree_compute::commit(llama_context * ctx, const std::vector<int32_t> & path) {
    const auto callback = ctx->abort_callback;
    const auto data     = ctx->abort_callback_data;
    ctx->set_abort_callback(nullptr, nullptr);

    int32_t ret = 0;
    try {
        if (!ctx->get_memory()->tree_commit(path)) {
            fail("no memory to commit %zu nodes", path.size());
            ret = -2;
        }
    } catch (const std::exception & e) { // nobody knows how far it came
        remove_sequence(ctx);
        fail("committing %zu nodes failed, the sequence was removed: %s", path.size(), e.what());
        ret = -3;
    }
    ctx->set_abort_callback(callback, data);
    return ret;
}

void llama_tree_compute::remove_sequence(llama_context * ctx) {
    llama_memory_t mem = ctx->get_memory();
    const llama_seq_id seq_id = mem->tree->seq_id;
    mem->tree_discard();
    mem->seq_rm(seq_id, -1, -1);
}

ggml_tensor * llama_tree_compute::last_logits(llama_context * ctx) {
    return ctx->gf_res_prev_active ? ctx->gf_res_prev_active->get_logits() : nullptr;
}

ggml_tensor * llama_tree_compute::last_embd(llama_context * ctx) {
    return ctx->gf_res_prev_active ? ctx->gf_res_prev_active->get_embd() : nullptr;
}

int32_t llama_tree_commit(llama_context * ctx, const int32_t * path, int32_t n_path) {
    llama_memory_t mem = ctx->get_memory();
    if (mem == nullptr || !mem->tree) {
        return fail("nothing to commit: no tree is pending");
    }
    if (check_path(*mem->tree, path, n_path) != 0) {
        return -1;
    }
    return guarded([&] {
        ctx->synchronize(); // the forward may still be running
        return llama_tree_compute::commit(ctx, { path, path + n_path });
    });
}

int32_t llama_tree_discard(llama_context * ctx) {
    llama_memory_t mem = ctx->get_memory();
    if (mem == nullptr || !mem->tree) {
        return fail("nothing to discard: no tree is pending");
    }
    ctx->synchronize();
    mem->tree_discard();
    return 0;
}

bool llama_tree_pending(const llama_context * ctx) {
    llama_memory_t mem = ctx->get_memory();
    return mem != nullptr && mem->tree != nullptr;
}
