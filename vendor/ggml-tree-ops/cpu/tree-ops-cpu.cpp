// The tree ops (ggml-tree-ops.h) on the CPU.
//
// Bit for bit equality with the chain ops comes from using the same functions of ggml on the same rows, in the same
// order: ggml_vec_* for the recurrence, upstream's own op for the convolution. Nothing is allocated here: scratch is
// a slice of params->wdata for each thread.
#include "tree-ops-cpu.h"

#include "ops.h"
#include "vec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// ---------------------------------------------------------------- scratch and threads

// Rows of a state that are taken through all nodes at once: few enough that the states of a branch stay in L1, and many
// enough that q and k, read again for every block, cost little.
static constexpr int64_t ROWS_PER_BLOCK = 16;

// Nodes and channels whose convolution windows are gathered at once.
static constexpr int64_t NODES_PER_BLOCK    = 32;
static constexpr int64_t CHANNELS_PER_BLOCK = 64;

// Hands out parts of a thread's slice of params->wdata. Without memory it only counts.
class scratch {
public:
    explicit scratch(char * memory = nullptr) : memory(memory) {}

    template <typename T> T * take(int64_t n) {
        T * part = memory ? reinterpret_cast<T *>(memory + n_bytes) : nullptr;
        n_bytes += GGML_PAD(n * sizeof(T), CACHE_LINE_SIZE);
        return part;
    }

    size_t size() const { return n_bytes; }

private:
    char * memory;
    size_t n_bytes = 0;
};

// The scratch of this thread, laid out as a `T`.
template <typename T> static T thread_scratch(const ggml_compute_params * params, const ggml_tensor * dst) {
    scratch counted;
    T(counted, dst);
    scratch slice((char *) params->wdata + params->ith * counted.size());
    return T(slice, dst);
}

// Calls process(first, last) for ranges that cover [0, n) between all threads, as upstream's op does: four ranges a
// thread, taken by whoever is free.
template <typename F> static void split_over_threads(const ggml_compute_params * params, int64_t n, F process) {
    const int64_t nth        = params->nth;
    const int64_t chunk_size = (n + 4*nth - 1) / (4*nth);
    int64_t       n_chunks   = (n + chunk_size - 1) / chunk_size;
    if (nth == 1 || n_chunks < nth || ggml_is_numa()) {
        n_chunks = nth;
    }
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    const int64_t step = (n + n_chunks - 1) / n_chunks;
    for (int64_t chunk = params->ith; chunk < n_chunks; chunk = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        process(step * chunk, std::min(step * (chunk + 1), n));
    }
}

static int32_t parent_of(const int32_t * parents, int32_t node) {
    return parents[node] >= 0 && parents[node] < node ? parents[node] : -1;
}

// ---------------------------------------------------------------- the order in which nodes are visited

// One step of the traversal: node's state is made from the one in buffer `from` (-1: the initial state) in buffer `to`.
struct visit {
    int32_t node;
    int32_t from;
    int32_t to;
};

// Depth first, each node's largest subtree last and in the parent's own buffer, the others in the next buffer. A subtree
// that needs a buffer of its own is then smaller than half of what it hangs on, so floor(log2(n_tokens + 1)) are enough.
struct traversal {
    int32_t * subtree_size;
    int32_t * largest_child;
    int32_t * next_place; // where a node's next child goes in `visits`
    int32_t * place;
    visit   * visits;

    traversal(scratch & memory, int64_t n_tokens)
        : subtree_size(memory.take<int32_t>(n_tokens)), largest_child(memory.take<int32_t>(n_tokens)),
          next_place(memory.take<int32_t>(n_tokens)), place(memory.take<int32_t>(n_tokens)),
          visits(memory.take<visit>(n_tokens)) {}

    static int64_t n_buffers(int64_t n_tokens) {
        int64_t n = 1;
        while ((int64_t(1) << (n + 1)) <= n_tokens + 1) {
            n++;
        }
        return n;
    }

