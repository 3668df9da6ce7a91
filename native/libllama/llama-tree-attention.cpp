// Trees in the attention memories: where a forest's nodes go in a KV cache, what each of them sees, and what a commit or a
// discard leaves of them.

#include "llama-tree-impl.h"
#include "llama-tree-streams.h"

#include "llama-batch.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-kv-cache-iswa.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <numeric>

//
// the KV cache: one for all sequences, or one (a "stream") for each
//

int32_t llama_kv_cache::tree_layers() const {
    return other ? -1 : 0;
}

static bool on_host(const ggml_tensor * t) {
    return t == nullptr || ggml_backend_buffer_is_host(t->buffer);
}

// A device replays a graph as long as it looks at as many cells. Reading some masked ones costs it next to nothing.
size_t llama_kv_cache::tree_reserve(const llama_context &, int32_t) {
    const bool on_device = std::none_of(layers.begin(), layers.end(), [](const kv_layer & layer) { return on_host(layer.k); });
    tree_pad = on_device ? 2048 : 1;
    return 0;
}

bool llama_kv_cache::forest_begin(const llama_context &, const llama_forest_ptr & new_forest) {
    if (other) {
        return false;
    }
    tree_streams.resize(n_stream);
    llama_forest_enter(*this, new_forest);
    for (const auto & tree : forest->trees) {
        tree_cells[tree->seq_id].clear(); // until the nodes have cells
        auto & taken = tree_streams[seq_to_stream[tree->seq_id]].taken;
        taken.reserve(taken.size() + forest->n_nodes()); // the end needs no memory
    }
    return true;
}

void llama_kv_cache::forest_end(bool decoded) {
    if (!forest) {
        return;
    }
    for (const auto & tree : forest->trees) {
        const uint32_t stream = seq_to_stream[tree->seq_id];
        if (decoded) {
            auto & taken = tree_streams[stream].taken;
            taken.insert(taken.end(), tree_cells[tree->seq_id].begin(), tree_cells[tree->seq_id].end());
        } else {
            tree_drop_cells(tree->seq_id);
            tree_cells.erase(tree->seq_id);
        }
    }
    llama_forest_leave(*this, decoded);
}

//
// its cells
//

// Where every sequence has a stream, each tree looks for cells in its own.
llama_kv_cache::slot_info llama_kv_cache::tree_find_slots(const llama_ubatch & ubatch) const {
    slot_info res { LLAMA_MAX_SEQ, 0, {}, {} };
    for (const auto & tree : forest->trees) {
        const slot_info slot = find_slot(llama_tree_pick(ubatch, tree->nodes), false);
        if (slot.empty()) {
            return {};
        }
        res.s0 = std::min(res.s0, slot.s0);
        res.s1 = std::max(res.s1, slot.s1);
        res.strm.push_back(slot.strm[0]);
        res.idxs.push_back(slot.idxs[0]);
    }
    return res;
}

void llama_kv_cache::tree_note_cells(uint32_t stream, const std::vector<uint32_t> & cells) {
    if (tree_streams[stream].taken.empty()) { // else other trees are pending there
        tree_streams[stream].at_end = v_cells[stream].used_max_p1() <= *std::min_element(cells.begin(), cells.end());
    }
}

// Note the cells. Returns false if they are still to be filled: all nodes are in one stream, as any batch's tokens.
bool llama_kv_cache::tree_apply_ubatch(const slot_info & sinfo, const llama_ubatch & ubatch) {
    for (size_t t = 0; t < forest->trees.size(); ++t) {
        const llama_tree & tree = *forest->trees[t];
        auto & cells = tree_cells[tree.seq_id];
        if (n_stream > 1) {
            const uint32_t stream = sinfo.strm[t];
            cells = sinfo.idxs[t];
            tree_note_cells(stream, cells);
            apply_ubatch({ stream, stream, { sinfo.strm[t] }, { cells } }, llama_tree_pick(ubatch, tree.nodes));
            continue;
        }
        tree_note_cells(0, sinfo.idxs[0]);
        cells.clear();
        for (const int32_t node : tree.nodes) {
            cells.push_back(sinfo.idxs[0][node]);
        }
    }
    return n_stream > 1;
}

