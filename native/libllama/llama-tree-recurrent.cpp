// Trees in the recurrent and hybrid memories: the pieces of a forest's graph, and the verbs. What is kept of the nodes, and
// how a commit computes a state of it, is in llama-tree-kept.h.

#include "llama-tree-impl.h"
#include "llama-tree-kept.h"

#include "ggml-tree-ops.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-memory-hybrid.h"
#include "llama-model.h"
#include "models/models.h"

#include <algorithm>

//
// verify: pieces of the target's graph
//

// Copy `src` to the first rows of `dst`, whose last dimension counts nodes.
static void keep(ggml_context * ctx, ggml_cgraph * gf, ggml_tensor * src, ggml_tensor * dst, int dim, int64_t n) {
    int64_t ne[GGML_MAX_DIMS];
    std::copy_n(dst->ne, GGML_MAX_DIMS, ne);
    ne[dim] = n;
    ggml_tensor * rows = ggml_view_4d(ctx, dst, ne[0], ne[1], ne[2], ne[3], dst->nb[1], dst->nb[2], dst->nb[3], 0);
    ggml_build_forward_expand(gf, ggml_cpy(ctx, src, rows));
}

// qkv_mixed: [channels, n_nodes, 1]. Returns what build_conv() takes.
ggml_tensor * llm_build_delta_net_base::keep_tree_conv_input(llm_graph_input_rs * inp, ggml_tensor * qkv_mixed, int il) {
    keep(ctx0, gf, qkv_mixed, inp->tree_kept->at(il).conv, 1, qkv_mixed->ne[1]);
    return qkv_mixed;
}

ggml_tensor * llm_build_delta_net_base::build_conv(llm_graph_input_rs * inp, ggml_tensor * conv_input, ggml_tensor * conv_kernel, int il) {
    res->layer_outputs.n_tree_layers++;
    return inp->parents ?
        ggml_ssm_conv_tree(ctx0, conv_input, inp->mctx->get_r_l(il), conv_kernel, inp->parents) :
        ggml_ssm_conv     (ctx0, conv_input, conv_kernel);
}

// s: [S, S, H, 1], for its shape: the op reads the states of all sequences where they are.
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

    ggml_tensor * rows   = inp->mctx->get_s_l(il);
    ggml_tensor * states = ggml_reshape_4d(ctx0, rows, s->ne[0], s->ne[1], s->ne[2], rows->ne[1]);
    ggml_tensor * output = ggml_gated_delta_net_tree(ctx0, q, k, v, g, b, states, inp->parents);
    cb(output, "attn_output", il);

    return ggml_reshape_4d(ctx0, output, v->ne[0], v->ne[1], n_nodes, 1);
}

//
// verbs of the recurrent memory. A forest's decode does not touch its cells: states are read where they are.
//

int32_t llama_memory_recurrent::tree_layers() const {
    const auto has_state = [](const ggml_tensor * r) { return r != nullptr; };
    return n_rs_seq == 0 ? (int32_t) std::count_if(r_l.begin(), r_l.end(), has_state) : -1;
}

// No tree is pending.
size_t llama_memory_recurrent::tree_reserve(const llama_context & lctx, int32_t n_nodes) {
    if (tree_kept_all.empty() || tree_kept_all[0]->n_nodes() < n_nodes) {
        tree_kept.reset();
        tree_kept_all.clear();
        tree_kept_all.push_back(std::make_shared<llama_tree_kept>(*this, lctx, n_nodes));
    }
    return tree_kept_all[0]->n_bytes();
}

// The inputs that a pending tree needs for its commit stay: another forest's go elsewhere.
bool llama_memory_recurrent::forest_begin(const llama_context & lctx, const llama_forest_ptr & new_forest) {
    if (n_rs_seq != 0) {
        return false;
    }
    const auto is_free = [&](const std::shared_ptr<llama_tree_kept> & kept) {
        return std::none_of(tree_kept_of.begin(), tree_kept_of.end(), [&](const auto & used) { return used.second == kept; });
    };
    const int32_t n_nodes = new_forest->n_nodes();
    auto fits = std::find_if(tree_kept_all.begin(), tree_kept_all.end(), [&](const std::shared_ptr<llama_tree_kept> & kept) {
        return kept->n_nodes() >= n_nodes && is_free(kept);
    });
    if (fits == tree_kept_all.end()) {
        tree_kept.reset();
        tree_kept_all.erase(std::remove_if(tree_kept_all.begin(), tree_kept_all.end(), is_free), tree_kept_all.end()); // too small
        tree_kept_all.push_back(std::make_shared<llama_tree_kept>(*this, lctx, n_nodes));
        fits = tree_kept_all.end() - 1;
        LLAMA_LOG_INFO("%s: %.2f MiB more for the inputs of %d nodes: llama_tree_reserve makes room once%s\n", "llama_tree_decode",
                (*fits)->n_bytes()/1024.0/1024.0, n_nodes, pending.empty() ? "" : " (other trees are pending)");
    }
    tree_kept = *fits;
    llama_forest_enter(*this, new_forest);
    for (const auto & tree : forest->trees) {
        tree_kept_of[tree->seq_id] = tree_kept;
    }
    return true;
}

