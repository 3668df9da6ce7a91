// The tree ops (ggml-tree-ops.h) on an NVIDIA GPU.
//
// Every node goes through the same rounded operations as in ggml-cuda's chain kernels: a sum over a column of the state is
// taken by as many lanes, in the same order, and what the compiler contracts there is contracted here. The results are
// equal bit for bit. tests/test-tree-ops.cpp --backend CUDA0 checks it.
//
// Parents and paths are read by the kernels, never by the host: a captured CUDA graph can be replayed for any tree of as
// many nodes.
#include "tree-ops-cuda.cuh"

#include "ggml-cuda/cp-async.cuh"
#include "ggml-cuda/unary.cuh"
#include "ggml-tree-ops.h"
#include "few-rows-products-cuda.cuh"
#include "small-copies-cuda.cuh"
#include "tree-plan.h"

#include <algorithm>

// More would need the opt-in of every kernel, and leave room for fewer blocks.
static constexpr size_t MAX_SHARED_BYTES = 48*1024;

// The first warp of a block, for tree_plan.
struct warp_of_planners {
    int32_t lane;

    template <class F> __device__ void each(int32_t n, F f) const {
        for (int32_t i = lane; i < n; i += 32) {
            f(i);
        }
        __syncwarp();
    }
    template <class F> __device__ bool any(int32_t n, F f) const {
        bool found = false;
        for (int32_t i = lane; i < n; i += 32) {
            found |= f(i);
        }
        __syncwarp();
        return __any_sync(0xffffffff, found);
    }
    __device__ int32_t add(int32_t * p, int32_t x) const { return atomicAdd(p, x); }
    __device__ void maximum(int32_t * p, int32_t x) const { atomicMax(p, x); }
};

// ---------------------------------------------------------------- the recurrence

// Columns of the state that a group of lanes takes through the tree: they share k and q, and their sums.
static constexpr int COLUMNS = 4;

// Nodes whose inputs are copied to shared memory at a time, while those before are computed. Three take longer than a load
// from the L2 cache; with more, two blocks instead of three would fit on GPUs with 100 KB of shared memory.
static constexpr int MAX_CHUNK = 3, MIN_CHUNK = 2;

// Floats of a node there, before the block's columns of v: k, q for attention, g, beta.
static constexpr int inputs_before_v(int S, bool kda, bool attention) { return S + (attention ? S : 0) + (kda ? S : 1) + 1; }

// Rows of k or q: of head h % n_heads. The stride is in floats, from node to node in bytes (and in 32 bits: one instruction
// an address).
struct key_rows {
    const float * first;
    int64_t       head_stride;
    int32_t       node_stride;
    uint32_t      n_heads;
};

struct delta_net_args {
    key_rows        q, k; // no q where no attention is computed
    const float *   v;
    int64_t         v_head_stride;
    int32_t         v_node_stride;
    const float *   g;    // contiguous, as the rest
    const float *   beta;
    const float *   states;
    const int32_t * indices; // parents, or the paths, one a sequence
    const int32_t * rows;    // of states: [2, n_seqs], of persist only
    float *         dst;
    bool            in_place;
    int32_t         n_states;
    int32_t         n_tokens;
    int32_t         n_path;
    int32_t         inputs_at, slots_at; // in the shared memory, in float4
    int32_t         n_inputs; // floats, of a node
    int32_t         chunk;    // nodes
    float           scale;
};

// Without this the compiler works out the address of a head's rows anew for every node, in some 40 instructions.
template <class T> static __device__ __forceinline__ void keep(T *& address) {
    asm volatile("" : "+l"(address));
    __builtin_assume(__isGlobal(address));
}

// The same for the slots and the distance of their parts, else worked out again for every state that is saved.
static __device__ __forceinline__ void keep_shared(float4 *& address, int32_t & stride) {
    asm volatile("" : "+l"(address), "+r"(stride));
    __builtin_assume(__isShared(address));
}

// `stride` is in bytes.
static __device__ __forceinline__ const float * at_node(const float * first, int32_t node, int32_t stride) {
    return (const float *) ((const char *) first + (int64_t) node*stride);
}

static __device__ const float * row_of(const key_rows & rows, uint32_t head) {
    return rows.first + head % rows.n_heads*rows.head_stride;
}

// From global to shared memory. From Ampere on it only starts here, and has ended after wait_for_copies().
static __device__ __forceinline__ void start_copy(float * to, const float * from) {
#ifdef CP_ASYNC_AVAILABLE
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" : : "r"(ggml_cuda_cvta_generic_to_shared(to)), "l"(from) : "memory");
#else
    *to = *from;
#endif // CP_ASYNC_AVAILABLE
}

// Those of this thread.
static __device__ __forceinline__ void wait_for_copies() {
#ifdef CP_ASYNC_AVAILABLE
    cp_async_wait_all();
#endif // CP_ASYNC_AVAILABLE
}