// The position that the sequence goes on with: not after the nodes of a pending tree.
llama_pos llama_kv_cache::tree_next_pos(const llama_kv_cells & cells, llama_seq_id seq_id) const {
    const auto tree = pending.find(seq_id);
    return tree == pending.end() ? cells.seq_pos_max(seq_id) + 1 : tree->second->n_past;
}

//
// what a graph is told of them
//

// Where K or V of every node is written, counted through all streams. Transposed: where each of its values is.
void llama_kv_cache::tree_input_idxs(ggml_tensor * dst, bool transposed) const {
    GGML_ASSERT(ggml_backend_buffer_is_host(dst->buffer));
    const int64_t size     = get_size();
    const int64_t n_values = hparams.n_embd_v_gqa_max();
    int64_t * data = (int64_t *) dst->data;

    for (const auto & tree : forest->trees) {
        const int64_t stream = seq_to_stream[tree->seq_id];
        const auto & cells = tree_cells.at(tree->seq_id);
        for (int32_t k = 0; k < tree->n_nodes(); ++k) {
            const int64_t node = tree->nodes[k];
            if (!transposed) {
                data[node] = stream*size + cells[k];
                continue;
            }
            for (int64_t j = 0; j < n_values; ++j) {
                data[node*n_values + j] = (stream*n_values + j)*size + cells[k];
            }
        }
    }
}

template<typename T>
static void hide_strangers(const llama_tree & tree, const std::vector<uint32_t> & cells, const std::vector<int32_t> & rows,
        T * mask, int64_t n_kv, T drop) {
    for (int32_t i = 0; i < tree.n_nodes(); ++i) {
        T * row = mask + n_kv*rows[tree.nodes[i]];
        for (int32_t j = 0; j < tree.n_nodes(); ++j) {
            if (!tree.sees(i, j)) {
                row[cells[j]] = drop;
            }
        }
    }
}

// The causal mask lets every node see all nodes of its sequence at its own or a smaller depth: hide those that are no
// ancestors.
void llama_kv_cache::tree_input_mask(ggml_tensor * dst, const llama_ubatch & ubatch, bool causal_attn) const {
    llama_ubatch tokens = ubatch; // as ordinary ones
    std::vector<int32_t> rows(ubatch.n_tokens);
    std::iota(rows.begin(), rows.end(), 0);
    if (n_stream > 1) {
        const llama_tree_rows spread(ubatch);
        tokens = llama_tree_pick(ubatch, spread.nodes);
        rows   = spread.place;
    }
    tokens.tree = false;
    set_input_kq_mask(dst, &tokens, causal_attn);

    for (const auto & tree : forest->trees) {
        const auto & cells = tree_cells.at(tree->seq_id);
        if (dst->type == GGML_TYPE_F16) {
            hide_strangers(*tree, cells, rows, (ggml_fp16_t *) dst->data, dst->ne[0], ggml_fp32_to_fp16(-INFINITY));
        } else {
            hide_strangers(*tree, cells, rows, (float *) dst->data, dst->ne[0], -INFINITY);
        }
    }
}

//
// commit and discard
//

bool llama_kv_cache::tree_commit(llama_seq_id seq_id, const std::vector<int32_t> & path) {
    const llama_tree_ptr tree = pending.at(seq_id);
    const uint32_t stream = seq_to_stream[seq_id];
    const auto & cells = tree_cells.at(seq_id);
    auto & kept = tree_streams[stream].kept;

    std::vector<bool> is_kept(tree->n_nodes());
    for (const int32_t node : path) {
        is_kept[tree->place_of(node)] = true;
    }
    for (int32_t k = 0; k < tree->n_nodes(); ++k) {
        if (is_kept[k]) {
            kept.push_back(cells[k]);
        } else {
            v_cells[stream].rm(cells[k]);
        }
    }
    tree_cells.erase(seq_id);
    pending.erase(seq_id);
    tree_close_stream(stream);
    return true;
}

