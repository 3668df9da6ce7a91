// The tree ops (ggml-tree-ops.h) on the CPU.
//
// Bit for bit equality with the chain ops comes from using the same functions of ggml on the same rows, in the same
// order: ggml_vec_* for the recurrence, upstream's own op for the convolution. Nothing is allocated here: scratch is
// a slice of params->wdata for each thread.
#include "tree-ops-cpu.h"

#include "ggml-tree-ops.h"

#include "ops.h"
#include "vec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// ---------------------------------------------------------------- scratch and threads

// Rows of a state that are taken through all nodes at once: few enough (4 KB) that the states of a branch stay in L1, and
// many enough that q and k, read again for every block, cost little.
static constexpr int64_t MAX_ROWS_PER_BLOCK = 64;

static int64_t rows_per_block(int64_t head_size) {
    return std::min(head_size, std::max<int64_t>(8, std::min(MAX_ROWS_PER_BLOCK, 1024/head_size)));
}

// Nodes and channels whose convolution windows are gathered at once.
static constexpr int64_t NODES_PER_BLOCK    = 64;
static constexpr int64_t CHANNELS_PER_BLOCK = 32;

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

// Calls process(first, last) for ranges that cover [0, n) between all threads, as upstream's delta net does: four ranges
// a thread, taken by whoever is free.
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

// The number of the state that a root starts from.
static int32_t state_of_root(const int32_t * parents, int32_t root) {
    return parents[root] < 0 ? -1 - parents[root] : 0;
}

// The entries of a path that are nodes, in their order. Returns how many.
static int64_t nodes_of_path(const int32_t * path, int64_t n_path, int64_t n_tokens, int32_t * nodes) {
    return std::copy_if(path, path + n_path, nodes, [=](int32_t i) { return i >= 0 && i < n_tokens; }) - nodes;
}

// ---------------------------------------------------------------- the order in which nodes are visited

// One step of the traversal: node's state is made from the one in buffer `from` (-1: its sequence's) in buffer `to`.
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
    const ggml_tensor * states;

    explicit delta_net(const ggml_tensor * dst) {
        const bool attention = dst->op == GGML_OP_GATED_DELTA_NET_TREE;
        ggml_tensor * const * src = dst->src + (attention ? 1 : 0);
        q      = attention ? dst->src[0] : nullptr;
        k      = src[0];
        v      = src[1];
        g      = src[2];
        beta   = src[3];
        states = src[4];
    }

    int64_t head_size() const { return v->ne[0]; }
    int64_t n_heads()   const { return v->ne[1]; }
    int64_t n_tokens()  const { return v->ne[2]; }
    int64_t gate_size() const { return g->ne[0]; } // 1, or head_size
};

// One head in a source: a row for each node.
struct node_rows {
    const char * first;
    size_t       stride; // bytes

    node_rows(const ggml_tensor * t, int64_t head)
        : first((const char *) t->data + (head % t->ne[1])*t->nb[1]), stride(t->nb[2]) {}

    const float * operator[](int64_t node) const { return (const float *) (first + node*stride); }
};

// One head: its part of every source.
struct delta_net_head {
    int64_t       head;
    int64_t       head_size, gate_size;
    float         scale;
    node_rows     k, v, g, beta, q; // q is not used where no attention is computed
    const float * states;           // of this head, of sequence 0
    int64_t       state_stride;     // floats, to the next sequence's
    int64_t       n_states;

    delta_net_head(const delta_net & net, int64_t head)
        : head(head), head_size(net.head_size()), gate_size(net.gate_size()), scale(1.0f / sqrtf((float) head_size)),
          k(net.k, head), v(net.v, head), g(net.g, head), beta(net.beta, head), q(net.q ? net.q : net.k, head),
          states((const float *) net.states->data + head*head_size*head_size), state_stride(net.n_heads()*head_size*head_size),
          n_states(net.states->ne[3]) {}

