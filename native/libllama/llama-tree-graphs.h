// Graphs of our own beside a context's.
#pragma once

#include "ggml-backend.h"

#include <cstddef>

struct llama_context;

// A scheduler of graphs of up to n_graph tensors on the context's own backends: what it computes comes after what the
// context has computed, and before what that computes next.
ggml_backend_sched_t llama_tree_new_sched(const llama_context & lctx, size_t n_graph);