void llama_kv_cache::tree_discard(llama_seq_id seq_id) {
    if (pending.count(seq_id) == 0) { // a commit failed after this cache's part of it
        return;
    }
    tree_drop_cells(seq_id);
    tree_cells.erase(seq_id);
    pending.erase(seq_id);
    tree_close_stream(seq_to_stream[seq_id]);
}

// After a failed decode some or all of the cells do not hold the tree (any more): only positions past n_past are its own.
void llama_kv_cache::tree_drop_cells(llama_seq_id seq_id) {
    auto & cells = v_cells[seq_to_stream[seq_id]];
    const auto tree   = pending.find(seq_id);
    const auto placed = tree_cells.find(seq_id);
    if (tree == pending.end() || placed == tree_cells.end()) {
        return;
    }
    for (const uint32_t c : placed->second) {
        if (!cells.is_empty(c) && cells.seq_has(c, seq_id) && cells.pos_get(c) >= tree->second->n_past) {
            cells.rm(c);
        }
    }
}

// Once no tree is pending in a stream any more, what was kept of them moves to the first of the cells that they had, if the
// cache is in host memory: no hole is left, and each sequence's cells stay in the order of its positions. (Until then
// cells after them are used, for the same reason.) Elsewhere it stays where it is, and later batches fill the holes: only the
// batch-invariant mode needs that order, in which attention is added up.
void llama_kv_cache::tree_close_stream(uint32_t stream) {
    const bool is_open = std::any_of(pending.begin(), pending.end(), [&](const auto & tree) {
        return seq_to_stream[tree.first] == stream;
    });
    auto & [taken, kept, at_end] = tree_streams[stream];
    if (is_open || taken.empty()) {
        return;
    }
    for (auto * list : { &taken, &kept }) {
        std::sort(list->begin(), list->end());
        list->erase(std::unique(list->begin(), list->end()), list->end());
    }
    if (tree_can_compact(stream)) {
        tree_compact(stream);
    } else {
        const auto hole = std::find_if(taken.begin(), taken.end(), [&](uint32_t c) { return v_cells[stream].is_empty(c); });
        v_heads[stream] = hole == taken.end() ? v_heads[stream] : std::min(v_heads[stream], *hole);
    }
    taken.clear();
    kept.clear();
}

bool llama_kv_cache::tree_can_compact(uint32_t stream) const {
    static const char * invariant = getenv("GGML_CUDA_BATCH_INVARIANT");
    const bool on_device = invariant && atoi(invariant) == 1 && !v_trans;
    return !v_cells[stream].get_has_shift() && std::all_of(layers.begin(), layers.end(), [on_device](const kv_layer & layer) {
        return on_device || (on_host(layer.k) && on_host(layer.v));
    });
}

// The k-th of the cells to be moved, in ascending order, goes to the k-th of those that are one or are empty: never to one
// behind it. Where nothing was behind the trees' cells, what other sequences have decoded since moves up, too.
void llama_kv_cache::tree_compact(uint32_t stream) {
    auto & cells = v_cells[stream];
    auto & [taken, kept, at_end] = tree_streams[stream];
    if (at_end) {
        const uint32_t end = std::max(cells.used_max_p1(), taken.back() + 1);
        for (auto * list : { &taken, &kept }) {
            const uint32_t first = taken.front();
            list->resize(end - first);
            std::iota(list->begin(), list->end(), first);
        }
    }
    std::vector<uint32_t> sources, targets;
    std::copy_if(kept.begin(), kept.end(), std::back_inserter(sources), [&](uint32_t c) { return !cells.is_empty(c); });
    for (size_t i = 0; i < taken.size() && targets.size() < sources.size(); ++i) {
        if (cells.is_empty(taken[i]) || std::binary_search(sources.begin(), sources.end(), taken[i])) {
            targets.push_back(taken[i]);
        }
    }
    const llama_kv_cells moved = cells.cp(sources);
    for (size_t k = 0; k < sources.size(); ++k) {
        cells.rm(sources[k]);
        if (sources[k] != targets[k]) {
            tree_copy_cell(stream, sources[k], targets[k]);
        }
    }
    cells.set(targets, moved);
    v_heads[stream] = targets.empty() ? std::min(v_heads[stream], taken.front()) : targets.back() + 1;
}