    void plan(const int32_t * parents, int32_t n_tokens) {
        measure_subtrees(parents, n_tokens);
        int32_t next_root_place = 0;
        for (int32_t node = 0; node < n_tokens; node++) {
            const int32_t parent = parent_of(parents, node);
            if (parent < 0) {
                place[node] = next_root_place;
                next_root_place += subtree_size[node];
                visits[place[node]] = { node, -1, 0 };
            } else {
                const int32_t buffer = visits[place[parent]].to;
                if (node == largest_child[parent]) {
                    place[node] = place[parent] + subtree_size[parent] - subtree_size[node];
                    visits[place[node]] = { node, buffer, buffer };
                } else {
                    place[node] = next_place[parent];
                    next_place[parent] += subtree_size[node];
                    visits[place[node]] = { node, buffer, buffer + 1 };
                }
            }
            next_place[node] = place[node] + 1;
        }
    }

private:
    void measure_subtrees(const int32_t * parents, int32_t n_tokens) {
        std::fill_n(subtree_size, n_tokens, 1);
        std::fill_n(largest_child, n_tokens, -1);
        for (int32_t node = n_tokens - 1; node >= 0; node--) { // children come after their parent
            const int32_t parent = parent_of(parents, node);
            if (parent < 0) {
                continue;
            }
            subtree_size[parent] += subtree_size[node];
            int32_t & largest = largest_child[parent];
            if (largest < 0 || subtree_size[largest] < subtree_size[node]) {
                largest = node;
            }
        }
    }
};

// ---------------------------------------------------------------- the recurrence

// The sources of the delta-net ops, by name.
struct delta_net {
    const ggml_tensor * q; // null where no attention is computed
    const ggml_tensor * k;
    const ggml_tensor * v;
    const ggml_tensor * g;
    const ggml_tensor * beta;
    const ggml_tensor * state;

    explicit delta_net(const ggml_tensor * dst) {
        const bool attention = dst->op == GGML_OP_GATED_DELTA_NET_TREE;
        ggml_tensor * const * src = dst->src + (attention ? 1 : 0);
        q     = attention ? dst->src[0] : nullptr;
        k     = src[0];
        v     = src[1];
        g     = src[2];
        beta  = src[3];
        state = src[4];
    }

    int64_t head_size() const { return v->ne[0]; }
    int64_t n_heads()   const { return v->ne[1]; }
    int64_t n_tokens()  const { return v->ne[2]; }
    int64_t n_seqs()    const { return v->ne[3]; }
    int64_t gate_size() const { return g->ne[0]; } // 1, or head_size
};

// One head of one sequence in a source: a row for each node.
struct node_rows {
    const char * first;
    size_t       stride; // bytes

    node_rows(const ggml_tensor * t, int64_t head, int64_t seq, int64_t n_seqs)
        : first((const char *) t->data + (head % t->ne[1])*t->nb[1] + seq/(n_seqs/t->ne[3])*t->nb[3]), stride(t->nb[2]) {}

    const float * operator[](int64_t node) const { return (const float *) (first + node*stride); }
};

// Head `head` of sequence `seq`: its part of every source.
struct delta_net_head {
    int64_t       head, seq;
    int64_t       head_size, gate_size;
    node_rows     k, v, g, beta, q; // q is not used where no attention is computed
    const float * initial_state;

    // heads are numbered through all sequences
    delta_net_head(const delta_net & net, int64_t number)
        : head(number % net.n_heads()), seq(number / net.n_heads()), head_size(net.head_size()), gate_size(net.gate_size()),
          k(net.k, head, seq, net.n_seqs()), v(net.v, head, seq, net.n_seqs()), g(net.g, head, seq, net.n_seqs()),
          beta(net.beta, head, seq, net.n_seqs()), q(net.q ? net.q : net.k, head, seq, net.n_seqs()),
          initial_state((const float *) net.state->data + number*head_size*head_size) {}

    void compute_decay(float * decay, int64_t node) const {
        for (int64_t i = 0; i < gate_size; i++) {
            decay[i] = expf(g[node][i]);
        }
    }
};

