// The pending tree of a memory module, shared by llama-tree.cpp and the hooks that patches/ adds to llama.cpp.
#pragma once

#include "llama.h"

#include <cstdint>
#include <memory>
#include <vector>

struct ggml_tensor;
struct llama_context;
struct llama_memory_i;

struct llama_tree {
    llama_seq_id seq_id = 0;
    llama_pos    n_past = 0;

    std::vector<int32_t> parents; // [n_nodes], -1 for the root
    std::vector<int32_t> depth;   // [n_nodes], 0 for the root

    llama_tree(llama_seq_id seq_id, llama_pos n_past, const int32_t * parents, int32_t n_nodes);

    int32_t n_nodes() const { return (int32_t) parents.size(); }

    // true if j is i or one of its ancestors
    bool sees(int32_t i, int32_t j) const { return visible[(size_t) i*parents.size() + j]; }

private:
    std::vector<bool> visible; // [n_nodes * n_nodes]
};

using llama_tree_ptr = std::shared_ptr<const llama_tree>;

// Used by the C API entry points: true if `mem` holds a pending tree, after recording and logging that `func` was refused.
bool llama_tree_refuses(const llama_memory_i * mem, const char * func);

// What needs the context's own members: it is a friend.
struct llama_tree_compute {
    static int32_t commit(llama_context * ctx, const std::vector<int32_t> & path);

    // Drop the pending tree and everything before it.
    static void remove_sequence(llama_context * ctx);

    // Have the graph keep the last layer's output of every token: `whole` if that takes another graph than upstream's.
    // Returns false, with everything as before, if it can't be had.
    static bool expose_output(llama_context * ctx, bool whole);

    // The logits of the last decode's last graph, where they were computed, or NULL. Valid until the context's next call.
    static ggml_tensor * last_logits(llama_context * ctx);

    // Likewise its outputs' hidden states [n_embd, n_outputs], after the final norm.
    static ggml_tensor * last_embd(llama_context * ctx);
};