// What a lane needs of a node.
template <int ROWS, bool KDA, bool ATTENTION>
struct node_inputs {
    float k[ROWS];
    float q[ATTENTION ? ROWS : 1];
    float g[KDA ? ROWS : 1];
    float v, beta;
};

// The inputs of one head: where they are, and how they lie in shared memory.
template <int S, bool KDA, bool ATTENTION>
struct head_rows {
    static constexpr int LANES = S < 32 ? S : 32;
    static constexpr int ROWS  = S/LANES; // of a column, in each lane
    static constexpr int SUMS  = ATTENTION ? 2*COLUMNS : COLUMNS; // over the lanes, in each step
    using inputs = node_inputs<ROWS, KDA, ATTENTION>;

    // k is first
    static constexpr int Q_AT    = S;
    static constexpr int G_AT    = Q_AT + (ATTENTION ? S : 0);
    static constexpr int V_AT    = inputs_before_v(S, KDA, ATTENTION);
    static constexpr int BETA_AT = V_AT - 1;

    // q, k, v and the row of g: at this thread's place in its warp
    const float * q;
    const float * k;
    const float * v;
    const float * g;
    const float * beta;
    int32_t       q_stride, k_stride, v_stride, g_stride, beta_stride; // bytes, from node to node

    __device__ head_rows(const delta_net_args & a, int32_t thread) {
        const uint32_t head    = blockIdx.y;
        const int32_t  n_heads = gridDim.y;
        const int32_t  at      = thread % 32;
        if constexpr (ATTENTION) {
            q        = row_of(a.q, head) + at;
            q_stride = a.q.node_stride;
            keep(q);
        }
        k           = row_of(a.k, head) + at;
        k_stride    = a.k.node_stride;
        v           = a.v + head*a.v_head_stride + blockIdx.x*blockDim.y*COLUMNS + at;
        v_stride    = a.v_node_stride;
        g           = a.g + (KDA ? head*S + at : head);
        g_stride    = n_heads*(KDA ? S : 1)*(int32_t) sizeof(float);
        beta        = a.beta + head;
        beta_stride = n_heads*(int32_t) sizeof(float);
        keep(k);
        keep(v);
        keep(g);
        keep(beta);
    }

    // Starts to copy the inputs of the visits [first, last), each by one warp.
    __device__ void start_copies(const int32_t * visits, int32_t first, int32_t last, float * to, int32_t n_inputs, int32_t thread) const {
        const int32_t n_warps = LANES*blockDim.y/32;
        for (int32_t i = first + thread/32; i < last; i += n_warps) {
            copy_node(tree_visit_unpack(visits[i]).node, to + (i - first)*n_inputs, thread % 32);
        }
    }

    __device__ static inputs load(const float * from, int lane, int column) {
        inputs in;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            in.k[r] = from[r*LANES + lane];
            if constexpr (ATTENTION) {
                in.q[r] = from[Q_AT + r*LANES + lane];
            }
            if constexpr (KDA) {
                in.g[r] = from[G_AT + r*LANES + lane];
            }
        }
        if constexpr (!KDA) {
            in.g[0] = from[G_AT];
        }
        in.beta = from[BETA_AT];
        in.v    = from[V_AT + column];
        return in;
    }

private:
    __device__ void copy_node(int32_t node, float * to, int32_t at) const {
        copy_row(to + at, at_node(k, node, k_stride), at);
        if constexpr (ATTENTION) {
            copy_row(to + Q_AT + at, at_node(q, node, q_stride), at);
        }
        if constexpr (KDA) {
            copy_row(to + G_AT + at, at_node(g, node, g_stride), at);
        } else if (at == 0) {
            start_copy(to + G_AT, at_node(g, node, g_stride));
        }
        if (at == 0) {
            start_copy(to + BETA_AT, at_node(beta, node, beta_stride));
        }
        if (at < COLUMNS*blockDim.y) {
            start_copy(to + V_AT + at, at_node(v, node, v_stride));
        }
    }

    __device__ static void copy_row(float * to, const float * from, int32_t at) {
#pragma unroll
        for (int i = 0; i < S; i += 32) {
            if (i + at < S) {
                start_copy(to + i, from + i);
            }
        }
    }
};

// Adds up each of N values over all lanes, in the order of warp_reduce_sum. At each exchange half of the lanes go on with
// half of the values: 9 shuffles for 8 values, not 40. Returns the sum that is this lane's: of value lane / (LANES/N).
template <int LANES, int N>
static __device__ __forceinline__ float sum_over_lanes(float (&x)[N], int lane) {
    int n = N;
#pragma unroll
    for (int offset = LANES/2; offset > 0; offset /= 2) {
        if (n == 1) {
            x[0] += __shfl_xor_sync(0xffffffff, x[0], offset, LANES);
            continue;
        }
        n /= 2;
        const bool upper = lane & offset;
#pragma unroll
        for (int i = 0; i < n; i++) {
            x[i] = (upper ? x[n + i] : x[i]) + __shfl_xor_sync(0xffffffff, upper ? x[i] : x[n + i], offset, LANES);
        }
    }
    return x[0];
}

