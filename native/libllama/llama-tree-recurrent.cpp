// The recurrent half of draft trees: graph pieces of the verify pass, the commit, the verbs of the recurrent and hybrid
// memories. See llama-tree-recurrent.h.

#include "llama-tree-recurrent.h"

#include "llama-tree-graphs.h"

#include "ggml-tree-ops.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-memory-hybrid.h"
#include "llama-model.h"
#include "models/models.h"

#include <algorithm>
#include <map>
#include <stdexcept>

//
// what a tree's nodes leave behind
//

// Keys come to the op with as many heads as values where the graph has repeated them before.
static int64_t n_key_heads(const llama_context & lctx) {
    const auto & hparams = lctx.get_model().hparams;
    const auto & cparams = lctx.get_cparams();
    const bool repeated = lctx.get_model().arch == LLM_ARCH_QWEN3NEXT || !cparams.fused_gdn_ar || !cparams.fused_gdn_ch;
    return repeated ? hparams.ssm_dt_rank : hparams.ssm_n_group;
}

llama_tree_kept::llama_tree_kept(
        const llama_memory_recurrent & mem, const llama_context & lctx, int32_t n_nodes) :
        mem(mem), hparams(lctx.get_model().hparams), n_nodes_max(n_nodes), layers(mem.s_l.size()) {
    std::map<ggml_backend_buffer_type_t, std::vector<int>> ils; // a layer's inputs live where its state does
    for (size_t il = 0; il < mem.s_l.size(); ++il) {
        if (mem.s_l[il]) {
            ils[ggml_backend_buffer_get_type(mem.s_l[il]->buffer)].push_back((int) il);
        }
    }
    for (const auto & [buft, of_buft] : ils) {
        allocate(buft, of_buft, n_key_heads(lctx));
    }

    sched.reset(llama_tree_new_sched(lctx, 16*layers.size() + 64));
}

void llama_tree_kept::allocate(ggml_backend_buffer_type_t buft, const std::vector<int> & ils, int64_t n_key_heads) {
    ggml_context_ptr meta(ggml_init({ 5*ils.size()*ggml_tensor_overhead(), nullptr, true }));

    const int64_t S = hparams.ssm_d_state;
    const int64_t H = hparams.ssm_dt_rank;
    const int64_t n_carried = hparams.ssm_d_conv - 1;

    for (const int il : ils) {
        layer & l = layers[il];
        l.conv = ggml_new_tensor_2d(meta.get(), GGML_TYPE_F32, hparams.n_embd_r()/n_carried, n_carried + n_nodes_max);
        l.k    = ggml_new_tensor_3d(meta.get(), GGML_TYPE_F32, S, n_key_heads, n_nodes_max);
        l.v    = ggml_new_tensor_3d(meta.get(), GGML_TYPE_F32, S, H, n_nodes_max);
        l.g    = ggml_new_tensor_3d(meta.get(), GGML_TYPE_F32, 1, H, n_nodes_max);
        l.beta = ggml_new_tensor_3d(meta.get(), GGML_TYPE_F32, 1, H, n_nodes_max);
    }
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors_from_buft(meta.get(), buft));
    if (!buffer) {
        throw std::runtime_error(format("no memory to keep the inputs of %d tree nodes", n_nodes_max));
    }
    ggml_backend_buffer_clear(buffer.get(), 0); // the commit's graph passes over nodes that no tree has written
    ctxs_bufs.emplace_back(std::move(meta), std::move(buffer));
}

size_t llama_tree_kept::n_bytes() const {
    size_t res = 0;
    for (const auto & [_, buffer] : ctxs_bufs) {
        res += ggml_backend_buffer_get_size(buffer.get());
    }
    return res;
}

//
// verify: pieces of the target's graph
//

ggml_tensor * llm_build_delta_net_base::build_conv(llm_graph_input_rs * inp, ggml_tensor * conv_input, ggml_tensor * conv_kernel) {
    res->layer_outputs.n_tree_layers++;
    return inp->parents ?
        ggml_ssm_conv_tree(ctx0, conv_input, conv_kernel, inp->parents) :
        ggml_ssm_conv     (ctx0, conv_input, conv_kernel);
}

// Copy `src` to the first rows of `dst`, whose last dimension counts nodes.
static void keep(ggml_context * ctx, ggml_cgraph * gf, ggml_tensor * src, ggml_tensor * dst, int dim, int64_t n) {
    int64_t ne[GGML_MAX_DIMS];
    std::copy_n(dst->ne, GGML_MAX_DIMS, ne);
    ne[dim] = n;
    ggml_tensor * rows = ggml_view_4d(ctx, dst, ne[0], ne[1], ne[2], ne[3], dst->nb[1], dst->nb[2], dst->nb[3], 0);
    ggml_build_forward_expand(gf, ggml_cpy(ctx, src, rows));
}

