// Forests over several streams: where each sequence has a KV cache of its own (kv_unified = false), attention takes as many
// tokens of every stream, from the first stream to the last. A forest's trees have as many nodes as they have, so their
// queries are spread over rows of equal length for attention alone, and what it returns is gathered again.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

struct ggml_tensor;
struct llama_ubatch;
struct llm_graph_context;

// Where the nodes go: n_streams*n_rows places, n_rows for each stream.
struct llama_tree_rows {
    int32_t first_stream, n_streams, n_rows;

    std::vector<int32_t> nodes; // [n_streams*n_rows] whose query is there; where no node is, any
    std::vector<int32_t> place; // [n_tokens] of each node

    explicit llama_tree_rows(const llama_ubatch & ubatch);
};

// These tokens of a forest as a batch of one stream, or, in places, of several: no forest any more.
llama_ubatch llama_tree_pick(const llama_ubatch & ubatch, const std::vector<int32_t> & tokens);

// Inputs of a graph, null where it needs none.
struct llama_tree_row_inputs {
    ggml_tensor * nodes = nullptr; // I32 [n_streams*n_rows]
    ggml_tensor * place = nullptr; // I32 [n_tokens]
};

//
// hooks in llama-graph.cpp
//

// Tokens and streams that attention sees: of any ubatch.
std::pair<int64_t, int64_t> llama_tree_streams(const llama_ubatch & ubatch, bool unified);

// q [head size, heads, n_tokens], for k of n_stream streams
ggml_tensor * llama_tree_spread(const llm_graph_context & graph, ggml_tensor * q, int64_t n_stream);

// cur [n, places], what attention returned
ggml_tensor * llama_tree_gather(const llm_graph_context & graph, ggml_tensor * cur, int64_t n_stream);
