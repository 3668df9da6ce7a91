// See llama-tree-streams.h.

#include "llama-tree-streams.h"

#include "llama-batch.h"
#include "llama-graph.h"

#include <algorithm>
#include <map>
#include <memory>

// Without a unified cache sequence s has stream s.
llama_tree_rows::llama_tree_rows(const llama_ubatch & ubatch) : n_rows(0), place(ubatch.n_tokens) {
    std::map<llama_seq_id, int32_t> n_nodes;
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        place[i] = n_nodes[ubatch.seq_id[i][0]]++;
        n_rows   = std::max(n_rows, place[i] + 1);
    }
    first_stream = n_nodes.begin()->first;
    n_streams    = n_nodes.rbegin()->first - first_stream + 1;

    nodes.assign(n_streams*n_rows, 0);
    for (uint32_t i = 0; i < ubatch.n_tokens; ++i) {
        place[i] += (ubatch.seq_id[i][0] - first_stream)*n_rows;
        nodes[place[i]] = (int32_t) i;
    }
}

llama_ubatch llama_tree_pick(const llama_ubatch & ubatch, const std::vector<int32_t> & tokens) {
    const uint32_t n_tokens = (uint32_t) tokens.size();
    auto data = std::make_shared<llama_ubatch::data_t>();
    data->seq_idx.assign(LLAMA_MAX_SEQ, -1);
    for (const int32_t i : tokens) {
        data->token   .push_back(ubatch.token[i]);
        data->n_seq_id.push_back(ubatch.n_seq_id[i]);
        data->seq_id  .push_back(ubatch.seq_id[i]);
        data->output  .push_back(ubatch.output[i]);

        int32_t & idx = data->seq_idx[ubatch.seq_id[i][0]];
        if (idx < 0) {
            idx = (int32_t) data->seq_id_unq.size();
            data->seq_id_unq.push_back(ubatch.seq_id[i][0]);
        }
    }
    for (uint32_t d = 0; d < ubatch.n_pos; ++d) {
        for (const int32_t i : tokens) {
            data->pos.push_back(ubatch.pos[d*ubatch.n_tokens + i]);
        }
    }
    llama_ubatch res = ubatch;
    res.tree         = false;
    res.n_tokens     = n_tokens;
    res.n_seq_tokens = n_tokens;
    res.n_seqs       = 1;
    res.n_seqs_unq   = (uint32_t) data->seq_id_unq.size();
    res.token        = data->token.data();
    res.pos          = data->pos.data();
    res.n_seq_id     = data->n_seq_id.data();
    res.seq_id       = data->seq_id.data();
    res.seq_id_unq   = data->seq_id_unq.data();
    res.seq_idx      = data->seq_idx.data();
    res.output       = data->output.data();
    res.data         = std::move(data); // the sequence ids themselves stay the ubatch's
    return res;
}

//
// in a graph
//

namespace {
class input_tree_rows : public llm_graph_input_i {
public:
    explicit input_tree_rows(const llama_tree_row_inputs & inputs) : inputs(inputs) {}

    void set_input(const llama_ubatch * ubatch) override {
        const llama_tree_rows rows(*ubatch);
        ggml_backend_tensor_set(inputs.nodes, rows.nodes.data(), 0, ggml_nbytes(inputs.nodes));
        ggml_backend_tensor_set(inputs.place, rows.place.data(), 0, ggml_nbytes(inputs.place));
    }

    // the mask's shape and the sequences were compared
    bool can_reuse(const llm_graph_params & params) override { return params.ubatch.n_tokens == inputs.place->ne[0]; }

private:
    const llama_tree_row_inputs inputs;
};
}

static ggml_tensor * new_indices(ggml_context * ctx, size_t n, const char * name) {
    ggml_tensor * res = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, n);
    ggml_set_input(res);
    ggml_set_name(res, name);
    return res;
}

std::pair<int64_t, int64_t> llama_tree_streams(const llama_ubatch & ubatch, bool unified) {
    if (unified || !ubatch.tree) {
        return { ubatch.n_tokens, unified ? 1 : ubatch.n_seqs_unq };
    }
    const llama_tree_rows rows(ubatch);
    return { (int64_t) rows.n_streams*rows.n_rows, rows.n_streams };
}


ggml_tensor * llama_tree_spread(const llm_graph_context & graph, ggml_tensor * q, int64_t n_stream) {
    if (!graph.ubatch.tree || n_stream == 1) {
        return q;
    }
    auto & inputs = graph.res->tree_rows;
    if (!inputs.nodes) {
        const llama_tree_rows rows(graph.ubatch);
        inputs.nodes = new_indices(graph.ctx0, rows.nodes.size(), "tree_rows_nodes");
        inputs.place = new_indices(graph.ctx0, rows.place.size(), "tree_rows_place");
        graph.res->add_input(std::make_unique<input_tree_rows>(inputs));
    }
    const bool one_row = q->nb[1] == q->ne[0]*q->nb[0]; // the heads of a token
    q = one_row ? q : ggml_cont(graph.ctx0, q);
    ggml_tensor * tokens = ggml_view_2d(graph.ctx0, q, q->ne[0]*q->ne[1], q->ne[2], q->nb[2], 0);
    return ggml_reshape_3d(graph.ctx0, ggml_get_rows(graph.ctx0, tokens, inputs.nodes), q->ne[0], q->ne[1], inputs.nodes->ne[0]);
}

ggml_tensor * llama_tree_gather(const llm_graph_context & graph, ggml_tensor * cur, int64_t n_stream) {
    return graph.ubatch.tree && n_stream > 1 ? ggml_get_rows(graph.ctx0, cur, graph.res->tree_rows.place) : cur;
}
