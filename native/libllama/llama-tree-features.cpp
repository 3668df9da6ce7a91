// See llama-tree-features.h.

#include "llama-tree-features.h"

#include "llama-batch.h"
#include "llama-context.h"
#include "llama-graph.h"
#include "llama-guarded.h"
#include "llama-impl.h"
#include "llama-model.h"
#include "llama-tree.h"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>

//
// the store
//

static bool is_worker(ggml_backend_dev_t device) {
    return device != nullptr && std::string("RPC") == ggml_backend_reg_name(ggml_backend_dev_backend_reg(device));
}

// Where a layer's inputs are to be kept: with the drafter; or, where they are computed on an RPC worker that the drafter's graph
// can use, there.
static ggml_backend_buffer_type_t place_of(const llama_model & target, const llama_model & drafter, int32_t il) {
    const ggml_backend_dev_t made_on = il > 0 ? target.dev_layer(il - 1) : nullptr;
    const auto & usable = drafter.devices;
    if (is_worker(made_on) && std::any_of(usable.begin(), usable.end(), [&](const llama_device & d) { return d.dev == made_on; })) {
        return ggml_backend_dev_buffer_type(made_on);
    }
    const ggml_backend_dev_t device = drafter.dev_layer(0);
    return device ? ggml_backend_dev_buffer_type(device) : ggml_backend_cpu_buffer_type();
}

llama_feature_store::llama_feature_store(
        const llama_model & target, const llama_context & drafter, const std::vector<int32_t> & layers, int32_t n_rows) :
        n_rows(n_rows), layers(layers), kept(layers.size()) {
    std::map<ggml_backend_buffer_type_t, std::vector<size_t>> places;
    for (size_t k = 0; k < layers.size(); ++k) {
        places[place_of(target, drafter.get_model(), layers[k])].push_back(k);
    }
    for (const auto & [buft, of_buft] : places) {
        allocate(buft, of_buft, target.hparams.n_embd);
    }
    views.reset(ggml_init({ ggml_tensor_overhead(), nullptr, true }));
}

void llama_feature_store::allocate(ggml_backend_buffer_type_t buft, const std::vector<size_t> & places, int64_t n_embd) {
    ggml_context_ptr meta(ggml_init({ places.size()*ggml_tensor_overhead(), nullptr, true }));
    for (const size_t k : places) {
        kept[k] = ggml_new_tensor_2d(meta.get(), GGML_TYPE_F32, n_embd, n_rows);
    }
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors_from_buft(meta.get(), buft));
    if (!buffer) {
        throw std::runtime_error(format("no memory to keep the features of %d positions", n_rows));
    }
    if (is_worker(ggml_backend_buft_get_device(buft))) {
        ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS); // the scheduler picks rows where they are
    }
    ggml_backend_buffer_clear(buffer.get(), 0);
    buffers.emplace_back(std::move(meta), std::move(buffer));
}

bool llama_feature_store::holds(int32_t il) const {
    return std::find(layers.begin(), layers.end(), il) != layers.end();
}

bool llama_feature_store::take(int32_t il, ggml_tensor * input, ggml_backend_t backend, int64_t token_offset, int64_t n_tokens) {
    const auto layer = std::find(layers.begin(), layers.end(), il);
    if (layer == layers.end() || !has_room(token_offset + n_tokens)) {
        return false;
    }
    ggml_reset(views.get());
    ggml_tensor * whole = kept[layer - layers.begin()];
    ggml_tensor * place = ggml_view_2d(views.get(), whole, whole->ne[0], n_tokens, whole->nb[1], (next + token_offset)*whole->nb[1]);
    ggml_backend_view_init(place);

    const ggml_backend_dev_t device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(whole->buffer));
    if (ggml_backend_get_device(backend) == device) {
        ggml_backend_tensor_copy_async(backend, backend, input, place);
    } else {
        ggml_backend_synchronize(backend);
        ggml_backend_tensor_copy(input, place);
    }
    return true;
}

void llama_feature_store::set_input(ggml_tensor * dst) const {
    GGML_ASSERT(dst->ne[0] <= (int64_t) rows.size());
    ggml_backend_tensor_set(dst, rows.data(), 0, ggml_nbytes(dst));
}

//
// the stores of a target
//

llama_feature_store * llama_feature_stores::of(const llama_context & drafter) const {
    const auto store = stores.find(&drafter);
    return store == stores.end() ? nullptr : store->second.get();
}

llama_feature_store * llama_feature_stores::put(const llama_context & drafter, std::unique_ptr<llama_feature_store> store) {
    if (store == nullptr) {
        stores.erase(&drafter);
        return nullptr;
    }
    return (stores[&drafter] = std::move(store)).get();
}

bool llama_feature_stores::take(int32_t il, ggml_tensor * input, ggml_backend_t backend, int64_t token_offset, int64_t n_tokens) {
    int32_t n_taken = 0;
    for (auto & [_, store] : stores) {
        n_taken += (int32_t) store->take(il, input, backend, token_offset, n_tokens);
    }
    const auto wanted = n_wanted.find(il); // also by those whose store it did not go to, and by who asked upstream's function
    return n_taken > 0 && wanted != n_wanted.end() && n_taken >= wanted->second;
}

