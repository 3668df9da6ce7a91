// MUL_MAT and MUL_MAT_ID with weights in the interleaved form, on all threads of a graph.
#pragma once

#include "ggml-cpu-impl.h"
#include "ggml.h"

namespace rows {

// Whether a tensor of weights can be interleaved: its type has a kernel in this build, its rows are whole blocks.
bool can_hold(const ggml_tensor * weights);

// Whether the op's weights (src[0], interleaved) can be multiplied with its activations.
bool can_compute(const ggml_tensor * op);

size_t work_size(const ggml_tensor * op);
void   compute(const ggml_compute_params * params, ggml_tensor * op);

// Bytes of the interleaved weights.
size_t bytes(const ggml_tensor * weights);

// From the file's form at `data` into weights->data, and back; `offset` and `size` in the file's form, any part of the tensor.
void set(ggml_tensor * weights, const void * data, size_t offset, size_t size);
void get(const ggml_tensor * weights, void * data, size_t offset, size_t size);

} // namespace rows