    // Rows of state `number` from `first` on. `zeros`: as many, for a state that there is not.
    const float * rows_of_state(int32_t number, int64_t first, const float * zeros) const {
        return number >= 0 && number < n_states ? states + number*state_stride + first*head_size : zeros;
    }

    void compute_decay(float * decay, int64_t node) const {
        for (int64_t i = 0; i < gate_size; i++) {
            decay[i] = expf(g[node][i]);
        }
    }
};

// A step is one node's recurrence on rows [first, first + n_rows) of the (transposed) state, from the parent's rows `from`
// to its own, `to`, which may be the same memory. `attention` receives the node's output for these rows; null: not wanted.
// A row depends on no other, so taking some of them through all nodes gives the bits of upstream's passes over all rows.
using step_function = void (*)(const delta_net_head & at, int64_t node, const float * decay, int64_t first, int64_t n_rows, const float * from, float * to, float * attention);

// Upstream's passes, over a few rows.
static void step_in_memory(const delta_net_head & at, int64_t node, const float * decay, int64_t first, int64_t n_rows, const float * from, float * to, float * attention) {
    const int64_t head_size = at.head_size;
    const float   beta      = *at.beta[node];
    const float * k         = at.k[node];
    const float * v         = at.v[node] + first;

    if (from != to) {
        memcpy(to, from, n_rows*head_size*sizeof(float));
    }
    if (at.gate_size > 1) {
        for (int64_t j = 0; j < n_rows; j++) {
            ggml_vec_mul_f32(head_size, to + j*head_size, to + j*head_size, decay);
        }
    } else {
        ggml_vec_scale_f32(n_rows*head_size, to, decay[0]);
    }
    float delta[MAX_ROWS_PER_BLOCK];
    for (int64_t j = 0; j < n_rows; j++) {
        float seen = 0.0f;
        ggml_vec_dot_f32(head_size, &seen, 0, to + j*head_size, 0, k, 0, 1);
        delta[j] = (v[j] - seen) * beta;
    }
    for (int64_t j = 0; j < n_rows; j++) {
        ggml_vec_mad_f32(head_size, to + j*head_size, k, delta[j]);
    }
    for (int64_t j = 0; attention && j < n_rows; j++) {
        float sum = 0.0f;
        ggml_vec_dot_f32(head_size, &sum, 0, to + j*head_size, 0, at.q[node], 0, 1);
        attention[j] = sum * at.scale;
    }
}

// The same, each row in registers, in about half the time. It sums in the order of ggml_vec_dot_f32, that is, of these
// macros where that function is written with them.
#if defined(__AVX__) || defined(__SSE3__) || (defined(__ARM_NEON) && defined(GGML_SIMD) && !defined(__ARM_FEATURE_SVE))
#define ROW_IN_REGISTERS

#ifdef _MSC_VER
#define ALWAYS_INLINE __forceinline
#else
#define ALWAYS_INLINE inline __attribute__((always_inline)) // a call would put the row into memory
#endif

template <int HEAD_SIZE> static ALWAYS_INLINE float dot_with_row(const GGML_F32_VEC * row, const float * x) {
    GGML_F32_VEC sum[GGML_F32_ARR] = { GGML_F32_VEC_ZERO };
    for (int i = 0; i < HEAD_SIZE/GGML_F32_EPR; i += GGML_F32_ARR) {
        for (int j = 0; j < GGML_F32_ARR; j++) {
            sum[j] = GGML_F32_VEC_FMA(sum[j], row[i + j], GGML_F32_VEC_LOAD(x + (i + j)*GGML_F32_EPR));
        }
    }
    float total = 0.0f;
    GGML_F32_VEC_REDUCE(total, sum);
    return total;
}