// This lane's rows of its group's columns.
template <int ROWS>
struct state_part {
    float s[COLUMNS][ROWS];

    // Null: zeros
    template <int S, int LANES> __device__ void load(const float * columns) {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                s[c][r] = columns ? columns[c*S + r*LANES] : 0.0f;
            }
        }
    }
    template <int S, int LANES> __device__ void store(float * columns) const {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                columns[c*S + r*LANES] = s[c][r];
            }
        }
    }

    // A slot has ROWS float4 for each thread of the block; neighbouring threads' are neighbours.
    __device__ void save(float4 * slot, int32_t n_threads) const {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            slot[r*n_threads] = make_float4(s[0][r], s[1][r], s[2][r], s[3][r]);
        }
    }
    __device__ void restore(const float4 * slot, int32_t n_threads) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const float4 x = slot[r*n_threads];
            s[0][r] = x.x; s[1][r] = x.y; s[2][r] = x.z; s[3][r] = x.w;
        }
    }
};

// The recurrence of one node: `state` is the parent's before and its own after, `attention` this lane's part of the
// attention, of the node before and of this one. The former is added up together with this node's first sums, so that
// a node waits for the lanes once, not twice. Returns what this lane has of these sums (sum_over_lanes): columns of
// the state, then, in the upper half of the lanes, the attention of the node before. fmaf stands where the compiler
// contracts the chain kernel.
template <int S, bool KDA, bool ATTENTION>
static __device__ __forceinline__ float step(
        state_part<head_rows<S, KDA, ATTENTION>::ROWS> & state, float (&attention)[COLUMNS],
        const typename head_rows<S, KDA, ATTENTION>::inputs & in, int lane) {
    constexpr int LANES = head_rows<S, KDA, ATTENTION>::LANES;
    constexpr int ROWS  = head_rows<S, KDA, ATTENTION>::ROWS;
    constexpr int SUMS  = head_rows<S, KDA, ATTENTION>::SUMS;

    float decay[KDA ? ROWS : 1];
#pragma unroll
    for (int r = 0; r < (KDA ? ROWS : 1); r++) {
        decay[r] = expf(in.g[r]);
    }
    float sums[SUMS];
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        float seen = 0.0f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const float s = KDA ? decay[r]*state.s[c][r] : state.s[c][r];
            seen = fmaf(s, in.k[r], seen);
        }
        sums[c] = seen;
        if constexpr (ATTENTION) {
            sums[COLUMNS + c] = attention[c];
        }
    }
    const float sum   = sum_over_lanes<LANES>(sums, lane);
    const float delta = (KDA ? in.v - sum : fmaf(-decay[0], sum, in.v))*in.beta;

#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
        const float delta_c = __shfl_sync(0xffffffff, delta, c*(LANES/SUMS), LANES);
        attention[c] = 0.0f;
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const float kept = decay[KDA ? r : 0];
            state.s[c][r] = ROWS > 1 ? fmaf(kept, state.s[c][r], in.k[r]*delta_c) : fmaf(in.k[r], delta_c, kept*state.s[c][r]);
            if constexpr (ATTENTION) {
                attention[c] = fmaf(state.s[c][r], in.q[r], attention[c]);
            }
        }
    }
    return sum;
}

// The entries of a path that are nodes, in their order, as visits. Returns how many.
static __device__ int32_t plan_path(const int32_t * path, int32_t n_path, int32_t n_tokens, int32_t * visits, int32_t lane) {
    int32_t n = 0;
    for (int32_t first = 0; first < n_path; first += 32) {
        const int32_t  node  = first + lane < n_path ? path[first + lane] : -1;
        const bool     valid = node >= 0 && node < n_tokens;
        const uint32_t all   = __ballot_sync(0xffffffff, valid);
        if (valid) {
            visits[n + __popc(all & ((1u << lane) - 1))] = tree_visit_pack({ node, tree_visit::PREVIOUS, tree_visit::NOWHERE });
        }
        n += __popc(all);
    }
    return n;
}

// The number of the state that a root starts from.
static __device__ __forceinline__ int32_t state_of_root(const int32_t * parents, int32_t root) {
    return parents[root] < 0 ? -1 - parents[root] : 0;
}

