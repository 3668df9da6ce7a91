// The op of ggml-top-logprobs.h; the rows are computed in top-logprobs-row.cpp.

#include "ggml-top-logprobs.h"

#include <cstring>

static void compute(ggml_tensor * dst, int ith, int nth, void *) {
    const ggml_tensor * logits = dst->src[0];
    for (int64_t row = ith; row < dst->ne[1]; row += nth) {
        ggml_top_logprobs_row(
                (const float *) ((const char *) logits->data + row*logits->nb[1]), logits->ne[0], (int32_t) (dst->ne[0]/2),
                (float *) ((char *) dst->data + row*dst->nb[1]));
    }
}

ggml_tensor * ggml_top_logprobs(ggml_context * ctx, ggml_tensor * logits, int32_t k) {
    GGML_ASSERT(logits->type == GGML_TYPE_F32 && ggml_is_contiguous(logits) && ggml_is_matrix(logits));
    GGML_ASSERT(logits->ne[0] < (1 << 24) && "an index has to be exact as a float");
    GGML_ASSERT(k >= 1);

    return ggml_custom_4d(ctx, GGML_TYPE_F32, 2*k, logits->ne[1], 1, 1, &logits, 1, compute, GGML_N_TASKS_MAX, nullptr);
}

bool ggml_is_top_logprobs(const ggml_tensor * tensor) {
    ggml_custom_op_t fun = nullptr;
    memcpy(&fun, tensor->op_params, sizeof(fun)); // the first of a custom op's parameters
    return tensor->op == GGML_OP_CUSTOM && fun == compute;
}
