// Matrix products whose sums run in the same order for any number of rows of activations: by a kernel that has this property for
// several rows where there is one for the weights, row by row everywhere else.
#include "batch-invariant-cuda.cuh"

#include "few-rows-products-cuda.cuh"
#include "ggml-cuda/mmvf.cuh"

#include <algorithm>
#include <cstdlib>

bool ggml_cuda_batch_invariant() {
    static const char * wanted = getenv("GGML_CUDA_BATCH_INVARIANT");
    return wanted && atoi(wanted) == 1;
}

// Rows `first` to `first + n - 1` of a tensor's dimension `dim`.
static ggml_tensor rows_of(const ggml_tensor * t, int dim, int64_t first, int64_t n) {
    ggml_tensor part = *t;
    part.ne[dim] = n;
    part.data    = (char *) t->data + first*t->nb[dim];
    return part;
}

// ggml's kernel for products of floats with up to 8 vectors: each vector has sums of its own, in the same order for 1 to 8.
static bool has_float_kernel(const ggml_tensor * dst) {
    const ggml_tensor * src0 = dst->src[0], * src1 = dst->src[1];
    const size_t        size = ggml_type_size(src0->type);
    return (src0->type == GGML_TYPE_F32 || src0->type == GGML_TYPE_F16 || src0->type == GGML_TYPE_BF16) && src1->type == GGML_TYPE_F32 &&
        dst->type == GGML_TYPE_F32 && src0->ne[0] % 2 == 0 && ggml_nrows(src0) == src0->ne[1] && ggml_nrows(src1) == src1->ne[1] &&
        src0->nb[0] == size && src0->nb[1] % (2*size) == 0 && src1->nb[0] == sizeof(float) && src1->nb[1] % (2*sizeof(float)) == 0 &&
        (uintptr_t) src0->data % (2*size) == 0 && (uintptr_t) src1->data % (2*sizeof(float)) == 0;
}

bool ggml_cuda_invariant_product(ggml_backend_cuda_context & ctx, const ggml_tensor * dst, ggml_cuda_product_t usual) {
    if (!ggml_cuda_batch_invariant()) {
        return false;
    }
    const ggml_tensor * src0 = dst->src[0], * src1 = dst->src[1];
    const int64_t n = src1->ne[1];
    auto for_rows = [&](int64_t at_once, auto compute) {
        for (int64_t first = 0; first < n; first += at_once) {
            const int64_t n_rows = std::min(at_once, n - first);
            ggml_tensor   input  = rows_of(src1, 1, first, n_rows), result = rows_of(dst, 1, first, n_rows);
            result.src[1] = &input;
            compute(input, result);
        }
    };
    if (ggml_cuda_has_few_rows_kernel(dst)) {
        for_rows(GGML_CUDA_FEW_ROWS_MOST, [&](ggml_tensor & input, ggml_tensor & result) {
            const bool computed = ggml_cuda_few_rows_product(ctx, src0, &input, &result);
            GGML_ASSERT(computed);
        });
        return true;
    }
    if (has_float_kernel(dst)) {
        for_rows(MMVF_MAX_BATCH_SIZE, [&](ggml_tensor & input, ggml_tensor & result) { ggml_cuda_mul_mat_vec_f(ctx, src0, &input, nullptr, &result); });
        return true;
    }
    if (n <= 1) {
        return false;
    }
    for_rows(1, [&](ggml_tensor & input, ggml_tensor & result) { usual(ctx, src0, &input, &result); });
    return true;
}

// Token by token: of several tokens, ggml sorts rows by their experts.
bool ggml_cuda_invariant_experts(ggml_backend_cuda_context & ctx, const ggml_tensor * dst, ggml_cuda_experts_t usual) {
    if (!ggml_cuda_batch_invariant() || dst->ne[2] <= 1) {
        return false;
    }
    for (int64_t token = 0; token < dst->ne[2]; token++) {
        ggml_tensor input = rows_of(dst->src[1], 2, token, 1), ids = rows_of(dst->src[2], 1, token, 1), result = rows_of(dst, 2, token, 1);
        result.src[1] = &input;
        result.src[2] = &ids;
        usual(ctx, &result);
    }
    return true;
}