template <int HEAD_SIZE>
static void step_in_registers(const delta_net_head & at, int64_t node, const float * decay, int64_t first, int64_t n_rows, const float * from, float * to, float * attention) {
    static_assert(HEAD_SIZE % GGML_F32_STEP == 0, "ggml_vec_dot_f32 would have a remainder");
    constexpr int n            = HEAD_SIZE/GGML_F32_EPR;
    const bool    channel_gate = at.gate_size > 1;
    const float   beta         = *at.beta[node];
    const float * k            = at.k[node];
    const float * q            = at.q[node];
    const float * v            = at.v[node] + first;

    for (int64_t j = 0; j < n_rows; j++, from += HEAD_SIZE, to += HEAD_SIZE) {
        GGML_F32_VEC row[n];
        for (int i = 0; i < n; i++) {
            const GGML_F32_VEC factor = channel_gate ? GGML_F32_VEC_LOAD(decay + i*GGML_F32_EPR) : GGML_F32_VEC_SET1(decay[0]);
            row[i] = GGML_F32_VEC_MUL(GGML_F32_VEC_LOAD(from + i*GGML_F32_EPR), factor);
        }
        const float        seen  = dot_with_row<HEAD_SIZE>(row, k);
        const GGML_F32_VEC delta = GGML_F32_VEC_SET1((v[j] - seen) * beta);
        for (int i = 0; i < n; i++) {
            row[i] = GGML_F32_VEC_FMA(row[i], GGML_F32_VEC_LOAD(k + i*GGML_F32_EPR), delta);
        }
        for (int i = 0; i < n; i++) {
            GGML_F32_VEC_STORE(to + i*GGML_F32_EPR, row[i]);
        }
        if (attention) {
            attention[j] = dot_with_row<HEAD_SIZE>(row, q) * at.scale;
        }
    }
}
#endif

static step_function step_for(int64_t head_size) {
#ifdef ROW_IN_REGISTERS
    switch (head_size) {
        case 64:  return step_in_registers<64>;
        case 128: return step_in_registers<128>;
        default:  break;
    }
#endif
    GGML_UNUSED(head_size);
    return step_in_memory;
}

// ---------------------------------------------------------------- ggml_gated_delta_net_tree

// Rows of a state, one block of one head.
static int64_t block_floats(const ggml_tensor * dst) {
    const int64_t head_size = delta_net(dst).head_size();
    return head_size*rows_per_block(head_size);
}

struct delta_net_tree_scratch {
    traversal order;
    float *   decay;  // [gate_size, n_tokens]
    float *   states; // [head_size, rows_per_block, n_buffers]
    float *   zeros;  // [head_size, rows_per_block]

    delta_net_tree_scratch(scratch & memory, const ggml_tensor * dst)
        : order(memory, delta_net(dst).n_tokens()),
          decay(memory.take<float>(delta_net(dst).gate_size() * delta_net(dst).n_tokens())),
          states(memory.take<float>(block_floats(dst) * traversal::n_buffers(delta_net(dst).n_tokens()))),
          zeros(memory.take<float>(block_floats(dst))) {}
};

static void delta_net_tree_head(const delta_net & net, const delta_net_head & at, const int32_t * parents, const delta_net_tree_scratch & work, float * out) {
    const int64_t n_tokens  = net.n_tokens();
    const int64_t head_size = at.head_size;
    const int64_t max_rows  = rows_per_block(head_size);
    const auto    step      = step_for(head_size);

    for (int64_t node = 0; node < n_tokens; node++) {
        at.compute_decay(work.decay + node*at.gate_size, node);
    }
    for (int64_t first = 0; first < head_size; first += max_rows) {
        const int64_t n_rows = std::min(max_rows, head_size - first);
        const auto    buffer = [&](int32_t i) { return work.states + i*max_rows*head_size; };
        for (int64_t i = 0; i < n_tokens; i++) {
            const visit & now       = work.order.visits[i];
            const float * from      = now.from < 0 ? at.rows_of_state(state_of_root(parents, now.node), first, work.zeros) : buffer(now.from);
            float *       attention = out + (now.node*net.n_heads() + at.head)*head_size;
            step(at, now.node, work.decay + now.node*at.gate_size, first, n_rows, from, buffer(now.to), attention + first);
        }
    }
}