// to = from * decay; `from` may be `to`
static void decay_rows(float * to, const float * from, int64_t n_rows, int64_t head_size, const float * decay, bool per_channel) {
    if (per_channel) {
        for (int64_t j = 0; j < n_rows; j++) {
            ggml_vec_mul_f32(head_size, to + j*head_size, from + j*head_size, decay);
        }
    } else if (from == to) {
        ggml_vec_scale_f32(n_rows * head_size, to, decay[0]);
    } else {
        const float * GGML_RESTRICT x = from;
        float       * GGML_RESTRICT y = to;
        for (int64_t i = 0; i < n_rows * head_size; i++) {
            y[i] = x[i] * decay[0];
        }
    }
}

// One node's recurrence on rows [first, first + n_rows) of the state: from the parent's rows `from` to its own, `to`.
// A row of the transposed state depends on no other, so the bits are those of whole passes over the state.
// `attention` receives the node's output for these rows; null: not wanted.
static void step(const delta_net_head & at, int64_t node, const float * decay, int64_t first, int64_t n_rows, const float * from, float * to, float * attention) {
    const int64_t head_size = at.head_size;
    const float   beta      = *at.beta[node];
    const float * k         = at.k[node];
    const float * v         = at.v[node] + first;

    decay_rows(to, from, n_rows, head_size, decay, at.gate_size > 1);

    float delta[ROWS_PER_BLOCK];
    for (int64_t j = 0; j < n_rows; j++) {
        float sum = 0.0f;
        ggml_vec_dot_f32(head_size, &sum, 0, to + j*head_size, 0, k, 0, 1);
        delta[j] = (v[j] - sum) * beta;
    }
    for (int64_t j = 0; j < n_rows; j++) {
        ggml_vec_mad_f32(head_size, to + j*head_size, k, delta[j]);
    }
    if (!attention) {
        return;
    }
    const float * q     = at.q[node];
    const float   scale = 1.0f / sqrtf((float) head_size);
    for (int64_t j = 0; j < n_rows; j++) {
        float sum = 0.0f;
        ggml_vec_dot_f32(head_size, &sum, 0, to + j*head_size, 0, q, 0, 1);
        attention[j] = sum * scale;
    }
}

// ---------------------------------------------------------------- ggml_gated_delta_net_tree

struct delta_net_tree_scratch {
    traversal order;
    float *   decay;  // [gate_size, n_tokens]
    float *   states; // [head_size, ROWS_PER_BLOCK, n_buffers]

    delta_net_tree_scratch(scratch & memory, const ggml_tensor * dst)
        : order(memory, delta_net(dst).n_tokens()),
          decay(memory.take<float>(delta_net(dst).gate_size() * delta_net(dst).n_tokens())),
          states(memory.take<float>(delta_net(dst).head_size() * ROWS_PER_BLOCK * traversal::n_buffers(delta_net(dst).n_tokens()))) {}
};

static void delta_net_tree_head(const delta_net & net, const delta_net_head & at, const delta_net_tree_scratch & work, float * out) {
    const int64_t n_tokens  = net.n_tokens();
    const int64_t head_size = at.head_size;

    for (int64_t node = 0; node < n_tokens; node++) {
        at.compute_decay(work.decay + node*at.gate_size, node);
    }
    for (int64_t first = 0; first < head_size; first += ROWS_PER_BLOCK) {
        const int64_t n_rows = std::min(ROWS_PER_BLOCK, head_size - first);
        const auto    buffer = [&](int32_t i) { return work.states + i*ROWS_PER_BLOCK*head_size; };
        for (int64_t i = 0; i < n_tokens; i++) {
            const visit & now       = work.order.visits[i];
            const float * from      = now.from < 0 ? at.initial_state + first*head_size : buffer(now.from);
            float *       attention = out + ((at.seq*n_tokens + now.node)*net.n_heads() + at.head)*head_size;
            step(at, now.node, work.decay + now.node*at.gate_size, first, n_rows, from, buffer(now.to), attention + first);
        }
    }
}

void ggml_compute_forward_gated_delta_net_tree(const ggml_compute_params * params, ggml_tensor * dst) {
    const delta_net     net(dst);
    const ggml_tensor * parents = dst->src[6];
    auto                work    = thread_scratch<delta_net_tree_scratch>(params, dst);

    int64_t planned_seq = -1;
    split_over_threads(params, net.n_heads() * net.n_seqs(), [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
            const delta_net_head at(net, i);
            if (at.seq != planned_seq) {
                planned_seq = at.seq;
                work.order.plan((const int32_t *) parents->data + at.seq*net.n_tokens(), net.n_tokens());
            }
            delta_net_tree_head(net, at, work, (float *) dst->data);
        }
    });
}