// A block takes COLUMNS * blockDim.y columns of one head through the forest (ATTENTION), or along a path, one block for each
// path. Groups of LANES lanes have COLUMNS columns each. What they share is the plan, which the first warp makes, and the nodes' inputs, which are
// in shared memory before they are needed: a load from global memory takes longer than a node.
//
// Shared memory: the visits, the inputs of two chunks of nodes (one computed, one coming), then the slots of the states that
// wait. The plan's scratch lies where the latter two will be.
template <int S, bool KDA, bool ATTENTION>
static __global__ void __launch_bounds__(128, 4) delta_net_kernel(const delta_net_args a) {
    using rows_t = head_rows<S, KDA, ATTENTION>;
    constexpr int LANES = rows_t::LANES;
    constexpr int ROWS  = rows_t::ROWS;
    constexpr int SUMS  = rows_t::SUMS;

    extern __shared__ float4 shared[];
    __shared__ int32_t n_path_nodes;
    int32_t * visits = (int32_t *) shared;

    const int     lane       = threadIdx.x;
    const int     thread     = threadIdx.y*LANES + lane;
    const int     group_col  = threadIdx.y*COLUMNS; // in the block
    const int     own_col    = group_col + lane/(LANES/SUMS) % COLUMNS; // whose sums this lane ends up with
    const int     block_col  = blockIdx.x*blockDim.y*COLUMNS;
    const int64_t state_at   = ((int64_t) blockIdx.y*S + block_col + group_col)*S + lane; // in each sequence's
    const int64_t state_size = (int64_t) gridDim.y*S*S;
    const auto    state_of   = [=](int32_t number) {
        return number >= 0 && number < a.n_states ? a.states + number*state_size + state_at : nullptr;
    };
    const rows_t  rows(a, thread);

    ggml_cuda_pdl_lc();
    ggml_cuda_pdl_sync();

    state_part<ROWS> state; // node 0 is a root, and most often the first one
    state.template load<S, LANES>(state_of(ATTENTION ? state_of_root(a.indices, 0) : a.rows[2*blockIdx.z]));

    if (thread < 32) {
        if constexpr (ATTENTION) {
            int32_t * scratch = (int32_t *) (shared + a.inputs_at);
            tree_plan(warp_of_planners { thread }, a.indices, a.n_tokens, visits, scratch);
        } else {
            const int32_t n = plan_path(a.indices + (int64_t) blockIdx.z*a.n_path, a.n_path, a.n_tokens, visits, thread);
            if (thread == 0) {
                n_path_nodes = n;
            }
        }
    }
    __syncthreads();

    const int32_t n = ATTENTION ? a.n_tokens : n_path_nodes;
    float * out = a.dst + (int64_t) blockIdx.y*S + block_col + own_col; // attention only
    const int32_t out_stride = gridDim.y*S*(int32_t) sizeof(float);
    keep(out);
    const auto store_attention = [=](int32_t node, float sum) {
        if (lane >= LANES/2 && lane % (LANES/SUMS) == 0) {
            *(float *) ((char *) out + (int64_t) node*out_stride) = sum*a.scale;
        }
    };
    float4 * slots     = shared + a.slots_at + thread;
    int32_t  n_threads = LANES*blockDim.y;
    keep_shared(slots, n_threads);

    float * here  = (float *) (shared + a.inputs_at); // the inputs of this chunk
    float * there = here + a.chunk*a.n_inputs;        // and of the next one
    rows.start_copies(visits, 0, min(a.chunk, n), here, a.n_inputs, thread);

    float   attention[COLUMNS] = { 0.0f, 0.0f, 0.0f, 0.0f };
    int32_t before             = 0; // the node whose attention that is
    for (int32_t first = 0; first < n; first += a.chunk) {
        const int32_t last = min(first + a.chunk, n);
        wait_for_copies();
        __syncthreads(); // now everybody's copies are here, and nobody reads the chunk before any more
        rows.start_copies(visits, last, min(last + a.chunk, n), there, a.n_inputs, thread);

        const float *           from   = here;
        int32_t                 coming = visits[first];
        typename rows_t::inputs in     = rows_t::load(from, lane, own_col);
        for (int32_t i = first; i < last; i++) {
            const tree_visit now = tree_visit_unpack(coming);
            if (ATTENTION && now.from != tree_visit::PREVIOUS && (i > 0 || now.node != 0)) {
                if (now.from == tree_visit::START) {
                    state.template load<S, LANES>(state_of(state_of_root(a.indices, now.node)));
                } else {
                    state.restore(slots + now.from*ROWS*n_threads, n_threads);
                }
            }
            const float sum = step<S, KDA, ATTENTION>(state, attention, in, lane);

            // The chunk's last node is loaded twice: cheaper than a branch.
            const bool more = i + 1 < last;
            from += more ? a.n_inputs : 0;
            in     = rows_t::load(from, lane, own_col);
            coming = visits[more ? i + 1 : i];
            if constexpr (ATTENTION) {
                if (i > 0) {
                    store_attention(before, sum);
                }
                before = now.node;
                if (now.to != tree_visit::NOWHERE) {
                    state.save(slots + now.to*ROWS*n_threads, n_threads);
                }
            }
        }
        float * t = here; here = there; there = t;
    }
    if constexpr (ATTENTION) {
        float sums[SUMS] = { 0.0f, 0.0f, 0.0f, 0.0f, attention[0], attention[1], attention[2], attention[3] };
        store_attention(before, sum_over_lanes<LANES>(sums, lane));
    } else {
        const int32_t number = a.in_place ? a.rows[2*blockIdx.z + 1] : blockIdx.z;
        if (!a.in_place || (number >= 0 && number < a.n_states)) {
            state.template store<S, LANES>(a.dst + number*state_size + state_at);
        }
    }
}

