#include "few-rows-products-cuda.cuh"

#include "batch-invariant-cuda.cuh"
#include "few-rows-launch.cuh"
#include "small-copies-cuda.cuh" // overlap()

#include <algorithm>
#include <cstdlib>

static constexpr int MAX_FUSED  = 8;

static_assert(FEW_ROWS_MAX_TOKENS == GGML_CUDA_FEW_ROWS_MOST, "as others are told");

static bool is_wanted(int cc) {
    static const char * wanted = getenv("GGML_CUDA_FEW_ROWS");
    if (!GGML_CUDA_CC_IS_NVIDIA(cc) || ggml_cuda_highest_compiled_arch(cc) < GGML_CUDA_CC_AMPERE) {
        return false;
    }
    return wanted ? atoi(wanted) != 0 : cc == GGML_CUDA_CC_HOPPER;
}

// Of shared memory, that a kernel for this type needs at least; 0: there is none.
static size_t bytes_needed(ggml_type type) {
    switch (type) {
        case GGML_TYPE_Q4_0:   return few_rows_bytes<GGML_TYPE_Q4_0>();
        case GGML_TYPE_Q8_0:   return few_rows_bytes<GGML_TYPE_Q8_0>();
        case GGML_TYPE_Q4_K:   return few_rows_bytes<GGML_TYPE_Q4_K>();
        case GGML_TYPE_Q5_K:   return few_rows_bytes<GGML_TYPE_Q5_K>();
        case GGML_TYPE_Q6_K:   return few_rows_bytes<GGML_TYPE_Q6_K>();
        case GGML_TYPE_IQ4_XS: return few_rows_bytes<GGML_TYPE_IQ4_XS>();
        default:               return 0;
    }
}

// From how many tokens on the kernel serves and no longer ggml's vector kernels, so that fewer tokens never take longer than
// more; measured on an H100 (docs/gpu.md). One token is theirs: they also fuse what follows.
static int min_tokens(ggml_type type) {
    if (ggml_cuda_batch_invariant()) {
        return 1;
    }
    switch (type) {
        case GGML_TYPE_Q4_0:
        case GGML_TYPE_Q8_0:
        case GGML_TYPE_IQ4_XS: return 4;
        default:               return 2;
    }
}

static void launch(ggml_type type, const few_rows_product & product, cudaStream_t stream) {
    switch (type) {
        case GGML_TYPE_Q4_0:   few_rows_launch<GGML_TYPE_Q4_0>(product, stream); break;
        case GGML_TYPE_Q8_0:   few_rows_launch<GGML_TYPE_Q8_0>(product, stream); break;
        case GGML_TYPE_Q4_K:   few_rows_launch<GGML_TYPE_Q4_K>(product, stream); break;
        case GGML_TYPE_Q5_K:   few_rows_launch<GGML_TYPE_Q5_K>(product, stream); break;
        case GGML_TYPE_Q6_K:   few_rows_launch<GGML_TYPE_Q6_K>(product, stream); break;
        case GGML_TYPE_IQ4_XS: few_rows_launch<GGML_TYPE_IQ4_XS>(product, stream); break;
        default:               GGML_ABORT("unreachable: no kernel for this type");
    }
}

static bool is_aligned(const void * at) { return (uintptr_t) at % 16 == 0; }

// For some number of tokens. Weights are copied ahead of the kernels before, so they must not be what one of those wrote.
static bool has_kernel(const ggml_tensor * t, int id) {
    const auto &        device = ggml_cuda_info().devices[id];
    const ggml_tensor * src0   = t->src[0];
    if (t->op != GGML_OP_MUL_MAT || t->src[1]->type != GGML_TYPE_F32 || t->type != GGML_TYPE_F32 || !is_wanted(device.cc)) {
        return false;
    }
    if (bytes_needed(src0->type) == 0 || bytes_needed(src0->type) > device.smpbo) {
        return false;
    }
    return src0->op == GGML_OP_NONE && !src0->view_src && ggml_is_contiguous(src0) && ggml_nrows(src0) == src0->ne[1] &&
        src0->ne[0] % FEW_ROWS_BLOCK == 0 && src0->ne[0] <= FEW_ROWS_MAX_COLUMNS && src0->ne[1] % FEW_ROWS_TILE == 0;
}

