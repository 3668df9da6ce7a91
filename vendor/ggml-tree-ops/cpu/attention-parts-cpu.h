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

// Computes dst, or returns false where upstream's own ways already have these properties (quantised caches) or are better (many
// queries). n_tile: the number of queries from which on upstream computes tiles.
bool ggml_attention_in_parts(const struct ggml_compute_params * params, struct ggml_tensor * dst, int n_tile);

#ifdef __cplusplus
}
#endif