// How a delta-net op is laid out on the GPU: as many groups, then as large chunks, as the shared memory has room for.
struct delta_net_launch {
    int32_t n_groups = 4; // of lanes, in a block
    int32_t chunk    = MAX_CHUNK;
    int32_t n_inputs; // floats, of a node
    int32_t inputs_at, slots_at; // in float4
    size_t  n_shared_bytes;

    delta_net_launch(const ggml_tensor * dst) {
        arrange(dst);
        while (n_shared_bytes > MAX_SHARED_BYTES && (chunk > MIN_CHUNK || n_groups > 2)) {
            if (chunk > MIN_CHUNK) {
                chunk--;
            } else {
                n_groups /= 2;
                chunk = MAX_CHUNK;
            }
            arrange(dst);
        }
    }

private:
    void arrange(const ggml_tensor * dst) {
        const bool    attention = dst->op == GGML_OP_GATED_DELTA_NET_TREE;
        const int32_t S         = (int32_t) dst->src[attention ? 2 : 1]->ne[0];
        const bool    kda       = dst->src[attention ? 3 : 2]->ne[0] > 1;
        const int32_t n_visits  = (int32_t) (attention ? dst->src[2]->ne[2] : dst->src[5]->ne[0]);
        const int32_t n_slots   = attention ? tree_plan_n_slots(n_visits) : 0;
        const int32_t n_scratch = attention ? tree_plan_scratch(n_visits) : 0;
        n_inputs       = inputs_before_v(S, kda, attention) + COLUMNS*n_groups;
        inputs_at      = (n_visits + 3)/4;
        slots_at       = inputs_at + (2*chunk*n_inputs + 3)/4;
        n_shared_bytes = std::max(slots_at + n_slots*S*n_groups, inputs_at + (n_scratch + 3)/4)*sizeof(float4);
    }
};

static key_rows rows_of_keys(const ggml_tensor * t) {
    return { (const float *) t->data, (int64_t) (t->nb[1]/sizeof(float)), (int32_t) t->nb[2], (uint32_t) t->ne[1] };
}

static delta_net_args args_of(const ggml_tensor * dst, const delta_net_launch & launch) {
    const bool attention = dst->op == GGML_OP_GATED_DELTA_NET_TREE;
    ggml_tensor * const * src = dst->src + (attention ? 1 : 0);
    const ggml_tensor * v = src[1];
    delta_net_args a;
    a.k             = rows_of_keys(src[0]);
    a.q             = attention ? rows_of_keys(dst->src[0]) : a.k;
    a.v             = (const float *) v->data;
    a.v_head_stride = v->nb[1]/sizeof(float);
    a.v_node_stride = (int32_t) v->nb[2];
    a.g             = (const float *) src[2]->data;
    a.beta          = (const float *) src[3]->data;
    a.states        = (const float *) src[4]->data;
    a.n_states      = (int32_t) src[4]->ne[3];
    a.indices       = (const int32_t *) src[5]->data;
    a.rows          = attention ? nullptr : (const int32_t *) src[6]->data;
    a.dst           = (float *) dst->data;
    a.in_place      = !attention && ggml_tree_op_is_inplace(dst);
    a.n_tokens      = (int32_t) v->ne[2];
    a.n_path        = (int32_t) src[5]->ne[0];
    a.inputs_at     = launch.inputs_at;
    a.slots_at      = launch.slots_at;
    a.n_inputs      = launch.n_inputs;
    a.chunk         = launch.chunk;
    a.scale         = 1.0f/sqrtf((float) v->ne[0]);
    return a;
}

template <int S, bool ATTENTION>
static void start_delta_net(ggml_backend_cuda_context & ctx, const ggml_tensor * dst) {
    const ggml_tensor *    v = dst->src[ATTENTION ? 2 : 1];
    const ggml_tensor *    g = dst->src[ATTENTION ? 3 : 2];
    const delta_net_launch launch(dst);
    const delta_net_args   args   = args_of(dst, launch);
    constexpr int          lanes  = S < 32 ? S : 32;
    const dim3             blocks(S/(COLUMNS*launch.n_groups), v->ne[1], ATTENTION ? 1 : dst->src[5]->ne[1]);
    const ggml_cuda_kernel_launch_params params(blocks, dim3(lanes, launch.n_groups), launch.n_shared_bytes, ctx.stream());
    if (g->ne[0] > 1) {
        ggml_cuda_kernel_launch(delta_net_kernel<S, true, ATTENTION>, params, args);
    } else {
        ggml_cuda_kernel_launch(delta_net_kernel<S, false, ATTENTION>, params, args);
    }
}

