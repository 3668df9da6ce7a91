// Flash attention of fewer queries than make a tile, added up so that a query's result depends neither on the other queries
// nor on the number of threads: over *parts* of the cells that the query sees, 256 in each, and then over the parts in order.
//
// The cells are counted as the query sees them: a node of a tree has the same parts as the same token has in plain decoding,
// where no other branch's cells lie between.
#pragma once

#include "ggml-cpu-impl.h"
#include "ggml.h"

#ifdef __cplusplus
extern "C" {
#endif

// Bytes of params->wdata that `dst` needs when n_tasks threads compute it.
size_t ggml_attention_parts_work_size(const struct ggml_tensor * dst, int n_tasks);

#ifdef __cplusplus
}

// upstream's attention of rows [ir0, ir1) over cells [ic_start, ic_end), which writes M, S and the sum of row ir to
// partials + ir*partial_stride; its scratch is at the start of params->wdata
typedef void (*ggml_attention_chunk_t)(const ggml_compute_params * params, ggml_tensor * dst, int ir0, int ir1, int64_t ic_start,
                                       int64_t ic_end, float * partials, int64_t partial_stride);

// Computes dst, or returns false where upstream's own ways already have these properties (few cells, quantised caches) or
// are better (many queries). n_tile: the number of queries from which on upstream computes tiles.
bool ggml_attention_in_parts(const ggml_compute_params * params, ggml_tensor * dst, int n_tile, ggml_attention_chunk_t chunk);
#endif
