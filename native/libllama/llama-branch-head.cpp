// See llama-branch-head.h.

#include "llama-branch-head.h"

#include "llama-drafter.h"
#include "llama-tree-graphs.h"
#include "llama-tree-impl.h"

#include "ggml-top-logprobs.h"

#include "llama-context.h"
#include "llama-model.h"

#include "ggml-cpp.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

static constexpr size_t n_graph = 64; // tensors of a graph, at most

enum class head_kind { vanilla, gated, rnn, domino };

struct llama_branch_head {
    const llama_model * model;
    const llama_model * target;
    head_kind           kind;

    ggml_tensor * w1       = nullptr; // [rank, n_vocab]
    ggml_tensor * w2       = nullptr; // [rank, n_vocab or rows of a reduced head]
    ggml_tensor * w2_scale = nullptr; // [1] or NULL

    int32_t first_depth = 1; // at which there is a term

    std::vector<int32_t> ids; // of the rows of a reduced head, empty if it has the whole vocabulary

    // of the last call's parents, where the head has states: [n_parents][n_state]
    size_t             n_state = 0;
    std::vector<float> states;

    ggml_backend_sched_ptr sched;

    // of the last graph: in one place, so that a GPU's backend, which knows graphs by it, sees one that changes and not many
    std::vector<uint8_t> arena = std::vector<uint8_t>(n_graph*ggml_tensor_overhead() + ggml_graph_overhead_custom(n_graph, false));

    ggml_tensor * part(const char * name) const { return model->draft_head.at(name); }
};

static head_kind kind_of(const llama_model & model) {
    const auto has = [&](const char * name) { return model.draft_head.count(name) > 0; };
    return has("gru_input.weight") ? head_kind::domino : has("joint.weight") ? head_kind::rnn : has("gate.weight") ? head_kind::gated : head_kind::vanilla;
}

static int32_t number(const llama_model & model, const char * key) {
    const auto it = model.gguf_kv.find(key);
    return it == model.gguf_kv.end() ? 0 : std::atoi(it->second.c_str());
}

llama_branch_head * llama_branch_head_take(llama_model * model, const llama_model * target) {
    if (!model->dspark_markov_w1 && model->draft_head.empty()) {
        return nullptr;
    }
    auto * head = new llama_branch_head;
    head->model  = model;
    head->target = target;
    head->kind   = kind_of(*model);
    head->w1     = std::exchange(model->dspark_markov_w1, nullptr); // upstream's graph builds a chain where it finds this
    head->w2     = model->dspark_markov_w2;
    head->w2_scale = model->dspark_markov_w2_s;
    if (head->kind == head_kind::rnn) {
        head->n_state = head->w1->ne[0];
    }
    if (head->kind == head_kind::domino) {
        head->n_state     = head->part("gru_state.weight")->ne[0];
        head->first_depth = 1 + number(*model, "dflash.domino_prefix");
    }
    if (model->d2t) {
        std::vector<int64_t> ids(model->d2t->ne[0]);
        ggml_backend_tensor_get(model->d2t, ids.data(), 0, ggml_nbytes(model->d2t));
        head->ids.assign(ids.begin(), ids.end());
    }
    return head;
}

void llama_branch_head_free(llama_branch_head * head) {
    delete head;
}

//
// the graph of one depth
//

namespace {
struct branch_graph {
    ggml_context            * ctx0;
    const llama_branch_head & head;
    int64_t                   n_parents;

    ggml_tensor * tokens = nullptr; // I32 [n_parents]
    ggml_tensor * ids    = nullptr; // I32 [rows of a reduced head]
    ggml_tensor * states = nullptr; // F32 [n_state*n_parents], the parents' states,
    ggml_tensor * before = nullptr; // as [n_state, n_parents]
    ggml_tensor * hidden = nullptr; // F32 [n_embd]
    ggml_tensor * after  = nullptr; // F32 [n_state, n_parents], their children's
    ggml_tensor * best   = nullptr; // F32 [2*k, n_parents], or one row for all

    ggml_tensor * input(ggml_type type, int64_t n) const {
        ggml_tensor * res = ggml_new_tensor_1d(ctx0, type, n);
        ggml_set_input(res);
        return res;
    }

    ggml_tensor * linear(const char * weight, ggml_tensor * x) const { return ggml_mul_mat(ctx0, head.part(weight), x); }

    ggml_tensor * hidden_of_all() const { return ggml_repeat_4d(ctx0, hidden, hidden->ne[0], n_parents, 1, 1); }