template <bool ATTENTION>
static void start_delta_net(ggml_backend_cuda_context & ctx, const ggml_tensor * dst) {
    switch (dst->src[ATTENTION ? 2 : 1]->ne[0]) {
        case 16:  start_delta_net<16,  ATTENTION>(ctx, dst); break;
        case 32:  start_delta_net<32,  ATTENTION>(ctx, dst); break;
        case 64:  start_delta_net<64,  ATTENTION>(ctx, dst); break;
        case 128: start_delta_net<128, ATTENTION>(ctx, dst); break;
        default:  GGML_ABORT("%s of head size %d, expected 16, 32, 64 or 128", ggml_op_name(dst->op), (int) dst->src[ATTENTION ? 2 : 1]->ne[0]);
    }
}

static constexpr int64_t MAX_PATH = 8192; // entries; bounds the shared memory

static bool rows_are_near(const ggml_tensor * t) {
    return t->nb[2] <= INT32_MAX;
}

static bool delta_net_supported(const ggml_tensor * dst) {
    const bool          attention = dst->op == GGML_OP_GATED_DELTA_NET_TREE;
    const ggml_tensor * v         = dst->src[attention ? 2 : 1];
    const int64_t       S         = v->ne[0];
    const int64_t       n_visits  = attention ? v->ne[2] : dst->src[5]->ne[0];
    const bool          grid_fits = v->ne[1] <= 65535 && (attention || dst->src[5]->ne[1] <= 65535);
    const bool          plan_fits = v->ne[2] <= 65536 && n_visits <= (attention ? TREE_PLAN_MAX_NODES : MAX_PATH);
    const bool          is_known  = S == 16 || S == 32 || S == 64 || S == 128;
    return is_known && grid_fits && plan_fits && rows_are_near(dst->src[0]) && rows_are_near(dst->src[1]) && rows_are_near(v);
}

// ---------------------------------------------------------------- the convolution

struct conv_args {
    const float *   inputs;  // a row of channels for each node
    const float *   states;  // [D_CONV-1, n_channels, n_states]
    const float *   kernel;  // [D_CONV, n_channels]
    const int32_t * parents; // [n_nodes]
    float *         dst;     // [n_channels, n_nodes]
    int64_t         stride;  // floats, from node to node
    int32_t         n_channels;
    int32_t         n_nodes;
    int32_t         n_states;
};

static constexpr int CONV_THREADS = 256;

// What a tap past the root reads: the t-th carried input of a channel of the state that the root names.
template <int D_CONV>
static __device__ float carried_input(const conv_args & a, int32_t root_parent, int channel, int t) {
    const int32_t number = -1 - root_parent;
    return number < a.n_states ? a.states[((int64_t) number*a.n_channels + channel)*(D_CONV - 1) + t] : 0.0f;
}

// A block has blockDim.x channels. It reads their inputs once; then a thread takes every blockDim.y-th node.
template <int D_CONV, bool SILU>
static __global__ void __launch_bounds__(CONV_THREADS) conv_kernel(const conv_args a) {
    extern __shared__ float shared_floats[];
    int32_t * before = (int32_t *) shared_floats; // the parent of each node; below 0: a root's entry
    float *   inputs = shared_floats + a.n_nodes; // [blockDim.x, n_nodes]

    const int thread  = threadIdx.y*blockDim.x + threadIdx.x;
    const int channel = blockIdx.x*blockDim.x + threadIdx.x;

    ggml_cuda_pdl_lc();
    ggml_cuda_pdl_sync();

    for (int32_t i = thread; i < a.n_nodes; i += CONV_THREADS) {
        before[i] = tree_conv_parent(a.parents, i);
    }
    float kernel[D_CONV];
    if (channel < a.n_channels) {
        for (int32_t node = threadIdx.y; node < a.n_nodes; node += blockDim.y) {
            inputs[node*blockDim.x + threadIdx.x] = a.inputs[node*a.stride + channel];
        }
#pragma unroll
        for (int tap = 0; tap < D_CONV; tap++) {
            kernel[tap] = a.kernel[channel*D_CONV + tap];
        }
    }
    __syncthreads();
    if (channel >= a.n_channels) {
        return;
    }

    for (int32_t node = threadIdx.y; node < a.n_nodes; node += blockDim.y) {
        float   x[D_CONV];
        int32_t at     = node;
        int     beyond = 0; // taps past the root
#pragma unroll
        for (int tap = D_CONV - 1; tap >= 0; tap--) {
            if (at >= 0) {
                x[tap] = inputs[at*blockDim.x + threadIdx.x];
                at     = before[at];
            } else {
                beyond++;
                x[tap] = carried_input<D_CONV>(a, at, channel, D_CONV - 1 - beyond);
            }
        }
        float sum = 0.0f;
#pragma unroll
        for (int tap = 0; tap < D_CONV; tap++) {
            sum = fmaf(x[tap], kernel[tap], sum);
        }
        sum += 0.0f; // a bias that is not there, in the chain kernel: no -0
        a.dst[(int64_t) node*a.n_channels + channel] = SILU ? ggml_cuda_op_silu_single(sum) : sum;
    }
}

