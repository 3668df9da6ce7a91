// ggml_top_logprobs() in ggml's CPU backend; top-logprobs-row.cpp computes a row.

#include "top-logprobs-cpu.h"

#include "ggml-top-logprobs.h"

#include <algorithm>
#include <cmath>
#include <new>

void ggml_compute_forward_top_logprobs(const ggml_compute_params * params, ggml_tensor * dst) {
    const ggml_tensor * logits = dst->src[0];
    const int32_t k = (int32_t) (dst->ne[0]/2);
    const auto compute_row = ggml_top_entries_are_logits(dst) ? ggml_top_logits_row : ggml_top_logprobs_row;
    for (int64_t row = params->ith; row < dst->ne[1]; row += params->nth) {
        float * out = (float *) ((char *) dst->data + row*dst->nb[1]);
        try {
            compute_row((const float *) ((const char *) logits->data + row*logits->nb[1]), logits->ne[0], k, out);
        } catch (const std::bad_alloc &) { // nothing may leave a thread of the backend's: a row without candidates
            std::fill_n(out,     k, -INFINITY);
            std::fill_n(out + k, k, -1.0f);
        }
    }
}
