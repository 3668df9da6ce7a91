#include "small-copies-cuda.cuh"

#include <algorithm>

static constexpr int     MAX_COPIES   = 8;
static constexpr int     COPY_THREADS = 256;
static constexpr int64_t MAX_VALUES   = 1 << 20; // of a small copy; a larger one fills the GPU by itself

// From rows anywhere to contiguous memory. Strides are in floats.
struct small_copy {
    const float * src;
    float *       dst;
    uint32_t      n_values;
    uint3         ne0, ne1, ne2; // for fast_div_modulo
    int64_t       stride1, stride2, stride3;
};

struct small_copies {
    small_copy copies[MAX_COPIES];
};

static __global__ void __launch_bounds__(COPY_THREADS) small_copies_kernel(const small_copies all) {
    const small_copy & c = all.copies[blockIdx.y];
    const uint32_t     i = blockIdx.x*COPY_THREADS + threadIdx.x;

    ggml_cuda_pdl_lc();
    ggml_cuda_pdl_sync();
    if (i >= c.n_values) {
        return;
    }
    const uint2 row   = fast_div_modulo(i, c.ne0); // number, column
    const uint2 plane = fast_div_modulo(row.x, c.ne1);
    const uint2 block = fast_div_modulo(plane.x, c.ne2);
    c.dst[i] = c.src[row.y + plane.y*c.stride1 + block.y*c.stride2 + block.x*c.stride3];
}

static bool is_small_copy(const ggml_tensor * t) {
    if (t->op != GGML_OP_CPY || !(t->flags & GGML_TENSOR_FLAG_COMPUTE) || ggml_is_empty(t)) {
        return false;
    }
    const ggml_tensor * src = t->src[0];
    return src->type == GGML_TYPE_F32 && t->type == GGML_TYPE_F32 && ggml_are_same_shape(src, t) && ggml_nelements(t) <= MAX_VALUES &&
        src->nb[0] == sizeof(float) && ggml_is_contiguous(t) && !overlap(src, t);
}

static bool is_apart(const ggml_tensor * t, const ggml_tensor * const * others, int n) {
    return std::none_of(others, others + n, [&](const ggml_tensor * other) {
        return overlap(t, other) || overlap(t, other->src[0]) || overlap(t->src[0], other);
    });
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

static small_copy copy_of(const ggml_tensor * t) {
    const ggml_tensor * src = t->src[0];
    return { (const float *) src->data, (float *) t->data, (uint32_t) ggml_nelements(t),
        init_fastdiv_values(t->ne[0]), init_fastdiv_values(t->ne[1]), init_fastdiv_values(t->ne[2]),
        (int64_t) (src->nb[1]/sizeof(float)), (int64_t) (src->nb[2]/sizeof(float)), (int64_t) (src->nb[3]/sizeof(float)) };
}

int ggml_cuda_fuse_small_copies(ggml_backend_cuda_context & ctx, const ggml_cgraph * graph, int i) {
    const ggml_tensor * copies[MAX_COPIES];
    int n    = 0;
    int last = i;
    for (int at = i; at < graph->n_nodes && n < MAX_COPIES; at++) {
        const ggml_tensor * t = graph->nodes[at];
        if (is_small_copy(t) && is_apart(t, copies, n)) {
            copies[n++] = t;
            last = at;
        } else if (at == i || !computes_nothing(t)) {
            break;
        }
    }
    if (n < 2) {
        return 0;
    }
    small_copies all = {};
    int64_t n_values = 0; // of the largest
    for (int c = 0; c < n; c++) {
        all.copies[c] = copy_of(copies[c]);
        n_values = std::max(n_values, ggml_nelements(copies[c]));
    }
    const dim3 blocks((n_values + COPY_THREADS - 1)/COPY_THREADS, n);
    ggml_cuda_kernel_launch(small_copies_kernel, ggml_cuda_kernel_launch_params(blocks, COPY_THREADS, (size_t) 0, ctx.stream()), all);
    return last - i;
}