static size_t conv_shared_bytes(int32_t n_nodes, int n_channels) {
    return (size_t) n_nodes*(1 + n_channels)*sizeof(float);
}

template <int D_CONV>
static void start_conv(ggml_backend_cuda_context & ctx, const ggml_tensor * conv, ggml_tensor * dst) {
    conv_args a;
    a.inputs      = (const float *) conv->src[0]->data;
    a.states      = (const float *) conv->src[1]->data;
    a.kernel      = (const float *) conv->src[2]->data;
    a.parents     = (const int32_t *) conv->src[3]->data;
    a.dst         = (float *) dst->data;
    a.stride      = conv->src[0]->nb[1]/sizeof(float);
    a.n_channels  = (int32_t) conv->ne[0];
    a.n_nodes     = (int32_t) conv->ne[1];
    a.n_states    = (int32_t) conv->src[1]->ne[1];

    int n_channels = 32; // of a block
    while (n_channels > 8 && conv_shared_bytes(a.n_nodes, n_channels) > MAX_SHARED_BYTES) {
        n_channels /= 2;
    }
    const dim3 blocks((a.n_channels + n_channels - 1)/n_channels);
    const ggml_cuda_kernel_launch_params params(blocks, dim3(n_channels, CONV_THREADS/n_channels), conv_shared_bytes(a.n_nodes, n_channels), ctx.stream());
    if (dst == conv) {
        ggml_cuda_kernel_launch(conv_kernel<D_CONV, false>, params, a);
    } else {
        ggml_cuda_kernel_launch(conv_kernel<D_CONV, true>, params, a);
    }
}

// dst: the convolution itself, or the SiLU of it
static void start_conv(ggml_backend_cuda_context & ctx, const ggml_tensor * conv, ggml_tensor * dst) {
    switch (conv->src[2]->ne[0]) {
        case 3:  start_conv<3>(ctx, conv, dst);  break;
        case 4:  start_conv<4>(ctx, conv, dst);  break;
        case 5:  start_conv<5>(ctx, conv, dst);  break;
        case 9:  start_conv<9>(ctx, conv, dst);  break;
        case 15: start_conv<15>(ctx, conv, dst); break;
        default: GGML_ABORT("%s with a kernel of %d, expected 3, 4, 5, 9 or 15", ggml_op_name(conv->op), (int) conv->src[2]->ne[0]);
    }
}

static bool conv_supported(const ggml_tensor * dst) {
    const int64_t d_conv    = dst->src[2]->ne[0];
    const bool    is_known  = d_conv == 3 || d_conv == 4 || d_conv == 5 || d_conv == 9 || d_conv == 15;
    const bool    grid_fits = dst->ne[0] <= INT32_MAX/d_conv;
    return is_known && grid_fits && dst->ne[1] <= TREE_PLAN_MAX_NODES;
}

// ---------------------------------------------------------------- what a convolution carries, after a path

struct conv_persist_args {
    const float *   inputs;
    const float *   states;
    const int32_t * paths;  // [n_path, n_seqs]
    const int32_t * rows;   // [2, n_seqs]
    float *         dst;
    bool            in_place;
    int64_t         stride; // floats, from node to node
    int32_t         n_channels, n_carried, n_states, n_nodes, n_path;
};

// A thread has one channel. What it reads lies at or after what it writes, where both are in the same memory.
static __global__ void __launch_bounds__(CONV_THREADS) conv_persist_kernel(const conv_persist_args a) {
    extern __shared__ int32_t nodes[];
    __shared__ int32_t n_shared;

    ggml_cuda_pdl_lc();
    ggml_cuda_pdl_sync();

    if (threadIdx.x < 32) {
        const int32_t n = plan_path(a.paths + (int64_t) blockIdx.y*a.n_path, a.n_path, a.n_nodes, nodes, threadIdx.x);
        if (threadIdx.x == 0) {
            n_shared = n;
        }
    }
    __syncthreads();

    const int32_t n       = n_shared;
    const int32_t channel = blockIdx.x*blockDim.x + threadIdx.x;
    const int32_t from    = a.rows[2*blockIdx.y];
    const int32_t to      = a.in_place ? a.rows[2*blockIdx.y + 1] : blockIdx.y;
    if (channel >= a.n_channels || (a.in_place && (to < 0 || to >= a.n_states))) {
        return;
    }
    const int64_t state_size = (int64_t) a.n_channels*a.n_carried;
    const int64_t at         = (int64_t) channel*a.n_carried;
    const bool    exists     = from >= 0 && from < a.n_states;
    for (int32_t t = 0; t < a.n_carried; t++) {
        const int32_t i = t + n - a.n_carried; // of the path, if it is not before it
        float x = 0.0f;
        if (i >= 0) {
            x = a.inputs[tree_visit_unpack(nodes[i]).node*a.stride + channel];
        } else if (exists) {
            x = a.states[from*state_size + at + t + n];
        }
        a.dst[to*state_size + at + t] = x;
    }
}

