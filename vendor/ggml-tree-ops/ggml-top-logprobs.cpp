// The op of ggml-top-logprobs.h as a node of a graph, with its one parameter: are logits wanted as they are? The CPU computes
// it in cpu/.

#include "ggml-top-logprobs.h"

static ggml_tensor * top_entries(ggml_context * ctx, ggml_tensor * logits, int32_t k, bool as_logits) {
    GGML_ASSERT(logits->type == GGML_TYPE_F32 && ggml_is_contiguous(logits) && ggml_is_matrix(logits));
    GGML_ASSERT(logits->ne[0] < (1 << 24) && "an index has to be exact as a float");
    GGML_ASSERT(k >= 1);

    ggml_tensor * result = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, 2*k, logits->ne[1]);
    result->op     = GGML_OP_TOP_LOGPROBS;
    result->src[0] = logits;
    result->op_params[0] = as_logits;
    return result;
}

ggml_tensor * ggml_top_logprobs(ggml_context * ctx, ggml_tensor * logits, int32_t k) {
    return top_entries(ctx, logits, k, false);
}

ggml_tensor * ggml_top_logits(ggml_context * ctx, ggml_tensor * logits, int32_t k) {
    return top_entries(ctx, logits, k, true);
}

bool ggml_top_entries_are_logits(const ggml_tensor * tensor) {
    return tensor->op_params[0] != 0;
}

bool ggml_is_top_logprobs(const ggml_tensor * tensor) {
    return tensor->op == GGML_OP_TOP_LOGPROBS;
}