// ---------------------------------------------------------------- ggml_gated_delta_net_tree_persist

struct persist_scratch {
    float * decay; // [gate_size, n_path]

    persist_scratch(scratch & memory, const ggml_tensor * dst)
        : decay(memory.take<float>(delta_net(dst).gate_size() * dst->src[5]->ne[0])) {}
};

// The state before and the state after may be the same memory: a block of rows is read before it is written.
static void persist_head(const delta_net_head & at, const int32_t * path, int64_t n_path, int64_t n_tokens, float * decay, float * out) {
    const int64_t head_size = at.head_size;
    const auto    is_node   = [&](int32_t i) { return i >= 0 && i < n_tokens; };

    for (int64_t i = 0; i < n_path; i++) {
        if (is_node(path[i])) {
            at.compute_decay(decay + i*at.gate_size, path[i]);
        }
    }
    for (int64_t first = 0; first < head_size; first += ROWS_PER_BLOCK) {
        const int64_t n_rows = std::min(ROWS_PER_BLOCK, head_size - first);
        const float * from   = at.initial_state + first*head_size;
        float *       to     = out + first*head_size;
        for (int64_t i = 0; i < n_path; i++) {
            if (is_node(path[i])) {
                step(at, path[i], decay + i*at.gate_size, first, n_rows, from, to, nullptr);
                from = to;
            }
        }
        if (from != to) {
            memcpy(to, from, n_rows*head_size*sizeof(float));
        }
    }
}

void ggml_compute_forward_gated_delta_net_tree_persist(const ggml_compute_params * params, ggml_tensor * dst) {
    const delta_net     net(dst);
    const ggml_tensor * path   = dst->src[5];
    const int64_t       n_path = path->ne[0];
    const auto          work   = thread_scratch<persist_scratch>(params, dst);

    split_over_threads(params, net.n_heads() * net.n_seqs(), [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
            const delta_net_head at(net, i);
            float * out = (float *) dst->data + i*at.head_size*at.head_size;
            persist_head(at, (const int32_t *) path->data + at.seq*n_path, n_path, net.n_tokens(), work.decay, out);
        }
    });
}

// ---------------------------------------------------------------- ggml_ssm_conv_tree

struct ssm_conv_tree_scratch {
    int32_t * columns; // [d_conv, n_tokens]: the columns of conv_input that a node's taps read
    float *   windows; // [d_conv, CHANNELS_PER_BLOCK, NODES_PER_BLOCK]

    ssm_conv_tree_scratch(scratch & memory, const ggml_tensor * dst)
        : columns(memory.take<int32_t>(dst->src[1]->ne[0] * dst->ne[1])),
          windows(memory.take<float>(dst->src[1]->ne[0] * CHANNELS_PER_BLOCK * NODES_PER_BLOCK)) {}
};

// A node's window is its parent's, moved on by one column; a root's continues the carried columns.
static void plan_columns(int32_t * columns, const int32_t * parents, int32_t n_tokens, int32_t d_conv) {
    for (int32_t node = 0; node < n_tokens; node++) {
        const int32_t parent = parent_of(parents, node);
        int32_t *     own    = columns + node*d_conv;
        for (int32_t tap = 0; tap < d_conv - 1; tap++) {
            own[tap] = parent < 0 ? tap : columns[parent*d_conv + tap + 1];
        }
        own[d_conv - 1] = d_conv - 1 + node;
    }
}

struct conv_block {
    int64_t seq;
    int64_t first_channel, n_channels;
    int64_t first_node, n_nodes;
};

static void gather_windows(float * windows, const int32_t * columns, const ggml_tensor * conv_input, int64_t d_conv, const conv_block & block) {
    for (int64_t node = block.first_node; node < block.first_node + block.n_nodes; node++) {
        const char * row = (const char *) conv_input->data + block.seq*conv_input->nb[2] + block.first_channel*conv_input->nb[1];
        for (int64_t channel = 0; channel < block.n_channels; channel++, row += conv_input->nb[1]) {
            for (int64_t tap = 0; tap < d_conv; tap++) {
                *windows++ = ((const float *) row)[columns[node*d_conv + tap]];
            }
        }
    }
}

