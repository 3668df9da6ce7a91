// The inputs of a target's layers ("features") for every architecture: taken where a graph names the output of a layer,
// "l_out", if the model does not set them itself (llm_graph_result::t_layer_inp).
#pragma once

#include <vector>

struct ggml_tensor;
struct llm_graph_context;
struct llm_graph_params;
class llm_graph_result;

// What has been seen of a graph while it was built. Part of llm_graph_result.
struct llama_layer_outputs {
    ggml_tensor *              embeddings = nullptr;   // what enters layer 0
    std::vector<ggml_tensor *> of_layer;               // by layer; null where a layer named none
    ggml_tensor *              out_ids    = nullptr;   // I32 [n_outputs] rows that the output head needs
    bool                       cut        = false;     // rows were cut by llama_tree_cut_rows()
    int                        n_tree_layers = 0;      // recurrent layers that can compute the nodes of a tree
};

//
// hooks in llama-graph.cpp
//

// Of llm_graph_context::cb().
void llama_tree_note_layer(const llm_graph_context & graph, ggml_tensor * cur, const char * name, int il);

// Graphs leave rows that are no outputs out of the last layer, and its output then lacks tokens. While a drafter reads that
// output (cparams.whole_last_layer), they get the ids of all rows instead, and the rows are cut before the final norm.
ggml_tensor * llama_tree_all_rows(const llm_graph_context & graph, ggml_tensor * out_ids);
ggml_tensor * llama_tree_cut_rows(const llm_graph_context & graph, ggml_tensor * cur, int il);

// Fill in what the model has not set of res.t_layer_inp.
void llama_tree_set_layer_inputs(llm_graph_result & res, const llm_graph_params & params);