void llama_memory_recurrent::forest_end(bool decoded) {
    if (!forest) {
        return;
    }
    for (const auto & tree : forest->trees) {
        if (!decoded) {
            tree_kept_of.erase(tree->seq_id);
        }
    }
    llama_forest_leave(*this, decoded);
}

// A cell that the sequence has for itself, or else an empty one: there are as many cells as sequences.
int32_t llama_memory_recurrent::tree_own_cell(llama_seq_id seq_id) const {
    const int32_t tail = cells[seq_id].tail;
    if (tail >= 0 && cells[tail].seq_id.size() == 1) {
        return tail;
    }
    const auto empty = std::find_if(cells.begin(), cells.end(), [](const mem_cell & cell) { return cell.is_empty(); });
    GGML_ASSERT(empty != cells.end());
    return (int32_t) (empty - cells.begin());
}

bool llama_memory_recurrent::tree_commit(llama_seq_id seq_id, const std::vector<int32_t> & path) {
    const auto tree = pending.at(seq_id);
    const auto kept = tree_kept_of.at(seq_id);
    if (!kept->prepare()) {
        return false;
    }
    const int32_t before = cells[seq_id].tail;
    const int32_t after  = tree_own_cell(seq_id);
    const int32_t src    = before < 0 ? -1 : cells[before].src >= 0 ? cells[before].src : before;
    kept->commit(src, after, path);

    if (before != after) {
        cells[after].seq_id.insert(seq_id);
        if (before >= 0) {
            cells[before].seq_id.erase(seq_id); // others share it
        }
        cells[seq_id].tail = after;
        used++;
    }
    cells[after].src = after;
    cells[after].pos = tree->n_past + (llama_pos) path.size() - 1;
    tree_kept_of.erase(seq_id);
    pending.erase(seq_id);
    return true;
}

// No state was written: it is enough to forget.
void llama_memory_recurrent::tree_discard(llama_seq_id seq_id) {
    tree_kept_of.erase(seq_id);
    pending.erase(seq_id);
}

std::shared_ptr<llama_tree_kept> llama_memory_recurrent_context::get_tree_kept() const {
    return mem->forest && !is_full ? mem->tree_kept : nullptr;
}

// A root's entry says which state it starts from: none of them (zeros) where its sequence is new.
void llama_memory_recurrent_context::set_input_tree_parents(ggml_tensor * dst) const {
    std::vector<int32_t> parents = mem->forest->parents;
    for (const auto & tree : mem->forest->trees) {
        const int32_t tail = mem->cells[tree->seq_id].tail;
        const int32_t src  = tail < 0 ? (int32_t) mem->size : mem->cells[tail].src >= 0 ? mem->cells[tail].src : tail;
        parents[tree->nodes[0]] = -1 - src;
    }
    ggml_backend_tensor_set(dst, parents.data(), 0, ggml_nbytes(dst));
}

//
// verbs of the hybrid memory
//

int32_t llama_memory_hybrid::tree_layers() const {
    return mem_attn->tree_layers() == 0 ? mem_recr->tree_layers() : -1;
}

size_t llama_memory_hybrid::tree_reserve(const llama_context & lctx, int32_t n_nodes) {
    return mem_recr->tree_reserve(lctx, n_nodes) + mem_attn->tree_reserve(lctx, n_nodes);
}

bool llama_memory_hybrid::forest_begin(const llama_context & lctx, const llama_forest_ptr & new_forest) {
    llama_forest_enter(*this, new_forest);
    return mem_recr->forest_begin(lctx, new_forest) && mem_attn->forest_begin(lctx, new_forest);
}

void llama_memory_hybrid::forest_end(bool decoded) {
    mem_recr->forest_end(decoded);
    mem_attn->forest_end(decoded);
    llama_forest_leave(*this, decoded);
}

// The recurrent layers first: they may fail, and then nothing has changed.
bool llama_memory_hybrid::tree_commit(llama_seq_id seq_id, const std::vector<int32_t> & path) {
    if (!mem_recr->tree_commit(seq_id, path)) {
        return false;
    }
    mem_attn->tree_commit(seq_id, path);
    pending.erase(seq_id);
    return true;
}

void llama_memory_hybrid::tree_discard(llama_seq_id seq_id) {
    mem_recr->tree_discard(seq_id);
    mem_attn->tree_discard(seq_id);
    pending.erase(seq_id);
}