bool ggml_cuda_has_few_rows_kernel(const ggml_tensor * t) {
    const ggml_tensor * src0 = t->src[0], * src1 = t->src[1];
    return has_kernel(t, ggml_cuda_get_device()) && ggml_nrows(src1) == src1->ne[1] && is_aligned(src0->data) &&
        src1->nb[0] == sizeof(float) && src1->nb[1] % 16 == 0 && is_aligned(src1->data) && t->nb[0] == sizeof(float) &&
        t->nb[1] % sizeof(float) == 0;
}

static bool applies(const ggml_tensor * t) {
    return t->src[1]->ne[1] >= min_tokens(t->src[0]->type) && t->src[1]->ne[1] <= FEW_ROWS_MAX_TOKENS && ggml_cuda_has_few_rows_kernel(t);
}

// The activations of several products, converted.
struct converted {
    ggml_cuda_pool_alloc<uint4> fragments;
    ggml_cuda_pool_alloc<float> unscale;

    converted(ggml_backend_cuda_context & ctx, const ggml_tensor * src1, few_rows_input kind, const few_rows_source & source)
        : fragments(ctx.pool(), (size_t) few_rows_eights(src1->ne[1])*src1->ne[0]), // 8 tokens: 16 bytes for a column
          unscale(ctx.pool(), (size_t) few_rows_eights(src1->ne[1])*8) {
        const few_rows_activations out = { fragments.get(), unscale.get() };
        const int threads = std::min<int64_t>(1024, (src1->ne[0]/8 + 31)/32*32);
        ggml_cuda_kernel_launch(kernel_of(kind),
            ggml_cuda_kernel_launch_params(dim3(few_rows_eights(src1->ne[1])*8), dim3(threads), (size_t) 0, ctx.stream()),
            source, (int) src1->ne[1], (int) src1->ne[0], out);
    }

  private:
    using kernel_t = void (*)(const few_rows_source, int, int, few_rows_activations);

    static kernel_t kernel_of(few_rows_input kind) {
        switch (kind) {
            case few_rows_input::NORM: return few_rows_convert<few_rows_input::NORM>;
            case few_rows_input::GLU:  return few_rows_convert<few_rows_input::GLU>;
            default:                   return few_rows_convert<few_rows_input::PLAIN>;
        }
    }
};

static int64_t row_stride(const ggml_tensor * t) { return t->nb[1]/sizeof(float); }

static few_rows_source plain_source(const ggml_tensor * src1) {
    few_rows_source source = {};
    source.x      = (const float *) src1->data;
    source.stride = row_stride(src1);
    return source;
}

// Of one type, with the same activations.
static void compute(ggml_backend_cuda_context & ctx, const converted & activations, ggml_tensor * const * products, int n) {
    const ggml_tensor * first = products[0];
    few_rows_product product = {};
    for (int i = 0; i < n; i++) {
        const ggml_tensor * dst = products[i];
        product.n_tiles += (int) (dst->src[0]->ne[1]/FEW_ROWS_TILE);
        product.matrices[i] = { (const uint8_t *) dst->src[0]->data, (float *) dst->data, (int64_t) (dst->nb[1]/sizeof(float)), product.n_tiles };
    }
    product.row_bytes = first->src[0]->nb[1];
    product.n_blocks  = (int) (first->src[0]->ne[0]/FEW_ROWS_BLOCK);
    product.fragments = activations.fragments.ptr;
    product.unscale   = activations.unscale.ptr;
    product.n_tokens  = (int) first->src[1]->ne[1];
    launch(first->src[0]->type, product, ctx.stream());
}

bool ggml_cuda_few_rows_product(ggml_backend_cuda_context & ctx, const ggml_tensor * src0, const ggml_tensor * src1, ggml_tensor * dst) {
    if (src0 != dst->src[0] || src1 != dst->src[1] || !applies(dst)) {
        return false;
    }
    const converted activations(ctx, src1, few_rows_input::PLAIN, plain_source(src1));
    compute(ctx, activations, &dst, 1);
    return true;
}