static void start_conv_persist(ggml_backend_cuda_context & ctx, const ggml_tensor * dst) {
    conv_persist_args a;
    a.inputs     = (const float *) dst->src[0]->data;
    a.states     = (const float *) dst->src[1]->data;
    a.paths      = (const int32_t *) dst->src[2]->data;
    a.rows       = (const int32_t *) dst->src[3]->data;
    a.dst        = (float *) dst->data;
    a.in_place   = ggml_tree_op_is_inplace(dst);
    a.stride     = dst->src[0]->nb[1]/sizeof(float);
    a.n_channels = (int32_t) dst->src[0]->ne[0];
    a.n_carried  = (int32_t) (dst->src[1]->ne[0]/dst->src[0]->ne[0]);
    a.n_states   = (int32_t) dst->src[1]->ne[1];
    a.n_nodes    = (int32_t) dst->src[0]->ne[1];
    a.n_path     = (int32_t) dst->src[2]->ne[0];

    const dim3 blocks((a.n_channels + CONV_THREADS - 1)/CONV_THREADS, dst->src[2]->ne[1]);
    const ggml_cuda_kernel_launch_params params(blocks, dim3(CONV_THREADS), a.n_path*sizeof(int32_t), ctx.stream());
    ggml_cuda_kernel_launch(conv_persist_kernel, params, a);
}

static bool conv_persist_supported(const ggml_tensor * dst) {
    return dst->src[0]->ne[1] <= 65536 && dst->src[2]->ne[0] <= MAX_PATH && dst->src[2]->ne[1] <= 65535;
}

// ---------------------------------------------------------------- what ggml-cuda.cu calls

bool ggml_cuda_tree_op_supported(const ggml_tensor * dst) {
    switch (dst->op) {
        case GGML_OP_SSM_CONV_TREE:                return conv_supported(dst);
        case GGML_OP_SSM_CONV_TREE_PERSIST:        return conv_persist_supported(dst);
        case GGML_OP_GATED_DELTA_NET_TREE:
        case GGML_OP_GATED_DELTA_NET_TREE_PERSIST: return delta_net_supported(dst);
        default:                                   return false;
    }
}

bool ggml_cuda_tree_op_compute(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    switch (dst->op) {
        case GGML_OP_SSM_CONV_TREE:                start_conv(ctx, dst, dst);         return true;
        case GGML_OP_SSM_CONV_TREE_PERSIST:        start_conv_persist(ctx, dst);      return true;
        case GGML_OP_GATED_DELTA_NET_TREE:         start_delta_net<true>(ctx, dst);   return true;
        case GGML_OP_GATED_DELTA_NET_TREE_PERSIST: start_delta_net<false>(ctx, dst);  return true;
        default:                                   return false;
    }
}

// A convolution and its SiLU. The SiLU may have been given memory that the convolution's inputs had.
static bool is_conv_with_silu(const ggml_cgraph * graph, int i) {
    if (!ggml_can_fuse(graph, i, { GGML_OP_SSM_CONV_TREE, GGML_OP_UNARY }) || ggml_get_unary_op(graph->nodes[i + 1]) != GGML_UNARY_OP_SILU) {
        return false;
    }
    const ggml_tensor * conv = graph->nodes[i];
    const ggml_tensor * silu = graph->nodes[i + 1];
    const bool free = !overlap(silu, conv->src[0]) && !overlap(silu, conv->src[1]) && !overlap(silu, conv->src[2]) && !overlap(silu, conv->src[3]);
    return free && silu->type == GGML_TYPE_F32 && ggml_is_contiguous(silu);
}

int ggml_cuda_tree_op_try_fuse(ggml_backend_cuda_context & ctx, const ggml_cgraph * graph, int i) {
    if (is_conv_with_silu(graph, i)) {
        start_conv(ctx, graph->nodes[i], graph->nodes[i + 1]);
        return 1;
    }
    if (const int nodes_to_skip = ggml_cuda_fuse_few_rows_products(ctx, graph, i)) {
        return nodes_to_skip;
    }
    return ggml_cuda_fuse_small_copies(ctx, graph, i);
}