// Upstream's op over the gathered windows, each as a sequence of one token. A loop of our own would not do: compilers
// vectorise and contract that sum as they like, so only the same code gives the same bits everywhere.
static void convolve_windows(const ggml_compute_params * params, float * windows, ggml_tensor * dst, const conv_block & block) {
    const ggml_tensor * kernel = dst->src[1];
    const size_t        window = kernel->ne[0]*sizeof(float);

    ggml_tensor input = {};
    input.type  = GGML_TYPE_F32;
    input.data  = windows;
    input.ne[0] = kernel->ne[0];
    input.ne[1] = block.n_channels;
    input.ne[2] = block.n_nodes;
    input.ne[3] = 1;
    input.nb[0] = sizeof(float);
    input.nb[1] = window;
    input.nb[2] = window*block.n_channels;
    input.nb[3] = window*block.n_channels*block.n_nodes;

    ggml_tensor part = *kernel;
    part.data  = (char *) kernel->data + block.first_channel*kernel->nb[1];
    part.ne[1] = block.n_channels;

    ggml_tensor out = *dst;
    out.data   = (char *) dst->data + block.seq*dst->nb[2] + block.first_node*dst->nb[1] + block.first_channel*dst->nb[0];
    out.ne[0]  = block.n_channels;
    out.ne[1]  = 1;
    out.ne[2]  = block.n_nodes;
    out.ne[3]  = 1;
    out.nb[2]  = dst->nb[1];
    out.src[0] = &input;
    out.src[1] = &part;

    ggml_compute_params alone = *params;
    alone.ith = 0;
    alone.nth = 1;
    ggml_compute_forward_ssm_conv(&alone, &out);
}

void ggml_compute_forward_ssm_conv_tree(const ggml_compute_params * params, ggml_tensor * dst) {
    const ggml_tensor * conv_input = dst->src[0];
    const ggml_tensor * parents    = dst->src[2];
    const int64_t       d_conv     = dst->src[1]->ne[0];
    const int64_t       d_inner    = dst->ne[0];
    const int64_t       n_tokens   = dst->ne[1];
    const int64_t       n_seqs     = dst->ne[2];
    const int64_t       n_blocks   = (d_inner + CHANNELS_PER_BLOCK - 1) / CHANNELS_PER_BLOCK; // of channels
    const auto          work       = thread_scratch<ssm_conv_tree_scratch>(params, dst);

    int64_t planned_seq = -1;
    split_over_threads(params, n_blocks * n_seqs, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
            conv_block block;
            block.seq           = i / n_blocks;
            block.first_channel = i % n_blocks * CHANNELS_PER_BLOCK;
            block.n_channels    = std::min(CHANNELS_PER_BLOCK, d_inner - block.first_channel);
            if (block.seq != planned_seq) {
                planned_seq = block.seq;
                plan_columns(work.columns, (const int32_t *) parents->data + block.seq*n_tokens, n_tokens, d_conv);
            }
            for (block.first_node = 0; block.first_node < n_tokens; block.first_node += NODES_PER_BLOCK) {
                block.n_nodes = std::min(NODES_PER_BLOCK, n_tokens - block.first_node);
                gather_windows(work.windows, work.columns, conv_input, d_conv, block);
                convolve_windows(params, work.windows, dst, block);
            }
        }
    });
}

// ---------------------------------------------------------------- work size

size_t ggml_tree_op_work_size(const ggml_tensor * dst, int n_tasks) {
    scratch counted;
    switch (dst->op) {
        case GGML_OP_SSM_CONV_TREE:                ssm_conv_tree_scratch(counted, dst);  break;
        case GGML_OP_GATED_DELTA_NET_TREE:         delta_net_tree_scratch(counted, dst); break;
        case GGML_OP_GATED_DELTA_NET_TREE_PERSIST: persist_scratch(counted, dst);        break;
        default:                                   GGML_ABORT("not a tree op: %s", ggml_op_name(dst->op));
    }
    return counted.size() * n_tasks;
}