void ggml_compute_forward_gated_delta_net_tree(const ggml_compute_params * params, ggml_tensor * dst) {
    const delta_net net(dst);
    const int32_t * parents = (const int32_t *) dst->src[6]->data;
    auto            work    = thread_scratch<delta_net_tree_scratch>(params, dst);

    std::fill_n(work.zeros, block_floats(dst), 0.0f);
    work.order.plan(parents, (int32_t) net.n_tokens());
    split_over_threads(params, net.n_heads(), [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
            delta_net_tree_head(net, delta_net_head(net, i), parents, work, (float *) dst->data);
        }
    });
}

// ---------------------------------------------------------------- the persist ops

// What they know of the sequences whose states they write.
struct persisted {
    const ggml_tensor * dst;
    const ggml_tensor * path;
    const int32_t *     rows;
    int64_t             n_states;
    int64_t             state_size; // floats

    persisted(const ggml_tensor * dst, const ggml_tensor * states, int64_t state_size, const ggml_tensor * path, const ggml_tensor * rows)
        : dst(dst), path(path), rows((const int32_t *) rows->data), n_states(ggml_nelements(states)/state_size), state_size(state_size) {}

    int64_t n_seqs() const { return path->ne[1]; }
    int64_t n_path() const { return path->ne[0]; }

    const int32_t * path_of(int64_t seq) const { return (const int32_t *) path->data + seq*path->ne[0]; }
    int32_t         before(int64_t seq)  const { return rows[2*seq]; }

    // Null: there is no such row.
    float * after(int64_t seq) const {
        const int64_t number = ggml_tree_op_is_inplace(dst) ? rows[2*seq + 1] : seq;
        const bool    exists = !ggml_tree_op_is_inplace(dst) || (number >= 0 && number < n_states);
        return exists ? (float *) dst->data + number*state_size : nullptr;
    }
};

// ---------------------------------------------------------------- ggml_gated_delta_net_tree_persist

struct persist_scratch {
    int32_t * nodes; // [n_path]
    float *   decay; // [gate_size, n_path]
    float *   zeros; // [head_size, rows_per_block]

    persist_scratch(scratch & memory, const ggml_tensor * dst)
        : nodes(memory.take<int32_t>(dst->src[5]->ne[0])),
          decay(memory.take<float>(delta_net(dst).gate_size() * dst->src[5]->ne[0])),
          zeros(memory.take<float>(block_floats(dst))) {}
};

// The state before and the state after may be the same memory: a block of rows is read before it is written.
static void persist_head(const delta_net_head & at, int32_t before, int64_t n_nodes, const persist_scratch & work, float * out) {
    const int64_t head_size = at.head_size;
    const int64_t max_rows  = rows_per_block(head_size);
    const auto    step      = step_for(head_size);

    for (int64_t i = 0; i < n_nodes; i++) {
        at.compute_decay(work.decay + i*at.gate_size, work.nodes[i]);
    }
    for (int64_t first = 0; first < head_size; first += max_rows) {
        const int64_t n_rows = std::min(max_rows, head_size - first);
        const float * from   = at.rows_of_state(before, first, work.zeros);
        float *       to     = out + first*head_size;
        for (int64_t i = 0; i < n_nodes; i++) {
            step(at, work.nodes[i], work.decay + i*at.gate_size, first, n_rows, from, to, nullptr);
            from = to;
        }
        if (from != to) {
            memcpy(to, from, n_rows*head_size*sizeof(float));
        }
    }
}

