// The trees of a forest and what is pending of them, shared by llama-tree*.cpp and the hooks that patches/ adds to llama.cpp.
#pragma once

#include "llama.h"

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

struct ggml_tensor;
struct llama_batch_ext;
struct llama_context;
struct llama_memory_i;

// One sequence's tree. Its nodes are numbered twice: by their index in the batch, and by their place among the tree's own.
struct llama_tree {
    llama_seq_id seq_id = 0;
    llama_pos    n_past = 0;

    std::vector<int32_t> nodes;   // [n_nodes] indices in the batch, ascending; what follows goes by place
    std::vector<int32_t> parents; // [n_nodes], -1 for the root
    std::vector<int32_t> depth;   // [n_nodes], 0 for the root

    llama_tree(llama_seq_id seq_id, llama_pos n_past) : seq_id(seq_id), n_past(n_past) {}

    int32_t n_nodes() const { return (int32_t) nodes.size(); }

    // Append a node, whose parent (an index in the batch) was appended before; -1: the root.
    void add(int32_t node, int32_t parent);

    // The place of a node of the batch, or -1 if it is none of this tree.
    int32_t place_of(int32_t node) const;

    // Call once all nodes are there.
    void finish();

    // true if the node at place j is the one at place i or one of its ancestors
    bool sees(int32_t i, int32_t j) const { return visible[(size_t) i*nodes.size() + j]; }

private:
    std::vector<bool> visible; // [n_nodes * n_nodes]
};

using llama_tree_ptr = std::shared_ptr<const llama_tree>;

// The trees of one batch.
struct llama_forest {
    std::vector<llama_tree_ptr> trees;
    std::vector<int32_t>        parents; // [n_nodes] indices in the batch, -1 for roots

    int32_t n_nodes() const { return (int32_t) parents.size(); }
};

using llama_forest_ptr = std::shared_ptr<const llama_forest>;

// The trees that wait for their commit or discard.
using llama_pending_trees = std::map<llama_seq_id, llama_tree_ptr>;

// A memory's own bookkeeping at the beginning and the end of a forest's decode. The latter needs no memory.
void llama_forest_enter(llama_memory_i & mem, const llama_forest_ptr & forest);
void llama_forest_leave(llama_memory_i & mem, bool decoded);

//
// errors, as llama_tree_last_error() tells them
//

#ifdef __GNUC__
__attribute__((format(printf, 1, 2)))
#endif
int32_t llama_tree_fail(const char * format, ...); // returns -1

// Used by the C API entry points: true if a call touches a pending tree, after recording and logging that `func` was
// refused. Without a sequence, or with one below 0, it touches all of them.
bool llama_tree_refuses(const llama_memory_i * mem, const char * func);
bool llama_tree_refuses(const llama_memory_i * mem, llama_seq_id seq_id, const char * func);
bool llama_tree_refuses(const llama_memory_i * mem, const llama_batch_ext & batch, const char * func);

// Makes a forest of a batch and its parents, or says what is wrong with them and returns null.
llama_forest_ptr llama_forest_of(llama_context & ctx, const llama_batch & batch, const int32_t * parents);

// What needs the context's own members: it is a friend.
struct llama_tree_compute {
    static int32_t commit(llama_context * ctx, llama_seq_id seq_id, const std::vector<int32_t> & path);

    // Drop the sequence: its pending tree and everything before it.
    static void remove_sequence(llama_context * ctx, llama_seq_id seq_id);

    // Have the graph keep the last layer's output of every token: `whole` if that takes another graph than upstream's.
    // Returns false, with everything as before, if it can't be had.
    static bool expose_output(llama_context * ctx, bool whole);

    // The logits of the last decode's last graph, where they were computed, or NULL. Valid until the context's next call.
    static ggml_tensor * last_logits(llama_context * ctx);

    // Likewise its outputs' hidden states [n_embd, n_outputs], after the final norm.
    static ggml_tensor * last_embd(llama_context * ctx);
};