// conv_input: [d_conv - 1 + n_nodes, channels]
void llm_build_delta_net_base::keep_tree_conv_input(llm_graph_input_rs * inp, ggml_tensor * conv_input, int il) {
    keep(ctx0, gf, ggml_transpose(ctx0, conv_input), inp->tree_kept->at(il).conv, 1, conv_input->ne[0]);
}

ggml_tensor * llm_build_delta_net_base::build_tree_attn(
        llm_graph_input_rs * inp,
        ggml_tensor *        q,
        ggml_tensor *        k,
        ggml_tensor *        v,
        ggml_tensor *        g,
        ggml_tensor *        b,
        ggml_tensor *        s,
        int                  il) {
    const auto & kept = inp->tree_kept->at(il);
    const int64_t n_nodes = v->ne[2];

    for (ggml_tensor * input : { q, k, v, g, b }) { // before the copies, so that these follow one another: one launch on a GPU
        ggml_build_forward_expand(gf, input);
    }
    keep(ctx0, gf, k, kept.k,    2, n_nodes);
    keep(ctx0, gf, v, kept.v,    2, n_nodes);
    keep(ctx0, gf, g, kept.g,    2, n_nodes);
    keep(ctx0, gf, b, kept.beta, 2, n_nodes);

    ggml_tensor * output = ggml_gated_delta_net_tree(ctx0, q, k, v, g, b, s, inp->parents);
    cb(output, "attn_output", il);

    return ggml_reshape_4d(ctx0, output, v->ne[0], v->ne[1], n_nodes, 1);
}

//
// commit
//

// Can the op run where the tensor it writes to lies? What the CPU computes for a device would have to be copied back.
static bool runs_in_place(const ggml_tensor * op) {
    const ggml_backend_buffer_t buffer = op->view_src->buffer;
    const ggml_backend_dev_t    device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(buffer));
    return ggml_backend_buffer_is_host(buffer) || (device && ggml_backend_dev_supports_op(device, op));
}

void llama_tree_kept::build_state(int il, int32_t src, int32_t dst) {
    const layer & l = layers[il];
    ggml_tensor * states = mem.s_l[il];

    const int64_t S = l.v->ne[0];
    const int64_t H = l.v->ne[1];

    const auto row = [&](int32_t i) {
        return ggml_view_4d(ctx.get(), states, S, S, H, 1, S*states->nb[0], S*S*states->nb[0], states->nb[1], i*states->nb[1]);
    };
    ggml_tensor * in_place = ggml_gated_delta_net_tree_persist_inplace(ctx.get(), l.k, l.v, l.g, l.beta, row(dst), inp_path);

    // a cell that several sequences share is not written at all, only the new one
    if (src == dst && runs_in_place(in_place)) {
        ggml_build_forward_expand(gf, in_place);
    } else {
        ggml_tensor * next = ggml_gated_delta_net_tree_persist(ctx.get(), l.k, l.v, l.g, l.beta, row(src), inp_path);
        ggml_build_forward_expand(gf, ggml_cpy(ctx.get(), next, row(dst)));
    }
}

void llama_tree_kept::build_conv_state(int il, int32_t dst) {
    ggml_tensor * inputs = layers[il].conv;
    ggml_tensor * states = mem.r_l[il];

    ggml_tensor * next  = ggml_get_rows(ctx.get(), inputs, inp_conv); // [channels, d_conv - 1]
    ggml_tensor * place = ggml_view_2d(ctx.get(), states, next->ne[1], next->ne[0],
            next->ne[1]*states->nb[0], dst*states->nb[1]);

    ggml_build_forward_expand(gf, ggml_cpy(ctx.get(), ggml_transpose(ctx.get(), next), place));
}

bool llama_tree_kept::prepare(int32_t src, int32_t dst) {
    if (gf && row_src == src && row_dst == dst) {
        return true;
    }
    const size_t n_graph = 16*layers.size() + 64;

    gf = nullptr;
    ctx.reset(ggml_init({ n_graph*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_graph, false), nullptr, true }));
    ggml_cgraph * graph = ggml_new_graph_custom(ctx.get(), n_graph, false);

    inp_path = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, n_nodes_max);
    inp_conv = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, hparams.ssm_d_conv - 1);
    ggml_set_input(inp_path);
    ggml_set_input(inp_conv);

    gf = graph;
    for (size_t il = 0; il < layers.size(); ++il) {
        if (layers[il].k) {
            build_state((int) il, src, dst);
            build_conv_state((int) il, dst);
        }
    }
    ggml_backend_sched_reset(sched.get());
    if (!ggml_backend_sched_alloc_graph(sched.get(), gf)) {
        gf = nullptr;
        return false;
    }
    row_src = src;
    row_dst = dst;
    return true;
}