void ggml_compute_forward_gated_delta_net_tree_persist(const ggml_compute_params * params, ggml_tensor * dst) {
    const delta_net net(dst);
    const persisted states(dst, net.states, ggml_nelements(net.states)/net.states->ne[3], dst->src[5], dst->src[6]);
    const auto      work = thread_scratch<persist_scratch>(params, dst);

    std::fill_n(work.zeros, block_floats(dst), 0.0f);
    split_over_threads(params, net.n_heads() * states.n_seqs(), [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++) {
            const delta_net_head at(net, i % net.n_heads());
            const int64_t seq = i / net.n_heads();
            if (float * out = states.after(seq)) {
                const int64_t n_nodes = nodes_of_path(states.path_of(seq), states.n_path(), net.n_tokens(), work.nodes);
                persist_head(at, states.before(seq), n_nodes, work, out + at.head*at.head_size*at.head_size);
            }
        }
    });
}

// ---------------------------------------------------------------- ggml_ssm_conv_tree

// Where a tap reads: a node's input, or, as -1 - t, the t-th of the inputs that are carried.
struct ssm_conv_tree_scratch {
    int32_t * taps;    // [d_conv, n_tokens]
    int32_t * states;  // [n_tokens] the number of each node's sequence's
    float *   windows; // [d_conv, CHANNELS_PER_BLOCK, NODES_PER_BLOCK]

    ssm_conv_tree_scratch(scratch & memory, const ggml_tensor * dst)
        : taps(memory.take<int32_t>(dst->src[2]->ne[0] * dst->ne[1])), states(memory.take<int32_t>(dst->ne[1])),
          windows(memory.take<float>(dst->src[2]->ne[0] * CHANNELS_PER_BLOCK * NODES_PER_BLOCK)) {}

    // A node's taps are its parent's, moved on by one input; a root's continue the carried ones.
    void plan(const int32_t * parents, int32_t n_tokens, int32_t d_conv) const {
        for (int32_t node = 0; node < n_tokens; node++) {
            const int32_t parent = parent_of(parents, node);
            int32_t *     own    = taps + node*d_conv;
            for (int32_t tap = 0; tap < d_conv - 1; tap++) {
                own[tap] = parent < 0 ? -1 - tap : taps[parent*d_conv + tap + 1];
            }
            own[d_conv - 1] = node;
            states[node]    = parent < 0 ? state_of_root(parents, node) : states[parent];
        }
    }
};

struct conv_block {
    int64_t first_channel, n_channels;
    int64_t first_node, n_nodes;
};

// Where the inputs of a convolution are.
struct conv_inputs {
    const float * nodes;  // a row of channels for each
    int64_t       stride; // floats
    const float * states; // rows of n_carried inputs of each channel
    int64_t       n_carried, state_size, n_states;

    conv_inputs(const ggml_tensor * inputs, const ggml_tensor * states)
        : nodes((const float *) inputs->data), stride(inputs->nb[1]/sizeof(float)), states((const float *) states->data),
          n_carried(states->ne[0]/inputs->ne[0]), state_size(states->ne[0]), n_states(states->ne[1]) {}

    // Null: zeros
    const float * state(int32_t number) const { return number >= 0 && number < n_states ? states + number*state_size : nullptr; }
};

// What one tap reads: the block's channels, `step` floats apart.
struct tap_inputs {
    const float * first;
    int64_t       step;

    tap_inputs(const conv_inputs & from, int32_t tap, const float * state, int64_t channel) {
        static const float zero = 0.0f;
        const bool carried = tap < 0;
        first = !carried ? from.nodes + tap*from.stride + channel : state ? state + channel*from.n_carried + (-1 - tap) : &zero;
        step  = !carried ? 1 : state ? from.n_carried : 0;
    }
};

// Four taps, as all known models have: a window is written at once. STEP 1: all of them are of nodes; 0: any.
template <int STEP>
static void gather_four(float * GGML_RESTRICT windows, const tap_inputs * x, int64_t n_channels) {
    const float * x0 = x[0].first, * x1 = x[1].first, * x2 = x[2].first, * x3 = x[3].first;
    const int64_t s0 = STEP ? STEP : x[0].step, s1 = STEP ? STEP : x[1].step, s2 = STEP ? STEP : x[2].step, s3 = STEP ? STEP : x[3].step;
    for (int64_t channel = 0; channel < n_channels; channel++) {
        windows[4*channel + 0] = x0[channel*s0];
        windows[4*channel + 1] = x1[channel*s1];
        windows[4*channel + 2] = x2[channel*s2];
        windows[4*channel + 3] = x3[channel*s3];
    }
}