static bool computes_nothing(const ggml_tensor * t) {
    switch (t->op) {
        case GGML_OP_NONE:
        case GGML_OP_VIEW:
        case GGML_OP_RESHAPE:
        case GGML_OP_PERMUTE:
        case GGML_OP_TRANSPOSE: return true;
        default:                return ggml_is_empty(t);
    }
}

static bool is_apart(const ggml_tensor * t, ggml_tensor * const * others, int n) {
    return !overlap(t, t->src[1]) && std::none_of(others, others + n, [&](const ggml_tensor * other) { return overlap(t, other); });
}

// Products of the same activations from a node of a graph on.
struct product_group {
    ggml_tensor * products[MAX_FUSED];
    int           n    = 0;
    int           last = -1; // node

    product_group(const ggml_cgraph * graph, int first) {
        for (int at = first; at < graph->n_nodes && n < MAX_FUSED; at++) {
            ggml_tensor * t = graph->nodes[at];
            if (t->op == GGML_OP_MUL_MAT && (t->flags & GGML_TENSOR_FLAG_COMPUTE) && (n == 0 || t->src[1] == products[0]->src[1]) &&
                applies(t) && is_apart(t, products, n)) {
                products[n++] = t;
                last = at;
            } else if (at == first || !computes_nothing(t)) {
                break;
            }
        }
    }

    const ggml_tensor * activations() const { return n > 0 ? products[0]->src[1] : nullptr; }

    void compute_all(ggml_backend_cuda_context & ctx, few_rows_input kind, const few_rows_source & source) {
        const converted input(ctx, activations(), kind, source);
        std::stable_sort(products, products + n, [](const ggml_tensor * a, const ggml_tensor * b) { return a->src[0]->type < b->src[0]->type; });
        for (int from = 0, to; from < n; from = to) {
            for (to = from + 1; to < n && to - from < FEW_ROWS_MATRICES && products[to]->src[0]->type == products[from]->src[0]->type; to++) {}
            compute(ctx, input, products + from, to - from);
        }
    }
};

static bool has_plain_rows(const ggml_tensor * t) { // as `few_rows_convert` reads and writes them
    return t->type == GGML_TYPE_F32 && ggml_nrows(t) == t->ne[1] && t->nb[0] == sizeof(float) && t->nb[1] % 16 == 0 && is_aligned(t->data);
}

// A norm, its weights, and products of the result.
static int fuse_norm(ggml_backend_cuda_context & ctx, const ggml_cgraph * graph, int i) {
    if (!ggml_can_fuse(graph, i, { GGML_OP_RMS_NORM, GGML_OP_MUL })) {
        return 0;
    }
    const ggml_tensor * norm = graph->nodes[i], * mul = graph->nodes[i + 1];
    const ggml_tensor * x = norm->src[0], * weights = mul->src[mul->src[0] == norm ? 1 : 0];
    product_group group(graph, i + 2);
    const bool in_place = mul->data == x->data && mul->nb[1] == x->nb[1];
    if (group.activations() != mul || !has_plain_rows(x) || !has_plain_rows(mul) || !has_plain_rows(weights) || weights->ne[1] != 1 ||
        weights->ne[0] != mul->ne[0] || !ggml_are_same_shape(x, mul) || (overlap(mul, x) && !in_place) || overlap(mul, weights)) {
        return 0;
    }
    few_rows_source source = plain_source(x);
    source.factor        = (const float *) weights->data;
    source.result        = (float *) mul->data;
    source.result_stride = row_stride(mul);
    memcpy(&source.epsilon, norm->op_params, sizeof(float));
    group.compute_all(ctx, few_rows_input::NORM, source);
    return group.last - i;
}

