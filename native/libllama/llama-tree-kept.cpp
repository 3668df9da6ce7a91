// See llama-tree-kept.h.

#include "llama-tree-kept.h"

#include "llama-tree-graphs.h"

#include "ggml-tree-ops.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <map>
#include <stdexcept>

//
// what a forest's nodes leave behind
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
    std::map<ggml_backend_buffer_type_t, std::vector<int>> ils; // a layer's inputs live where its states do
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

    for (const int il : ils) {
        layer & l = layers[il];
        l.conv = ggml_new_tensor_2d(meta.get(), GGML_TYPE_F32, hparams.n_embd_r()/(hparams.ssm_d_conv - 1), n_nodes_max);
        l.k    = ggml_new_tensor_3d(meta.get(), GGML_TYPE_F32, S, n_key_heads, n_nodes_max);
        l.v    = ggml_new_tensor_3d(meta.get(), GGML_TYPE_F32, S, H, n_nodes_max);
        l.g    = ggml_new_tensor_3d(meta.get(), GGML_TYPE_F32, 1, H, n_nodes_max);
        l.beta = ggml_new_tensor_3d(meta.get(), GGML_TYPE_F32, 1, H, n_nodes_max);
    }
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors_from_buft(meta.get(), buft));
    if (!buffer) {
        throw std::runtime_error(format("no memory to keep the inputs of %d tree nodes", n_nodes_max));
    }
    ggml_backend_buffer_clear(buffer.get(), 0); // the commit's graph passes over nodes that no forest has written
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
// commit
//

// Can the op run where the tensor it writes to lies? What the CPU computes for a device would have to be copied back.
static bool runs_in_place(const ggml_tensor * op) {
    const ggml_backend_buffer_t buffer = op->view_src->buffer;
    const ggml_backend_dev_t    device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(buffer));
    return ggml_backend_buffer_is_host(buffer) || (device && ggml_backend_dev_supports_op(device, op));
}

// states [n, n_rows]; next: what belongs in row `dst`
void llama_tree_kept::build_store(ggml_tensor * states, ggml_tensor * in_place, ggml_tensor * next) {
    if (!runs_in_place(in_place)) {
        ggml_tensor * row = ggml_view_1d(ctx.get(), inp_rows, 1, sizeof(int32_t));
        in_place = ggml_set_rows(ctx.get(), states, ggml_reshape_2d(ctx.get(), next, states->ne[0], 1), row);
    }
    ggml_build_forward_expand(gf, in_place);
}

void llama_tree_kept::build_state(int il) {
    const layer & l = layers[il];
    ggml_tensor * rows = mem.s_l[il];
    ggml_tensor * states = ggml_reshape_4d(ctx.get(), rows, l.v->ne[0], l.v->ne[0], l.v->ne[1], rows->ne[1]);
    build_store(rows,
            ggml_gated_delta_net_tree_persist_inplace(ctx.get(), l.k, l.v, l.g, l.beta, states, inp_path, inp_rows),
            ggml_gated_delta_net_tree_persist        (ctx.get(), l.k, l.v, l.g, l.beta, states, inp_path, inp_rows));
}

void llama_tree_kept::build_conv_state(int il) {
    ggml_tensor * states = mem.r_l[il];
    build_store(states,
            ggml_ssm_conv_tree_persist_inplace(ctx.get(), layers[il].conv, states, inp_path, inp_rows),
            ggml_ssm_conv_tree_persist        (ctx.get(), layers[il].conv, states, inp_path, inp_rows));
}

bool llama_tree_kept::prepare() {
    if (gf) {
        return true;
    }
    const size_t n_graph = 16*layers.size() + 64;
    ctx.reset(ggml_init({ n_graph*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_graph, false), nullptr, true }));

    inp_path = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, n_nodes_max);
    inp_rows = ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, 2);
    ggml_set_input(inp_path);
    ggml_set_input(inp_rows);

    gf = ggml_new_graph_custom(ctx.get(), n_graph, false);
    for (size_t il = 0; il < layers.size(); ++il) {
        if (layers[il].k) {
            build_state((int) il);
            build_conv_state((int) il);
        }
    }
    ggml_backend_sched_reset(sched.get());
    if (!ggml_backend_sched_alloc_graph(sched.get(), gf)) {
        gf = nullptr;
        return false;
    }
    return true;
}

void llama_tree_kept::commit(int32_t src, int32_t dst, const std::vector<int32_t> & path) {
    std::vector<int32_t> nodes(path);
    nodes.resize(n_nodes_max, -1);
    const int32_t rows[2] = { src, dst };

    ggml_backend_tensor_set(inp_path, nodes.data(), 0, ggml_nbytes(inp_path));
    ggml_backend_tensor_set(inp_rows, rows,         0, ggml_nbytes(inp_rows));

    // on the context's own backends: what it computes or reads next comes after this
    const ggml_status status = ggml_backend_sched_graph_compute_async(sched.get(), gf);
    if (status != GGML_STATUS_SUCCESS) {
        throw std::runtime_error(format("computing the recurrent state failed with %d", status));
    }
}