// The windows of one node, [d_conv, n_channels].
static void gather_node(float * GGML_RESTRICT windows, const int32_t * taps, int64_t d_conv, const conv_inputs & from, const float * state, const conv_block & block) {
    const auto inputs_of = [&](int64_t tap) { return tap_inputs(from, taps[tap], state, block.first_channel); };
    if (d_conv == 4) {
        const tap_inputs x[] = { inputs_of(0), inputs_of(1), inputs_of(2), inputs_of(3) };
        const auto gather = taps[0] >= 0 ? gather_four<1> : gather_four<0>; // the first one is the farthest back
        return gather(windows, x, block.n_channels);
    }
    for (int64_t tap = 0; tap < d_conv; tap++) {
        const tap_inputs x = inputs_of(tap);
        for (int64_t channel = 0; channel < block.n_channels; channel++) {
            windows[channel*d_conv + tap] = x.first[channel*x.step];
        }
    }
}

// windows [d_conv, n_channels, n_nodes]
static void gather_windows(const ssm_conv_tree_scratch & work, const conv_inputs & from, int64_t d_conv, const conv_block & block) {
    for (int64_t i = 0; i < block.n_nodes; i++) {
        const int64_t node = block.first_node + i;
        gather_node(work.windows + i*block.n_channels*d_conv, work.taps + node*d_conv, d_conv, from, from.state(work.states[node]), block);
    }
}

static void set_shape(ggml_tensor & t, int64_t ne0, int64_t ne1, int64_t ne2, size_t nb1, size_t nb2) {
    t.ne[0] = ne0;
    t.ne[1] = ne1;
    t.ne[2] = ne2;
    t.ne[3] = 1;
    t.nb[0] = sizeof(float);
    t.nb[1] = nb1;
    t.nb[2] = nb2;
    t.nb[3] = nb2*ne2;
}

// Upstream's op computes the block, as a sequence of one token for each node. A loop of our own would not do: compilers
// vectorise and contract that sum as they like, so only the same code gives the same bits everywhere.
static void convolve(const ggml_compute_params * params, const ssm_conv_tree_scratch & work, ggml_tensor * dst, const conv_block & block) {
    const ggml_tensor * kernel = dst->src[2];
    const int64_t       d_conv = kernel->ne[0];

    ggml_tensor input = *dst->src[0];
    ggml_tensor part  = *kernel;
    ggml_tensor out   = *dst;
    input.data = work.windows;
    part.data  = (char *) kernel->data + block.first_channel*kernel->nb[1];
    part.ne[1] = block.n_channels;
    out.data   = (char *) dst->data + block.first_node*dst->nb[1] + block.first_channel*dst->nb[0];
    out.src[0] = &input;
    out.src[1] = &part;
    set_shape(input, d_conv, block.n_channels, block.n_nodes, d_conv*sizeof(float), d_conv*block.n_channels*sizeof(float));
    set_shape(out, block.n_channels, 1, block.n_nodes, dst->nb[1], dst->nb[1]);

    ggml_compute_params alone = *params;
    alone.ith = 0;
    alone.nth = 1;
    ggml_compute_forward_ssm_conv(&alone, &out);
}

// This thread's part of n things: equal parts, all known beforehand, which costs no barrier (as upstream).
static void part_of_thread(const ggml_compute_params * params, int64_t n, int64_t & first, int64_t & last) {
    const int64_t n_of_thread = (n + params->nth - 1)/params->nth;
    first = n_of_thread*params->ith;
    last  = std::min(first + n_of_thread, n);
}

