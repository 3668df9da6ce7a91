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

// q or k: they may have fewer heads and fewer sequences than v
void check_key(const argument & a, const ggml_tensor * v) {
    const int64_t n_heads = a.tensor->ne[1];
    const int64_t n_seqs  = a.tensor->ne[3];
    check_type(a, GGML_TYPE_F32);
    check_contiguous_rows(a);
    check_shape(a, v->ne[0], n_heads, v->ne[2], n_seqs);
    if (n_heads == 0 || v->ne[1] % n_heads != 0 || n_seqs == 0 || v->ne[3] % n_seqs != 0) {
        GGML_ABORT("%s: %s has %" PRId64 " heads and %" PRId64 " sequences, expected divisors of v's %" PRId64 " and %" PRId64,
            a.op, a.name, n_heads, n_seqs, v->ne[1], v->ne[3]);
    }
}

// indices of nodes, `n` for each sequence
void check_indices(const argument & a, int64_t n, int64_t n_seqs) {
    check_type(a, GGML_TYPE_I32);
    check_contiguous(a);
    check_shape(a, n, n_seqs, 1, 1);
}

// what the two delta-net ops have in common
void check_delta_net(const char * op, const ggml_tensor * k, const ggml_tensor * v, const ggml_tensor * g, const ggml_tensor * beta, const ggml_tensor * state) {
    const int64_t S        = v->ne[0];
    const int64_t H        = v->ne[1];
    const int64_t n_tokens = v->ne[2];
    const int64_t n_seqs   = v->ne[3];

    check_type({ op, "v", v }, GGML_TYPE_F32);
    check_contiguous_rows({ op, "v", v });
    check_key({ op, "k", k }, v);
    for (const argument & a : { argument { op, "g", g }, argument { op, "beta", beta }, argument { op, "state", state } }) {
        check_type(a, GGML_TYPE_F32);
        check_contiguous(a);
    }
    check_shape({ op, "g", g }, g->ne[0] == S ? S : 1, H, n_tokens, n_seqs);
    check_shape({ op, "beta", beta }, 1, H, n_tokens, n_seqs);
    check_shape({ op, "state", state }, S, S, H, n_seqs);
}

ggml_tensor * as_op(ggml_tensor * result, ggml_op op, std::initializer_list<ggml_tensor *> sources) {
    result->op = op;
    int i = 0;
    for (ggml_tensor * source : sources) {
        result->src[i++] = source;
    }
    return result;
}

ggml_tensor * persist(const char * op, ggml_tensor * result, ggml_tensor * k, ggml_tensor * v, ggml_tensor * g, ggml_tensor * beta, ggml_tensor * state, ggml_tensor * path) {
    check_delta_net(op, k, v, g, beta, state);
    check_indices({ op, "path", path }, path->ne[0], v->ne[3]);
    return as_op(result, GGML_OP_GATED_DELTA_NET_TREE_PERSIST, { k, v, g, beta, state, path });
}

} // namespace

ggml_tensor * ggml_ssm_conv_tree(ggml_context * ctx, ggml_tensor * conv_input, ggml_tensor * kernel, ggml_tensor * parents) {
    const int64_t d_conv   = kernel->ne[0];
    const int64_t d_inner  = kernel->ne[1];
    const int64_t n_tokens = parents->ne[0];
    const int64_t n_seqs   = conv_input->ne[2];

    check_type({ __func__, "conv_input", conv_input }, GGML_TYPE_F32);
    check_contiguous({ __func__, "conv_input", conv_input });
    check_shape({ __func__, "conv_input", conv_input }, d_conv - 1 + n_tokens, d_inner, n_seqs, 1);
    check_type({ __func__, "kernel", kernel }, GGML_TYPE_F32);
    check_contiguous({ __func__, "kernel", kernel });
    check_shape({ __func__, "kernel", kernel }, d_conv, d_inner, 1, 1);
    check_indices({ __func__, "parents", parents }, n_tokens, n_seqs);

    ggml_tensor * result = ggml_new_tensor_3d(ctx, GGML_TYPE_F32, d_inner, n_tokens, n_seqs);
    return as_op(result, GGML_OP_SSM_CONV_TREE, { conv_input, kernel, parents });
}

ggml_tensor * ggml_gated_delta_net_tree(ggml_context * ctx, ggml_tensor * q, ggml_tensor * k, ggml_tensor * v, ggml_tensor * g, ggml_tensor * beta, ggml_tensor * state, ggml_tensor * parents) {
    check_delta_net(__func__, k, v, g, beta, state);
    check_key({ __func__, "q", q }, v);
    check_indices({ __func__, "parents", parents }, v->ne[2], v->ne[3]);

    ggml_tensor * result = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, v->ne[0] * v->ne[1], v->ne[2] * v->ne[3]);
    return as_op(result, GGML_OP_GATED_DELTA_NET_TREE, { q, k, v, g, beta, state, parents });
}

ggml_tensor * ggml_gated_delta_net_tree_persist(ggml_context * ctx, ggml_tensor * k, ggml_tensor * v, ggml_tensor * g, ggml_tensor * beta, ggml_tensor * state, ggml_tensor * path) {
    ggml_tensor * result = ggml_new_tensor(ctx, GGML_TYPE_F32, GGML_MAX_DIMS, state->ne);
    return persist(__func__, result, k, v, g, beta, state, path);
}

ggml_tensor * ggml_gated_delta_net_tree_persist_inplace(ggml_context * ctx, ggml_tensor * k, ggml_tensor * v, ggml_tensor * g, ggml_tensor * beta, ggml_tensor * state, ggml_tensor * path) {
    return persist(__func__, ggml_view_tensor(ctx, state), k, v, g, beta, state, path);
}