    // the i-th of n equal parts of every column
    ggml_tensor * part_of(ggml_tensor * x, int64_t i, int64_t n) const {
        const int64_t size = x->ne[0]/n;
        return ggml_cont(ctx0, ggml_view_2d(ctx0, x, size, x->ne[1], x->nb[1], i*size*ggml_element_size(x)));
    }

    // weight*a + (1 - weight)*b
    ggml_tensor * mix(ggml_tensor * weight, ggml_tensor * a, ggml_tensor * b) const {
        return ggml_add(ctx0, b, ggml_mul(ctx0, weight, ggml_sub(ctx0, a, b)));
    }

    ggml_tensor * markov_term();
    ggml_tensor * domino_term();
    void          build(const ggml_tensor * logits, const ggml_tensor * embd, int32_t row, int32_t depth, int32_t k);
};
}

// A row of `rows` where it is: a leaf, not a view, or the graph that computed it would be part of this one.
static ggml_tensor * row_of(ggml_context * ctx0, const ggml_tensor * rows, int32_t row) {
    ggml_tensor * res = ggml_new_tensor_1d(ctx0, GGML_TYPE_F32, rows->ne[0]);
    ggml_backend_tensor_alloc(rows->buffer, res, (char *) rows->data + row*rows->nb[1]);
    return res;
}

ggml_tensor * branch_graph::markov_term() {
    ggml_tensor * token  = ggml_get_rows(ctx0, head.w1, tokens); // [rank, n_parents]
    ggml_tensor * latent = token;
    if (head.kind == head_kind::gated) {
        ggml_tensor * gate = linear("gate.weight", ggml_concat(ctx0, hidden_of_all(), token, 0));
        latent = ggml_mul(ctx0, ggml_sigmoid(ctx0, ggml_add(ctx0, gate, head.part("gate.bias"))), token);
    }
    if (head.kind == head_kind::rnn) {
        ggml_tensor * seen  = ggml_concat(ctx0, ggml_concat(ctx0, before, token, 0), hidden_of_all(), 0);
        ggml_tensor * joint = ggml_add(ctx0, linear("joint.weight", seen), head.part("joint.bias")); // [3*rank, n_parents]
        latent = ggml_tanh(ctx0, part_of(joint, 2, 3));
        after  = mix(ggml_sigmoid(ctx0, part_of(joint, 0, 3)), before, ggml_tanh(ctx0, part_of(joint, 1, 3)));
    }
    ggml_tensor * term = ggml_mul_mat(ctx0, head.w2, latent); // [rows, n_parents]
    return head.w2_scale ? ggml_mul(ctx0, term, head.w2_scale) : term;
}

// torch.nn.GRU without biases: gates in the order reset, update, new.
ggml_tensor * branch_graph::domino_term() {
    ggml_tensor * table = head.model->tok_embd ? head.model->tok_embd : head.target->tok_embd;
    ggml_tensor * x     = linear("gru_input.weight", ggml_get_rows(ctx0, table, tokens)); // [3*n_state, n_parents]
    ggml_tensor * s     = linear("gru_state.weight", before);

    ggml_tensor * reset  = ggml_sigmoid(ctx0, ggml_add(ctx0, part_of(x, 0, 3), part_of(s, 0, 3)));
    ggml_tensor * update = ggml_sigmoid(ctx0, ggml_add(ctx0, part_of(x, 1, 3), part_of(s, 1, 3)));
    ggml_tensor * fresh  = ggml_tanh(ctx0, ggml_add(ctx0, part_of(x, 2, 3), ggml_mul(ctx0, reset, part_of(s, 2, 3))));
    after = mix(update, before, fresh);

    ggml_tensor * inner = linear("inner.weight", ggml_concat(ctx0, hidden_of_all(), after, 0));
    return linear("outer.weight", ggml_silu(ctx0, inner));
}

void branch_graph::build(const ggml_tensor * logits, const ggml_tensor * embd, int32_t row, int32_t depth, int32_t k) {
    tokens = input(GGML_TYPE_I32, n_parents);
    hidden = row_of(ctx0, embd, row);
    if (head.n_state > 0) {
        states = input(GGML_TYPE_F32, head.n_state*n_parents);
        before = ggml_reshape_2d(ctx0, states, head.n_state, n_parents);
    }
    ggml_tensor * term = head.kind == head_kind::domino ? domino_term() : markov_term();

    ggml_tensor * without = row_of(ctx0, logits, row); // the head
    if (!head.ids.empty()) { // upstream has spread the rows of a reduced head over the vocabulary
        ids     = input(GGML_TYPE_I32, (int64_t) head.ids.size());
        without = ggml_reshape_1d(ctx0, ggml_get_rows(ctx0, ggml_reshape_2d(ctx0, without, 1, without->ne[0]), ids), ids->ne[0]);
    }
    best = ggml_top_logprobs(ctx0, depth < head.first_depth ? without : ggml_add(ctx0, term, without), k);
    ggml_set_output(best);
    if (after) {
        ggml_set_output(after);
    }
}

