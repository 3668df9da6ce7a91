// The tree ops as nodes of a graph: types and shapes are checked here. What computes them is in cpu/.
#include "ggml-tree-ops.h"

#include <cinttypes>
#include <initializer_list>

namespace {

// One argument of an op, for checks that say which of them is wrong.
struct argument {
    const char *        op;
    const char *        name;
    const ggml_tensor * tensor;
};

void check_type(const argument & a, ggml_type expected) {
    if (a.tensor->type != expected) {
        GGML_ABORT("%s: %s is of type %s, expected %s", a.op, a.name, ggml_type_name(a.tensor->type), ggml_type_name(expected));
    }
}

void check_shape(const argument & a, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3) {
    const int64_t * ne = a.tensor->ne;
    if (ne[0] != ne0 || ne[1] != ne1 || ne[2] != ne2 || ne[3] != ne3) {
        GGML_ABORT("%s: %s has shape [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "], expected [%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "]",
            a.op, a.name, ne[0], ne[1], ne[2], ne[3], ne0, ne1, ne2, ne3);
    }
}

void check_contiguous(const argument & a) {
    if (!ggml_is_contiguous(a.tensor)) {
        GGML_ABORT("%s: %s is not contiguous, expected a contiguous tensor (ggml_cont makes one)", a.op, a.name);
    }
}

void check_contiguous_rows(const argument & a) {
    if (!ggml_is_contiguous_rows(a.tensor)) {
        GGML_ABORT("%s: the rows of %s are not contiguous, expected contiguous rows (ggml_cont makes them)", a.op, a.name);
    }
}

// q or k: they may have fewer heads than v
void check_key(const argument & a, const ggml_tensor * v) {
    const int64_t n_heads = a.tensor->ne[1];
    check_type(a, GGML_TYPE_F32);
    check_contiguous_rows(a);
    check_shape(a, v->ne[0], n_heads, v->ne[2], 1);
    if (n_heads == 0 || v->ne[1] % n_heads != 0) {
        GGML_ABORT("%s: %s has %" PRId64 " heads, expected a divisor of v's %" PRId64, a.op, a.name, n_heads, v->ne[1]);
    }
}

// indices of nodes or states
void check_indices(const argument & a, int64_t n, int64_t n_seqs) {
    check_type(a, GGML_TYPE_I32);
    check_contiguous(a);
    check_shape(a, n, n_seqs, 1, 1);
}

// what the two delta-net ops have in common
void check_delta_net(const char * op, const ggml_tensor * k, const ggml_tensor * v, const ggml_tensor * g, const ggml_tensor * beta, const ggml_tensor * states) {
    const int64_t S        = v->ne[0];
    const int64_t H        = v->ne[1];
    const int64_t n_tokens = v->ne[2];

    check_type({ op, "v", v }, GGML_TYPE_F32);
    check_contiguous_rows({ op, "v", v });
    check_shape({ op, "v", v }, S, H, n_tokens, 1);
    check_key({ op, "k", k }, v);
    for (const argument & a : { argument { op, "g", g }, argument { op, "beta", beta }, argument { op, "states", states } }) {
        check_type(a, GGML_TYPE_F32);
        check_contiguous(a);
    }
    check_shape({ op, "g", g }, g->ne[0] == S ? S : 1, H, n_tokens, 1);
    check_shape({ op, "beta", beta }, 1, H, n_tokens, 1);
    check_shape({ op, "states", states }, S, S, H, states->ne[3]);
}

// the inputs of a convolution, and what its sequences carry
void check_conv(const char * op, const ggml_tensor * inputs, const ggml_tensor * states, int64_t n_carried) {
    check_type({ op, "inputs", inputs }, GGML_TYPE_F32);
    check_contiguous_rows({ op, "inputs", inputs });
    check_shape({ op, "inputs", inputs }, inputs->ne[0], inputs->ne[1], 1, 1);
    check_type({ op, "states", states }, GGML_TYPE_F32);
    check_contiguous({ op, "states", states });
    check_shape({ op, "states", states }, n_carried*inputs->ne[0], states->ne[1], 1, 1);
}

ggml_tensor * as_op(ggml_tensor * result, ggml_op op, std::initializer_list<ggml_tensor *> sources) {
    result->op = op;
    int i = 0;
    for (ggml_tensor * source : sources) {
        result->src[i++] = source;
    }
    return result;
}

// A persist op of the sequences of `path`: its result is a view of the states, or of `ne`.
ggml_tensor * persist(ggml_context * ctx, ggml_op op, const char * name, const int64_t * ne, bool inplace, std::initializer_list<ggml_tensor *> sources, ggml_tensor * states, ggml_tensor * path, ggml_tensor * rows) {
    check_indices({ name, "path", path }, path->ne[0], path->ne[1]);
    check_indices({ name, "rows", rows }, 2, path->ne[1]);
    ggml_tensor * result = inplace ? ggml_view_tensor(ctx, states) : ggml_new_tensor(ctx, GGML_TYPE_F32, GGML_MAX_DIMS, ne);
    result->op_params[0] = inplace;
    return as_op(result, op, sources);
}

ggml_tensor * persist_conv(const char * name, ggml_context * ctx, bool inplace, ggml_tensor * inputs, ggml_tensor * states, ggml_tensor * path, ggml_tensor * rows) {
    check_conv(name, inputs, states, states->ne[0]/inputs->ne[0]);
    const int64_t ne[GGML_MAX_DIMS] = { states->ne[0], path->ne[1], 1, 1 };
    return persist(ctx, GGML_OP_SSM_CONV_TREE_PERSIST, name, ne, inplace, { inputs, states, path, rows }, states, path, rows);
}

ggml_tensor * persist_delta_net(const char * name, ggml_context * ctx, bool inplace, ggml_tensor * k, ggml_tensor * v, ggml_tensor * g, ggml_tensor * beta, ggml_tensor * states, ggml_tensor * path, ggml_tensor * rows) {
    check_delta_net(name, k, v, g, beta, states);
    const int64_t ne[GGML_MAX_DIMS] = { states->ne[0], states->ne[1], states->ne[2], path->ne[1] };
    return persist(ctx, GGML_OP_GATED_DELTA_NET_TREE_PERSIST, name, ne, inplace, { k, v, g, beta, states, path, rows }, states, path, rows);
}

} // namespace