void ggml_compute_forward_ssm_conv_tree(const ggml_compute_params * params, ggml_tensor * dst) {
    const conv_inputs   inputs(dst->src[0], dst->src[1]);
    const int64_t       d_conv   = dst->src[2]->ne[0];
    const int64_t       d_inner  = dst->ne[0];
    const int64_t       n_tokens = dst->ne[1];
    const auto          work     = thread_scratch<ssm_conv_tree_scratch>(params, dst);

    int64_t first, last; // blocks of channels
    part_of_thread(params, (d_inner + CHANNELS_PER_BLOCK - 1) / CHANNELS_PER_BLOCK, first, last);
    if (first >= last) {
        return;
    }
    work.plan((const int32_t *) dst->src[3]->data, (int32_t) n_tokens, (int32_t) d_conv);
    for (int64_t i = first; i < last; i++) {
        conv_block block;
        block.first_channel = i * CHANNELS_PER_BLOCK;
        block.n_channels    = std::min(CHANNELS_PER_BLOCK, d_inner - block.first_channel);
        for (block.first_node = 0; block.first_node < n_tokens; block.first_node += NODES_PER_BLOCK) {
            block.n_nodes = std::min(NODES_PER_BLOCK, n_tokens - block.first_node);
            gather_windows(work, inputs, d_conv, block);
            convolve(params, work, dst, block);
        }
    }
}

// ---------------------------------------------------------------- ggml_ssm_conv_tree_persist

struct persist_conv_scratch {
    int32_t * nodes; // [n_path]

    persist_conv_scratch(scratch & memory, const ggml_tensor * dst) : nodes(memory.take<int32_t>(dst->src[2]->ne[0])) {}
};

// The state before and the state after may be the same memory: what is read lies at or after what is written.
static void persist_channels(const conv_inputs & inputs, int32_t before, const int32_t * nodes, int64_t n_nodes, int64_t first, int64_t last, float * out) {
    const float * state = inputs.state(before);
    for (int64_t channel = first; channel < last; channel++) {
        const int64_t at = channel*inputs.n_carried;
        for (int64_t t = 0; t < inputs.n_carried; t++) {
            const int64_t from = t + n_nodes - inputs.n_carried; // of the path, if it is not before it
            out[at + t] = from >= 0 ? inputs.nodes[nodes[from]*inputs.stride + channel] : state ? state[at + t + n_nodes] : 0.0f;
        }
    }
}

void ggml_compute_forward_ssm_conv_tree_persist(const ggml_compute_params * params, ggml_tensor * dst) {
    const conv_inputs inputs(dst->src[0], dst->src[1]);
    const persisted   states(dst, dst->src[1], dst->src[1]->ne[0], dst->src[2], dst->src[3]);
    const auto        work = thread_scratch<persist_conv_scratch>(params, dst);

    int64_t first, last; // channels
    part_of_thread(params, dst->src[0]->ne[0], first, last);
    for (int64_t seq = 0; seq < states.n_seqs(); seq++) {
        if (float * out = states.after(seq)) {
            const int64_t n_nodes = nodes_of_path(states.path_of(seq), states.n_path(), dst->src[0]->ne[1], work.nodes);
            persist_channels(inputs, states.before(seq), work.nodes, n_nodes, first, last, out);
        }
    }
}

// ---------------------------------------------------------------- work size

size_t ggml_tree_op_work_size(const ggml_tensor * dst, int n_tasks) {
    scratch counted;
    switch (dst->op) {
        case GGML_OP_SSM_CONV_TREE:                ssm_conv_tree_scratch(counted, dst);  break;
        case GGML_OP_SSM_CONV_TREE_PERSIST:        persist_conv_scratch(counted, dst);   break;
        case GGML_OP_GATED_DELTA_NET_TREE:         delta_net_tree_scratch(counted, dst); break;
        case GGML_OP_GATED_DELTA_NET_TREE_PERSIST: persist_scratch(counted, dst);        break;
        default:                                   GGML_ABORT("not a tree op: %s", ggml_op_name(dst->op));
    }
    return counted.size() * n_tasks;
}
