// Inputs of some of a target's layers ("features"), kept on the drafter's device: a decode leaves them here, the drafter's
// graph reads the rows it is told to, and none of them passes through the host. Of a target on RPC workers each layer's stay on
// the worker that computed them, and only the rows that the drafter reads, those of accepted tokens, cross the network. Every
// drafter's context has a store of its own. C API: llama_tree_keep_features() and llama_tree_inject() in llama-tree.h.
#pragma once

#include "ggml-cpp.h"

#include <cstdint>
#include <map>
#include <memory>
#include <utility>
#include <vector>

struct llama_context;
struct llama_model;
struct llm_graph_context;

class llama_feature_store {
public:
    // Room for n_rows inputs of every layer of `layers` of the target, where the drafter's first layer is.
    llama_feature_store(
            const llama_model & target, const llama_context & drafter, const std::vector<int32_t> & layers, int32_t n_rows);

    // The row at which the next decode begins to write. Decodes of more tokens than there are rows after it leave nothing.
    void set_next(int32_t row) { next = row; }
    bool has_room(int64_t n_tokens) const { return next + n_tokens <= n_rows; }
    bool holds(int32_t il) const;

    // Copy a layer's inputs of one ubatch, of tokens token_offset, ... of the batch. Returns false if it is none of the
    // layers or there is no room. The copy is over when `backend` is synchronized.
    bool take(int32_t il, ggml_tensor * input, ggml_backend_t backend, int64_t token_offset, int64_t n_tokens);

    // The rows that the drafter's next graph reads: the fused features of n tokens.
    void set_rows(const int32_t * wanted, int32_t n) { rows.assign(wanted, wanted + n); }
    void set_input(ggml_tensor * dst) const;

    // [n_layers*n_embd, n_tokens], layer after layer in a column
    ggml_tensor * build(llm_graph_context & graph);

private:
    void         allocate(ggml_backend_buffer_type_t buft, const std::vector<size_t> & places, int64_t n_embd);
    ggml_tensor * build_part(llm_graph_context & graph, ggml_tensor * rows, size_t first, size_t last) const;

    int32_t                    n_rows;
    int32_t                    next = 0;
    std::vector<int32_t>       layers;
    std::vector<ggml_tensor *> kept;   // per layer: [n_embd, n_rows]
    std::vector<int32_t>       rows;

    ggml_context_ptr views; // of the copy that is being made
    std::vector<std::pair<ggml_context_ptr, ggml_backend_buffer_ptr>> buffers; // one for each device
};

// Of one target: the stores of its drafters, and who wants which layer's inputs on the host.
class llama_feature_stores {
public:
    // NULL where that drafter's features come with its batches.
    llama_feature_store * of(const llama_context & drafter) const;

    // Returns what of() does from now on.
    llama_feature_store * put(const llama_context & drafter, std::unique_ptr<llama_feature_store> store);

    // One more wants the inputs of layer il, or one less. Returns how many do now.
    int32_t want(int32_t il, int32_t change) { return n_wanted[il] += change; }

    // Copy a layer's inputs to every store that holds that layer. Returns true if nobody wants them on the host too.
    bool take(int32_t il, ggml_tensor * input, ggml_backend_t backend, int64_t token_offset, int64_t n_tokens);

private:
    std::map<const llama_context *, std::unique_ptr<llama_feature_store>> stores;
    std::map<int32_t, int32_t> n_wanted; // drafters by layer
};

// The features of the drafter's graph, or null if they come with the batch.
ggml_tensor * llama_tree_build_features(llm_graph_context & graph, const llama_context * target);