// A row of a tensor, as bytes.
static ggml_tensor row_of(ggml_tensor * t, size_t offset, size_t n_bytes) {
    ggml_tensor row = *t;
    row.type     = GGML_TYPE_I8;
    row.view_src = t;
    row.data     = (char *) t->data + offset;
    for (int i = 0; i < GGML_MAX_DIMS; ++i) {
        row.ne[i] = i == 0 ? n_bytes : 1;
        row.nb[i] = i == 0 ? 1 : n_bytes;
    }
    return row;
}

// Copy one cell's K and V in every layer. A transposed V only in host memory.
void llama_kv_cache::tree_copy_cell(uint32_t stream, uint32_t src, uint32_t dst) {
    const auto copy = [&](ggml_tensor * t, size_t row) {
        const size_t at = stream*t->nb[2];
        if (on_host(t)) {
            memcpy((char *) t->data + at + dst*row, (char *) t->data + at + src*row, row);
            return;
        }
        ggml_tensor from = row_of(t, at + src*row, row), to = row_of(t, at + dst*row, row);
        ggml_backend_tensor_copy(&from, &to);
    };
    for (auto & layer : layers) {
        copy(layer.k, layer.k->nb[1]);
        if (!layer.v) {
            continue;
        }
        if (!v_trans) {
            copy(layer.v, layer.v->nb[1]);
            continue;
        }
        // transposed: element j of cell c is at index j*kv_size + c
        const size_t size = ggml_type_size(layer.v->type);
        for (int64_t j = 0; j < layer.v->ne[0]; ++j) {
            char * row = (char *) layer.v->data + stream*layer.v->nb[2] + j*size*get_size();
            memcpy(row + dst*size, row + src*size, size);
        }
    }
}

//
// the sliding-window cache: a full cache and a window cache, each with cells of its own
//

int32_t llama_kv_cache_iswa::tree_layers() const {
    return std::min(kv_base->tree_layers(), kv_swa->tree_layers());
}

size_t llama_kv_cache_iswa::tree_reserve(const llama_context & lctx, int32_t n_nodes) {
    return kv_base->tree_reserve(lctx, n_nodes) + kv_swa->tree_reserve(lctx, n_nodes);
}

bool llama_kv_cache_iswa::forest_begin(const llama_context & lctx, const llama_forest_ptr & new_forest) {
    llama_forest_enter(*this, new_forest);
    return kv_base->forest_begin(lctx, new_forest) && kv_swa->forest_begin(lctx, new_forest);
}

void llama_kv_cache_iswa::forest_end(bool decoded) {
    kv_base->forest_end(decoded);
    kv_swa ->forest_end(decoded);
    llama_forest_leave(*this, decoded);
}

bool llama_kv_cache_iswa::tree_commit(llama_seq_id seq_id, const std::vector<int32_t> & path) {
    kv_base->tree_commit(seq_id, path);
    kv_swa ->tree_commit(seq_id, path);
    pending.erase(seq_id);
    return true;
}

void llama_kv_cache_iswa::tree_discard(llama_seq_id seq_id) {
    kv_base->tree_discard(seq_id);
    kv_swa ->tree_discard(seq_id);
    pending.erase(seq_id);
}