bool llama_tree_kept::commit(int32_t src, int32_t dst, const std::vector<int32_t> & path) {
    if (!prepare(src, dst)) {
        return false;
    }
    const int32_t n_carried = (int32_t) inp_conv->ne[0];
    const int32_t n_path    = (int32_t) path.size();

    std::vector<int32_t> nodes(path);
    nodes.resize(n_nodes_max, -1);

    // the last inputs of the sequence (carried ones, path's ones), as rows of `conv` (carried ones, nodes)
    std::vector<int32_t> carried;
    for (int32_t i = n_path; i < n_path + n_carried; ++i) {
        carried.push_back(i < n_carried ? i : n_carried + path[i - n_carried]);
    }

    ggml_backend_tensor_set(inp_path, nodes.data(),   0, ggml_nbytes(inp_path));
    ggml_backend_tensor_set(inp_conv, carried.data(), 0, ggml_nbytes(inp_conv));

    // on the context's own backends: what it computes or reads next comes after this
    const ggml_status status = ggml_backend_sched_graph_compute_async(sched.get(), gf);
    if (status != GGML_STATUS_SUCCESS) {
        throw std::runtime_error(format("computing the recurrent state failed with %d", status));
    }
    return true;
}

//
// verbs of the recurrent memory
//

size_t llama_memory_recurrent::tree_reserve(const llama_context & lctx, int32_t n_nodes) {
    if (!tree_kept || tree_kept->n_nodes() < n_nodes) {
        tree_kept.reset();
        tree_kept = std::make_shared<llama_tree_kept>(*this, lctx, n_nodes);
    }
    return tree_kept->n_bytes();
}

bool llama_memory_recurrent::tree_begin(const llama_context & lctx, const llama_tree_ptr & new_tree) {
    if (n_rs_seq != 0) {
        return false;
    }
    tree_reserve(lctx, new_tree->n_nodes());
    tree_before = { cells, head, used, n, rs_z };
    tree = new_tree;
    return true;
}

bool llama_memory_recurrent::tree_commit(const std::vector<int32_t> & path) {
    auto & cell = cells[head];
    if (!tree_kept->commit(cell.src0, (int32_t) head, path)) {
        return false;
    }
    cell.pos = tree->n_past + (llama_pos) path.size() - 1;
    tree.reset();
    return true;
}

// No state was written: it is enough to forget which cells were taken. (Nothing here gets memory: there may be none.)
void llama_memory_recurrent::tree_discard() {
    cells = std::move(tree_before.cells);
    head  = tree_before.head;
    used  = tree_before.used;
    n     = tree_before.n;
    rs_z  = tree_before.rs_z;
    tree.reset();
}

std::shared_ptr<llama_tree_kept> llama_memory_recurrent_context::get_tree_kept() const {
    return mem->tree && !is_full ? mem->tree_kept : nullptr;
}

void llama_memory_recurrent_context::set_input_tree_parents(ggml_tensor * dst) const {
    ggml_backend_tensor_set(dst, mem->tree->parents.data(), 0, ggml_nbytes(dst));
}

//
// verbs of the hybrid memory
//

size_t llama_memory_hybrid::tree_reserve(const llama_context & lctx, int32_t n_nodes) {
    return mem_recr->tree_reserve(lctx, n_nodes) + mem_attn->tree_reserve(lctx, n_nodes);
}

bool llama_memory_hybrid::tree_begin(const llama_context & lctx, const llama_tree_ptr & new_tree) {
    if (!mem_recr->tree_begin(lctx, new_tree)) {
        return false;
    }
    if (!mem_attn->tree_begin(lctx, new_tree)) {
        mem_recr->tree_discard();
        return false;
    }
    tree = new_tree;
    return true;
}

// The recurrent layers first: they may fail, and then nothing has changed.
bool llama_memory_hybrid::tree_commit(const std::vector<int32_t> & path) {
    if (!mem_recr->tree_commit(path)) {
        return false;
    }
    mem_attn->tree_commit(path);
    tree.reset();
    return true;
}

void llama_memory_hybrid::tree_discard() {
    mem_recr->tree_discard();
    mem_attn->tree_discard();
    tree.reset();
}