ggml_tensor * ggml_ssm_conv_tree(ggml_context * ctx, ggml_tensor * inputs, ggml_tensor * states, ggml_tensor * kernel, ggml_tensor * parents) {
    const int64_t d_conv   = kernel->ne[0];
    const int64_t d_inner  = inputs->ne[0];
    const int64_t n_tokens = inputs->ne[1];

    check_conv(__func__, inputs, states, d_conv - 1);
    check_type({ __func__, "kernel", kernel }, GGML_TYPE_F32);
    check_contiguous({ __func__, "kernel", kernel });
    check_shape({ __func__, "kernel", kernel }, d_conv, d_inner, 1, 1);
    check_indices({ __func__, "parents", parents }, n_tokens, 1);

    ggml_tensor * result = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, d_inner, n_tokens);
    return as_op(result, GGML_OP_SSM_CONV_TREE, { inputs, states, kernel, parents });
}

ggml_tensor * ggml_ssm_conv_tree_persist(ggml_context * ctx, ggml_tensor * inputs, ggml_tensor * states, ggml_tensor * path, ggml_tensor * rows) {
    return persist_conv(__func__, ctx, false, inputs, states, path, rows);
}

ggml_tensor * ggml_ssm_conv_tree_persist_inplace(ggml_context * ctx, ggml_tensor * inputs, ggml_tensor * states, ggml_tensor * path, ggml_tensor * rows) {
    return persist_conv(__func__, ctx, true, inputs, states, path, rows);
}

ggml_tensor * ggml_gated_delta_net_tree(ggml_context * ctx, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * g, ggml_tensor * beta, ggml_tensor * states, ggml_tensor * parents) {
    check_delta_net(__func__, k, v, g, beta, states);
    check_key({ __func__, "q", q }, v);
    check_indices({ __func__, "parents", parents }, v->ne[2], 1);

    ggml_tensor * result = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, v->ne[0] * v->ne[1], v->ne[2]);
    return as_op(result, GGML_OP_GATED_DELTA_NET_TREE, { q, k, v, g, beta, states, parents });
}

ggml_tensor * ggml_gated_delta_net_tree_persist(ggml_context * ctx, ggml_tensor * k, ggml_tensor * v, ggml_tensor * g, ggml_tensor * beta, ggml_tensor * states, ggml_tensor * path, ggml_tensor * rows) {
    return persist_delta_net(__func__, ctx, false, k, v, g, beta, states, path, rows);
}

ggml_tensor * ggml_gated_delta_net_tree_persist_inplace(ggml_context * ctx, ggml_tensor * k, ggml_tensor * v, ggml_tensor * g, ggml_tensor * beta, ggml_tensor * states, ggml_tensor * path, ggml_tensor * rows) {
    return persist_delta_net(__func__, ctx, true, k, v, g, beta, states, path, rows);
}

bool ggml_tree_op_is_inplace(const ggml_tensor * op) {
    return op->op_params[0] != 0;
}