//
// a call
//

// The states of the nodes before the parents: [n_parents][n_state], zeros for the root.
static bool gather_states(const llama_branch_head & head, const llama_branch_parent * parents, int32_t n_parents, std::vector<float> & out) {
    const int32_t n_known = (int32_t) (head.n_state > 0 ? head.states.size()/head.n_state : 0);
    out.assign(n_parents*head.n_state, 0.0f);
    for (int32_t i = 0; i < n_parents && head.n_state > 0; ++i) {
        if (parents[i].before >= n_known) {
            return false;
        }
        if (parents[i].before >= 0) {
            const float * known = head.states.data() + parents[i].before*head.n_state;
            std::copy(known, known + head.n_state, out.data() + i*head.n_state);
        }
    }
    return true;
}

static void read_best(const llama_branch_head & head, const branch_graph & graph, int32_t n_parents, int32_t k, float * out) {
    ggml_backend_tensor_get(graph.best, out, 0, ggml_nbytes(graph.best));
    for (int32_t i = (int32_t) graph.best->ne[1]; i < n_parents; ++i) { // without a term all parents have the same children
        std::copy(out, out + 2*k, out + (size_t) i*2*k);
    }
    for (int32_t i = 0; i < n_parents && !head.ids.empty(); ++i) {
        float * tokens = out + (size_t) i*2*k + k;
        for (int32_t j = 0; j < k; ++j) {
            tokens[j] = tokens[j] < 0.0f ? tokens[j] : (float) head.ids[(size_t) tokens[j]];
        }
    }
}

static void set_inputs(
        const llama_branch_head & head, const branch_graph & graph, const llama_branch_parent * parents, int32_t n_parents,
        const std::vector<float> & before) {
    std::vector<llama_token> tokens(n_parents);
    std::transform(parents, parents + n_parents, tokens.begin(), [](const llama_branch_parent & p) { return p.token; });
    if (graph.tokens->buffer) {
        ggml_backend_tensor_set(graph.tokens, tokens.data(), 0, ggml_nbytes(graph.tokens));
    }
    if (graph.ids) {
        ggml_backend_tensor_set(graph.ids, head.ids.data(), 0, ggml_nbytes(graph.ids));
    }
    if (graph.states) {
        ggml_backend_tensor_set(graph.states, before.data(), 0, ggml_nbytes(graph.states));
    }
}

int32_t llama_branch_head_children(
        llama_branch_head * head, llama_context * ctx, int32_t row, int32_t depth, const llama_branch_parent * parents,
        int32_t n_parents, int32_t k, float * out) {
    ctx->synchronize();
    const ggml_tensor * logits = llama_tree_compute::last_logits(ctx);
    const ggml_tensor * embd   = llama_tree_compute::last_embd(ctx);
    std::vector<float> before;
    if (logits == nullptr || embd == nullptr || row >= logits->ne[1] || !gather_states(*head, parents, n_parents, before)) {
        return -1;
    }
    ggml_context_ptr meta(ggml_init({ head->arena.size(), head->arena.data(), true }));
    branch_graph graph = { meta.get(), *head, n_parents };
    graph.build(logits, embd, row, depth, k);

    ggml_cgraph * gf = ggml_new_graph_custom(meta.get(), n_graph, false);
    ggml_build_forward_expand(gf, graph.best);
    if (graph.after) {
        ggml_build_forward_expand(gf, graph.after);
    }
    if (!head->sched) {
        head->sched.reset(llama_tree_new_sched(*ctx, n_graph));
    }
    ggml_backend_sched_reset(head->sched.get());
    if (!ggml_backend_sched_alloc_graph(head->sched.get(), gf)) {
        return -2;
    }
    set_inputs(*head, graph, parents, n_parents, before);
    if (ggml_backend_sched_graph_compute(head->sched.get(), gf) != GGML_STATUS_SUCCESS) {
        return -3;
    }
    read_best(*head, graph, n_parents, k, out);
    if (graph.after) {
        head->states.resize(n_parents*head->n_state);
        ggml_backend_tensor_get(graph.after, head->states.data(), 0, ggml_nbytes(graph.after));
    }
    return 0;
}
