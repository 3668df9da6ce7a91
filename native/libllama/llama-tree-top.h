// Outputs of a context whose logits stay where they were computed: only the best entries of every row come to the host,
// a whole row when somebody asks for it. C API: llama_tree_set_top() in llama-tree.h.
#pragma once

#include "ggml-backend.h"

#include <cstdint>
#include <vector>

class llm_graph_result;

class llama_top_outputs {
public:
    int32_t n_top = 0; // entries of every row: n log-probabilities, or for -n logits; 0: whole rows are copied to the host, as upstream does

    // Append the op to a graph that was just built.
    void build(llm_graph_result & res) const;

    // The logits of the last forward are about to be overwritten.
    void forget();

    // After the forward of a batch's only ubatch: fetch the best entries. Returns false if there are none to fetch, and
    // then the rows are to be copied as ever.
    bool take(const llm_graph_result & res, ggml_backend_sched_t sched, int64_t n_rows);

    // Row i on the host, at `row`: copies it on the first call.
    void fetch(int64_t i, float * row);
    void fetch_all(float * rows);

    // Entries of row i: log-probabilities or logits, then as many indices. Null if the last forward left none.
    const float * entries(int64_t i) const;

private:
    ggml_tensor       * logits = nullptr; // [n_vocab, n_rows]
    std::vector<bool>   fetched;
    std::vector<float>  top;              // [2*|n_top|, n_rows]
};
