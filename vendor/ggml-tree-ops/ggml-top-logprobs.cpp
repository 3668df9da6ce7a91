// The op of ggml-top-logprobs.h as a node of a graph. The CPU computes it in cpu/.

#include "ggml-top-logprobs.h"

ggml_tensor * ggml_top_logprobs(ggml_context * ctx, ggml_tensor * logits, int32_t k) {
    GGML_ASSERT(logits->type == GGML_TYPE_F32 && ggml_is_contiguous(logits) && ggml_is_matrix(logits));
    GGML_ASSERT(logits->ne[0] < (1 << 24) && "an index has to be exact as a float");
    GGML_ASSERT(k >= 1);

    ggml_tensor * result = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 2*k, logits->ne[1]);
    result->op     = GGML_OP_TOP_LOGPROBS;
    result->src[0] = logits;
    return result;
}

bool ggml_is_top_logprobs(const ggml_tensor * tensor) {
    return tensor->op == GGML_OP_TOP_LOGPROBS;
}
