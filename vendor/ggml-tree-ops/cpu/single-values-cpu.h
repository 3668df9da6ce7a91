// Fills and scatters of tensors whose rows are a single value each, as a drafter's logits over a reduced vocabulary are when
// they become logits over the target's: upstream finds every row by divisions and calls a function for it.
#pragma once

#include "ggml-cpu-impl.h"
#include "ggml.h"

// Fills a contiguous tensor of floats; false if dst is none.
static inline bool ggml_fill_contiguous(const ggml_compute_params * params, ggml_tensor * dst, float value) {
    if (dst->type != GGML_TYPE_F32 || !ggml_is_contiguous(dst)) {
        return false;
    }
    const int64_t n = ggml_nelements(dst), to = n*(params->ith + 1)/params->nth;
    float *       x = (float *) dst->data;
    for (int64_t i = n*params->ith/params->nth; i < to; ++i) {
        x[i] = value;
    }
    return true;
}

// SET_ROWS of floats where a row is one value; false if these are others. INDEX: the type of the indices.
template <typename INDEX> static bool ggml_set_single_values(const ggml_compute_params * params, ggml_tensor * dst) {
    const ggml_tensor * values = dst->src[0], * indices = dst->src[1];
    if (dst->ne[0] != 1 || values->type != GGML_TYPE_F32 || dst->type != GGML_TYPE_F32) {
        return false;
    }
    const int64_t n = values->ne[1], from = n*params->ith/params->nth, to = n*(params->ith + 1)/params->nth;
    for (int64_t i3 = 0; i3 < values->ne[3]; ++i3) {
        for (int64_t i2 = 0; i2 < values->ne[2]; ++i2) {
            const char * value = (const char *) values->data + i2*values->nb[2] + i3*values->nb[3];
            const char * index = (const char *) indices->data + i2 % indices->ne[1]*indices->nb[1] + i3 % indices->ne[2]*indices->nb[2];
            char *       out   = (char *) dst->data + i2*dst->nb[2] + i3*dst->nb[3];
            for (int64_t i = from; i < to; ++i) {
                const int64_t row = *(const INDEX *) (index + i*indices->nb[0]);
                GGML_ASSERT(row >= 0 && row < dst->ne[1]);
                *(float *) (out + row*dst->nb[1]) = *(const float *) (value + i*values->nb[1]);
            }
        }
    }
    return true;
}
