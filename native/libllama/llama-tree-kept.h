// What the recurrent layers (Gated DeltaNet, arXiv 2412.06464) keep of a forest, and the commit that uses it.
//
// A recurrent state can't be cut back, so verifying never writes one: the tree ops of vendor/ggml-tree-ops compute every
// node from its parent's state on the fly. What the states would be made of is kept instead, a few tens of KB per node
// and layer against megabytes for a state, and a commit runs the recurrence once more over the accepted path alone
// (state-free verification: SpecLA, arXiv 2607.16673).
#pragma once

#include "llama-memory-recurrent.h"

#include "ggml-cpp.h"

#include <cstdint>
#include <vector>

struct llama_context;

class llama_tree_kept {
public:
    // The inputs of every node in one layer, by index in the batch. S: head size, H_k and H_v: heads of keys and of values
    struct layer {
        ggml_tensor * conv = nullptr; // [channels, n_nodes] inputs of the convolution
        ggml_tensor * k    = nullptr; // [S, H_k, n_nodes]
        ggml_tensor * v    = nullptr; // [S, H_v, n_nodes]
        ggml_tensor * g    = nullptr; // [1, H_v, n_nodes]
        ggml_tensor * beta = nullptr; // [1, H_v, n_nodes]
    };

    // Throws std::runtime_error if there is no memory for it.
    llama_tree_kept(const llama_memory_recurrent & mem, const llama_context & lctx, int32_t n_nodes);

    const layer & at(int il) const { return layers[il]; }
    int32_t       n_nodes()  const { return n_nodes_max; }
    size_t        n_bytes()  const;

    // Before the first commit. Returns false if there is no memory for its graph.
    bool prepare();

    // Advance the state in row `src` of every recurrent layer (-1: a state of zeros) over the path's nodes and store it in
    // row `dst`. Throws if computing it failed.
    void commit(int32_t src, int32_t dst, const std::vector<int32_t> & path);

private:
    void allocate(ggml_backend_buffer_type_t buft, const std::vector<int> & ils, int64_t n_key_heads);
    void build_state(int il);
    void build_conv_state(int il);
    void build_store(ggml_tensor * states, ggml_tensor * in_place, ggml_tensor * next);

    const llama_memory_recurrent & mem;
    const llama_hparams          & hparams;
    const int32_t                  n_nodes_max;

    std::vector<layer> layers;
    std::vector<std::pair<ggml_context_ptr, ggml_backend_buffer_ptr>> ctxs_bufs;

    // the commit's graph: the same for every sequence and path
    ggml_backend_sched_ptr sched;
    ggml_context_ptr       ctx;
    ggml_cgraph          * gf       = nullptr;
    ggml_tensor          * inp_path = nullptr; // I32 [n_nodes] the path's nodes, then -1
    ggml_tensor          * inp_rows = nullptr; // I32 [2] src, dst
};