//
// the drafter's graph
//

namespace {
class input_feature_rows : public llm_graph_input_i {
public:
    explicit input_feature_rows(const llama_feature_store & store) : store(store) {}

    void set_input(const llama_ubatch *) override { store.set_input(rows); }

    bool can_reuse(const llm_graph_params & params) override { return rows->ne[0] == params.ubatch.n_tokens; }

    ggml_tensor * rows = nullptr; // I32 [n_tokens]

private:
    const llama_feature_store & store;
};
}

ggml_tensor * llama_feature_store::build(llm_graph_context & graph) {
    auto input = std::make_unique<input_feature_rows>(*this);
    input->rows = ggml_new_tensor_1d(graph.ctx0, GGML_TYPE_I32, graph.n_tokens);
    ggml_set_input(input->rows);

    // from the back, so that every device's part goes to the drafter's, and none to another part's
    ggml_tensor * fused = nullptr;
    for (size_t last = kept.size(); last > 0; ) {
        size_t first = last - 1;
        while (first > 0 && kept[first - 1]->buffer == kept[last - 1]->buffer) {
            --first;
        }
        ggml_tensor * part = build_part(graph, input->rows, first, last);
        fused = fused ? ggml_concat(graph.ctx0, part, fused, 0) : part;
        last = first;
    }
    graph.res->add_input(std::move(input));
    return fused;
}

// Of the layers first to last - 1, whose rows are on one device.
ggml_tensor * llama_feature_store::build_part(llm_graph_context & graph, ggml_tensor * rows, size_t first, size_t last) const {
    ggml_tensor * part = nullptr;
    for (size_t k = first; k < last; ++k) {
        ggml_tensor * layer = ggml_get_rows(graph.ctx0, kept[k], rows);
        part = part ? ggml_concat(graph.ctx0, part, layer, 0) : layer;
    }
    return part;
}

ggml_tensor * llama_tree_build_features(llm_graph_context & graph, const llama_context * target) {
    llama_feature_store * store = target ? graph.cparams.features : nullptr;
    return store ? store->build(graph) : nullptr;
}

//
// C API
//

int32_t llama_tree_keep_features(
        llama_context * target, llama_context * drafter, const int32_t * layers, int32_t n_layers, int32_t n_rows) {
    try {
        drafter->set_feature_store(target->features.put(*drafter, n_layers > 0 ?
            std::make_unique<llama_feature_store>(target->get_model(), *drafter, std::vector<int32_t>(layers, layers + n_layers), n_rows) : nullptr));
    } catch (const std::exception & e) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, e.what());
        return -1;
    }
    return 0;
}

void llama_tree_place_features(llama_context * target, const llama_context * drafter, int32_t row) {
    if (llama_feature_store * store = target->features.of(*drafter)) {
        store->set_next(row);
    }
}

int32_t llama_tree_want_layer_inp(llama_context * target, int32_t il, bool wanted) {
    try {
        const int32_t n = target->features.want(il, wanted ? 1 : -1);
        if (n == (wanted ? 1 : 0)) { // the first or the last
            target->set_embeddings_layer_inp((uint32_t) il, wanted);
        }
    } catch (const std::exception & e) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, e.what());
        return -1;
    }
    return 0;
}

// Rows of the batch are of one float: the graph does not read them.
static llama_batch_ext feature_batch(llama_context * ctx, const llama_pos * pos, const llama_seq_id * seq_ids, int32_t n) {
    const auto & model = ctx->get_model();
    llama_batch_ext batch(n, 1, 1, (llama_seq_id) ctx->n_seq_max(), ctx->get_memory(), model.vocab.n_tokens(), model.hparams.n_pos_per_embd());
    batch.n_embd = 1;
    batch.embd.assign(n, 0.0f);
    for (int32_t i = 0; i < n; ++i) {
        llama_batch_ext::token t;
        t.has_embd = true;
        t.embd_off = i;
        t.pos      = { pos[i], pos[i], pos[i], 0 }; // M-RoPE: the sections of a text, as llama_batch_ext makes them of tokens
        t.seq_ids.insert(seq_ids ? seq_ids[i] : 0);
        batch.tokens.push_back(t);
    }
    return batch;
}

int32_t llama_tree_inject(
        llama_context * drafter, const int32_t * rows, const llama_pos * pos, const llama_seq_id * seq_ids, int32_t n) {
    llama_context * target = drafter->get_cparams().ctx_other;
    llama_feature_store * store = target ? target->features.of(*drafter) : nullptr;
    if (store == nullptr || n < 1 || n > (int32_t) drafter->n_ubatch()) {
        return -1;
    }
    try {
        store->set_rows(rows, n);
        return llama_guarded_decode(drafter, feature_batch(drafter, pos, seq_ids, n));
    } catch (const std::exception & e) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, e.what());
        return -2;
    }
}
