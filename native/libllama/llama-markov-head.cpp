// See llama-markov-head.h.

#include "llama-markov-head.h"

#include "llama-tree-graphs.h"
#include "llama-tree-impl.h"

#include "ggml-top-logprobs.h"

#include "llama-context.h"
#include "llama-model.h"

#include "ggml-cpp.h"

#include <utility>
#include <vector>

static constexpr size_t n_graph = 32; // tensors of a graph, at most

struct llama_markov_head {
    ggml_tensor * w1       = nullptr; // [rank, n_vocab]
    ggml_tensor * w2       = nullptr; // [rank, n_vocab or rows of a reduced head]
    ggml_tensor * w2_scale = nullptr; // [1] or NULL

    std::vector<int32_t> ids; // of the rows of a reduced head, empty if it has the whole vocabulary

    ggml_backend_sched_ptr sched;

    // of the last graph: in one place, so that a GPU's backend, which knows graphs by it, sees one that changes and not many
    std::vector<uint8_t> arena = std::vector<uint8_t>(n_graph*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_graph, false));
};

llama_markov_head * llama_markov_head_take(llama_model * model) {
    if (!model->dspark_markov_w1) {
        return nullptr;
    }
    auto * head = new llama_markov_head;
    head->w1       = std::exchange(model->dspark_markov_w1, nullptr); // upstream's graph builds a chain where it finds this
    head->w2       = model->dspark_markov_w2;
    head->w2_scale = model->dspark_markov_w2_s;
    if (model->d2t) {
        std::vector<int64_t> ids(model->d2t->ne[0]);
        ggml_backend_tensor_get(model->d2t, ids.data(), 0, ggml_nbytes(model->d2t));
        head->ids.assign(ids.begin(), ids.end());
    }
    return head;
}

void llama_markov_head_free(llama_markov_head * head) {
    delete head;
}

static ggml_tensor * new_input(ggml_context * ctx0, int64_t n) {
    ggml_tensor * res = ggml_new_tensor_1d(ctx0, GGML_TYPE_I32, n);
    ggml_set_input(res);
    return res;
}

// A row of `logits` where it is: a leaf, not a view, or the graph that computed it would be part of this one.
static ggml_tensor * row_of(ggml_context * ctx0, const ggml_tensor * logits, int32_t row) {
    ggml_tensor * res = ggml_new_tensor_1d(ctx0, GGML_TYPE_F32, logits->ne[0]);
    ggml_backend_tensor_alloc(logits->buffer, res, (char *) logits->data + row*logits->nb[1]);
    return res;
}

int32_t llama_markov_head_children(
        llama_markov_head * head, llama_context * ctx, int32_t row, const llama_token * parents, int32_t n_parents, int32_t k,
        float * out) {
    ctx->synchronize();
    const ggml_tensor * base = llama_tree_compute::last_logits(ctx);
    if (base == nullptr || row >= base->ne[1]) {
        return -1;
    }
    ggml_context_ptr graph(ggml_init({ head->arena.size(), head->arena.data(), true }));
    ggml_context * ctx0 = graph.get();

    ggml_tensor * inp_parents = new_input(ctx0, n_parents);
    ggml_tensor * inp_ids     = nullptr;

    ggml_tensor * term = ggml_mul_mat(ctx0, head->w2, ggml_get_rows(ctx0, head->w1, inp_parents)); // [rows, n_parents]
    if (head->w2_scale) {
        term = ggml_mul(ctx0, term, head->w2_scale);
    }
    ggml_tensor * without = row_of(ctx0, base, row); // the head
    if (!head->ids.empty()) { // upstream has spread the rows of a reduced head over the vocabulary
        inp_ids = new_input(ctx0, (int64_t) head->ids.size());
        without = ggml_reshape_1d(ctx0, ggml_get_rows(ctx0, ggml_reshape_2d(ctx0, without, 1, without->ne[0]), inp_ids), inp_ids->ne[0]);
    }
    ggml_tensor * best = ggml_top_logprobs(ctx0, ggml_add(ctx0, term, without), k); // [2*k, n_parents]
    ggml_set_output(best);

    ggml_cgraph * gf = ggml_new_graph_custom(ctx0, n_graph, false);
    ggml_build_forward_expand(gf, best);

    if (!head->sched) {
        head->sched.reset(llama_tree_new_sched(*ctx, n_graph));
    }
    ggml_backend_sched_reset(head->sched.get());
    if (!ggml_backend_sched_alloc_graph(head->sched.get(), gf)) {
        return -2;
    }
    ggml_backend_tensor_set(inp_parents, parents, 0, ggml_nbytes(inp_parents));
    if (inp_ids) {
        ggml_backend_tensor_set(inp_ids, head->ids.data(), 0, ggml_nbytes(inp_ids));
    }
    if (ggml_backend_sched_graph_compute(head->sched.get(), gf) != GGML_STATUS_SUCCESS) {
        return -3;
    }
    ggml_backend_tensor_get(best, out, 0, ggml_nbytes(best));

    for (int32_t i = 0; i < n_parents && !head->ids.empty(); ++i) {
        float * tokens = out + (size_t) i*2*k + k;
        for (int32_t j = 0; j < k; ++j) {
            tokens[j] = tokens[j] < 0.0f ? tokens[j] : (float) head->ids[(size_t) tokens[j]];
        }
    }
    return 0;
}