// silu(gate)*up and a product of the result, which is not needed elsewhere.
static int fuse_glu(ggml_backend_cuda_context & ctx, const ggml_cgraph * graph, int i) {
    const ggml_tensor * glu = graph->nodes[i];
    if (!ggml_node_has_n_uses(graph, i, 1) || ggml_get_glu_op(glu) != GGML_GLU_OP_SWIGLU || !glu->src[1] || !(glu->flags & GGML_TENSOR_FLAG_COMPUTE)) {
        return 0;
    }
    product_group group(graph, i + 1);
    if (group.activations() != glu || !has_plain_rows(glu->src[0]) || !has_plain_rows(glu->src[1])) {
        return 0;
    }
    few_rows_source source = plain_source(glu->src[0]);
    source.factor        = (const float *) glu->src[1]->data;
    source.factor_stride = row_stride(glu->src[1]);
    group.compute_all(ctx, few_rows_input::GLU, source);
    return group.last - i;
}

int ggml_cuda_fuse_few_rows_products(ggml_backend_cuda_context & ctx, const ggml_cgraph * graph, int i) {
    switch (graph->nodes[i]->op) {
        case GGML_OP_RMS_NORM: return fuse_norm(ctx, graph, i);
        case GGML_OP_GLU:      return fuse_glu(ctx, graph, i);
        default:               break;
    }
    product_group group(graph, i);
    if (group.n < 2) {
        return 0;
    }
    group.compute_all(ctx, few_rows_input::PLAIN, plain_source(group.activations()));
    return group.last - i;
}

// ---------------------------------------------------------------- the order of a graph

static const ggml_tensor * memory_of(const ggml_tensor * t) { return t->view_src ? t->view_src : t; }

// A product that may go with what comes next in the graph into one of ggml's own kernels (for one token).
static bool is_fused_with_next(const ggml_cgraph * graph, int i) {
    if (i + 1 == graph->n_nodes) {
        return false;
    }
    const ggml_tensor * next = graph->nodes[i + 1];
    const bool          uses = next->src[0] == graph->nodes[i] || next->src[1] == graph->nodes[i];
    return uses && (next->op == GGML_OP_ADD || next->op == GGML_OP_MUL || next->op == GGML_OP_GLU);
}

static constexpr int MAX_DISTANCE = 96; // nodes; results that are made earlier take memory for longer

static bool changes(const ggml_tensor * t, const ggml_tensor * activations) {
    return memory_of(t) == memory_of(activations) && !computes_nothing(t);
}

// Moves node `from` up to place `to`.
static void move_up(ggml_cgraph * graph, int from, int to) {
    std::rotate(graph->nodes + to, graph->nodes + from, graph->nodes + from + 1);
}

// Where product `i` can be computed at the earliest: after what makes its activations, if that is near.
static int earliest_place(const ggml_cgraph * graph, int i) {
    const ggml_tensor * activations = graph->nodes[i]->src[1];
    for (int at = i - 1; at >= std::max(0, i - MAX_DISTANCE); at--) {
        if (graph->nodes[at] == activations) {
            return at + 1;
        }
        if (changes(graph->nodes[at], activations)) {
            break;
        }
    }
    return i;
}

// What moves depends on the operations alone, not on the number of tokens: ggml's allocator keeps one plan for all.
void ggml_cuda_gather_few_rows_products(ggml_cgraph * graph, int device) {
    for (int i = 0; i < graph->n_nodes; i++) {
        const ggml_tensor * first = graph->nodes[i];
        if (!has_kernel(first, device)) {
            continue;
        }
        const ggml_tensor * activations = first->src[1];
        int begin = i, n = 1;
        if (!is_fused_with_next(graph, i)) {
            begin = earliest_place(graph, i);
            move_up(graph, i, begin);
        }
        const int end = std::min(graph->n_nodes, i + MAX_DISTANCE);
        for (int at = begin + 1; at < end && n < MAX_FUSED && !changes(graph->nodes[at], activations); at++) {
            const ggml_tensor * t = graph->nodes[at];
            const bool is_next = at == begin + n;
            if (t->op != GGML_OP_MUL_MAT || t->src[1] != activations || !has_kernel(t, device) || (!is_next && is_fused_with_next(graph, at))) {
                continue;
            }
            if (!is_next) {
                move_up(graph, at, begin); // before the first, which may be fused with what follows it
            }
            n++;
        }
        i = std::max(i, begin + n - 1);
    }
}
