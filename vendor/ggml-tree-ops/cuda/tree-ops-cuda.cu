// The tree ops (ggml-tree-ops.h) on an NVIDIA GPU.
//
// Every node goes through the same rounded operations as in ggml-cuda's chain kernels: a sum over a column of the state is
// taken by as many lanes, in the same order, and what the compiler contracts there is contracted here. The results are
// equal bit for bit. tests/test-tree-ops.cpp --backend CUDA0 checks it.
//
// Parents and paths are read by the kernels, never by the host: a captured CUDA graph can be replayed for any tree of as
// many nodes.
#include "tree-ops-cuda.cuh"

#include "ggml-cuda/unary.cuh"
#include "ggml-tree-ops.h"
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

// Rows of k or q: of head h % n_heads, sequence s / seqs_per_seq. Strides are in floats, from node to node in bytes (and in
// 32 bits: one instruction an address).
struct key_rows {
    const float * first;
    int64_t       head_stride, seq_stride;
    int32_t       node_stride;
    uint32_t      n_heads, seqs_per_seq;
};

struct delta_net_args {
    key_rows        q, k; // no q where no attention is computed
    const float *   v;
    int64_t         v_head_stride, v_seq_stride;
    int32_t         v_node_stride;
    const float *   g;    // contiguous, as the rest
    const float *   beta;
    const float *   state;
    const int32_t * indices; // parents, or the path
    float *         dst;
    int32_t         n_tokens;
    int32_t         n_path;
    int32_t         n_shared_ints; // before the slots: the visits
    float           scale;
};

// Without this the compiler works out the address of a head's rows anew for every node, in some 40 instructions.
template <class T> static __device__ __forceinline__ void keep(T *& address) {
    asm volatile("" : "+l"(address));
    __builtin_assume(__isGlobal(address));
}

// `stride` is in bytes.
static __device__ __forceinline__ const float * at_node(const float * first, int32_t node, int32_t stride) {
    return (const float *) ((const char *) first + (int64_t) node*stride);
}

static __device__ const float * row_of(const key_rows & rows, uint32_t head, uint32_t seq) {
    return rows.first + head % rows.n_heads*rows.head_stride + seq/rows.seqs_per_seq*rows.seq_stride;
}

// The rows of one head, at this lane.
template <int ROWS, bool KDA, bool ATTENTION>
struct node_inputs {
    float k[ROWS];
    float q[ATTENTION ? ROWS : 1];
    float g[KDA ? ROWS : 1];
    float v, beta;
};

template <int S, bool KDA, bool ATTENTION>
struct head_rows {
    static constexpr int LANES = S < 32 ? S : 32;
    static constexpr int ROWS  = S/LANES; // of a column, in each lane
    static constexpr int SUMS  = ATTENTION ? 2*COLUMNS : COLUMNS; // over the lanes, in each step
    using inputs = node_inputs<ROWS, KDA, ATTENTION>;

    const float * q;
    const float * k;
    const float * v;
    const float * g;
    const float * beta;
    int32_t       q_stride, k_stride, v_stride, g_stride, beta_stride; // bytes, from node to node

    __device__ head_rows(const delta_net_args & a, int lane, int v_column) {
        const uint32_t head = blockIdx.y, seq = blockIdx.z;
        const int32_t  n_heads = gridDim.y;
        const int64_t  first = (int64_t) seq*a.n_tokens*n_heads + head; // of g and beta
        if constexpr (ATTENTION) {
            q        = row_of(a.q, head, seq) + lane;
            q_stride = a.q.node_stride;
            keep(q);
        }
        k           = row_of(a.k, head, seq) + lane;
        k_stride    = a.k.node_stride;
        v           = a.v + head*a.v_head_stride + seq*a.v_seq_stride + v_column;
        v_stride    = a.v_node_stride;
        g           = a.g + (KDA ? first*S + lane : first);
        g_stride    = n_heads*(KDA ? S : 1)*(int32_t) sizeof(float);
        beta        = a.beta + first;
        beta_stride = n_heads*(int32_t) sizeof(float);
        keep(k);
        keep(v);
        keep(g);
        keep(beta);
    }

    __device__ inputs load(int32_t node) const {
        inputs in;
        const float * k_node = at_node(k, node, k_stride);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            in.k[r] = k_node[r*LANES];
        }
        if constexpr (ATTENTION) {
            const float * q_node = at_node(q, node, q_stride);
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                in.q[r] = q_node[r*LANES];
            }
        }
        const float * g_node = at_node(g, node, g_stride);
#pragma unroll
        for (int r = 0; r < (KDA ? ROWS : 1); r++) {
            in.g[r] = g_node[r*LANES];
        }
        in.v    = *at_node(v, node, v_stride);
        in.beta = *at_node(beta, node, beta_stride);
        return in;
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

    template <int S, int LANES> __device__ void load(const float * columns) {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                s[c][r] = columns[c*S + r*LANES];
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
    __device__ void save(float4 * slot) const {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            slot[r*blockDim.x*blockDim.y] = make_float4(s[0][r], s[1][r], s[2][r], s[3][r]);
        }
    }
    __device__ void restore(const float4 * slot) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const float4 x = slot[r*blockDim.x*blockDim.y];
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

// A block takes COLUMNS * blockDim.y columns of one head through the tree (ATTENTION), or along the path. Groups of LANES
// lanes have COLUMNS columns each and no business with each other but the plan, which the first warp makes for all.
//
// Shared memory: the visits, then the slots of the states that wait; the plan's scratch lies where the slots will be.
template <int S, bool KDA, bool ATTENTION>
static __global__ void __launch_bounds__(128, 4) delta_net_kernel(const delta_net_args a) {
    using rows_t = head_rows<S, KDA, ATTENTION>;
    constexpr int LANES = rows_t::LANES;
    constexpr int ROWS  = rows_t::ROWS;
    constexpr int SUMS  = rows_t::SUMS;

    extern __shared__ float4 shared[];
    __shared__ int32_t n_path_nodes;
    int32_t * visits = (int32_t *) shared;
    float4 *  slots  = shared + a.n_shared_ints/4;

    const int     lane       = threadIdx.x;
    const int     thread     = threadIdx.y*LANES + lane;
    const int     first_col  = (blockIdx.x*blockDim.y + threadIdx.y)*COLUMNS;
    const int     own_col    = first_col + lane/(LANES/SUMS) % COLUMNS; // whose sums this lane ends up with
    const int64_t head       = (int64_t) blockIdx.z*gridDim.y + blockIdx.y; // through all sequences
    const int64_t state_at   = (head*S + first_col)*S + lane;
    const int     slot_size  = ROWS*blockDim.x*blockDim.y;
    const rows_t  rows(a, lane, own_col);

    ggml_cuda_pdl_lc();
    ggml_cuda_pdl_sync();

    state_part<ROWS> state;
    state.template load<S, LANES>(a.state + state_at);

    if (thread < 32) {
        if constexpr (ATTENTION) {
            tree_plan(warp_of_planners { thread }, a.indices + (int64_t) blockIdx.z*a.n_tokens, a.n_tokens, visits, (int32_t *) slots);
        } else {
            const int32_t n = plan_path(a.indices + (int64_t) blockIdx.z*a.n_path, a.n_path, a.n_tokens, visits, thread);
            if (thread == 0) {
                n_path_nodes = n;
            }
        }
    }
    __syncthreads();

    const int32_t n = ATTENTION ? a.n_tokens : n_path_nodes;
    float * out = a.dst + ((int64_t) blockIdx.z*a.n_tokens*gridDim.y + blockIdx.y)*S + own_col; // attention only
    const int32_t out_stride = gridDim.y*S*(int32_t) sizeof(float);
    keep(out);
    const auto store_attention = [=](int32_t node, float sum) {
        if (lane >= LANES/2 && lane % (LANES/SUMS) == 0) {
            *(float *) ((char *) out + (int64_t) node*out_stride) = sum*a.scale;
        }
    };
    slots += thread;

    int32_t                 coming = 0;
    typename rows_t::inputs next   = {};
    if (n > 0) {
        coming = visits[0];
        next   = rows.load(tree_visit_unpack(coming).node);
    }
    float   attention[COLUMNS] = { 0.0f, 0.0f, 0.0f, 0.0f };
    int32_t before             = 0; // the node whose attention that is
    for (int32_t i = 0; i < n; i++) {
        const tree_visit              now = tree_visit_unpack(coming);
        const typename rows_t::inputs in  = next;
        coming = visits[min(i + 1, n - 1)]; // the last node's inputs are loaded twice: cheaper than a branch
        next   = rows.load(tree_visit_unpack(coming).node);
        if (ATTENTION && now.from != tree_visit::PREVIOUS && i > 0) {
            if (now.from == tree_visit::START) {
                state.template load<S, LANES>(a.state + state_at);
            } else {
                state.restore(slots + now.from*slot_size);
            }
        }
        const float sum = step<S, KDA, ATTENTION>(state, attention, in, lane);
        if constexpr (ATTENTION) {
            if (i > 0) {
                store_attention(before, sum);
            }
            before = now.node;
            if (now.to != tree_visit::NOWHERE) {
                state.save(slots + now.to*slot_size);
            }
        }
    }
    if constexpr (ATTENTION) {
        float sums[SUMS] = { 0.0f, 0.0f, 0.0f, 0.0f, attention[0], attention[1], attention[2], attention[3] };
        store_attention(before, sum_over_lanes<LANES>(sums, lane));
    } else {
        state.template store<S, LANES>(a.dst + state_at);
    }
}

// How a delta-net op is laid out on the GPU.
struct delta_net_launch {
    int32_t n_groups = 4; // of lanes, in a block
    int32_t n_shared_ints;
    size_t  n_shared_bytes;

    delta_net_launch(const ggml_tensor * dst) {
        const bool    attention = dst->op == GGML_OP_GATED_DELTA_NET_TREE;
        const int64_t S         = dst->src[attention ? 2 : 1]->ne[0];
        const int64_t n_visits  = attention ? dst->src[2]->ne[2] : dst->src[5]->ne[0];
        n_shared_ints = (int32_t) GGML_PAD(n_visits, 4);
        while (n_groups > 2 && attention && slot_bytes(S, n_visits) + n_shared_ints*sizeof(int32_t) > MAX_SHARED_BYTES) {
            n_groups /= 2;
        }
        const size_t scratch = tree_plan_scratch((int32_t) n_visits)*sizeof(int32_t);
        n_shared_bytes = n_shared_ints*sizeof(int32_t) + (attention ? std::max(slot_bytes(S, n_visits), scratch) : 0);
    }

private:
    size_t slot_bytes(int64_t S, int64_t n_nodes) const {
        return tree_plan_n_slots((int32_t) n_nodes)*S*COLUMNS*n_groups*sizeof(float);
    }
};

static key_rows rows_of_keys(const ggml_tensor * t, const ggml_tensor * v) {
    return { (const float *) t->data, (int64_t) (t->nb[1]/sizeof(float)), (int64_t) (t->nb[3]/sizeof(float)), (int32_t) t->nb[2],
        (uint32_t) t->ne[1], (uint32_t) (v->ne[3]/t->ne[3]) };
}

static delta_net_args args_of(const ggml_tensor * dst, const delta_net_launch & launch) {
    const bool attention = dst->op == GGML_OP_GATED_DELTA_NET_TREE;
    ggml_tensor * const * src = dst->src + (attention ? 1 : 0);
    const ggml_tensor * v = src[1];
    delta_net_args a;
    a.k             = rows_of_keys(src[0], v);
    a.q             = attention ? rows_of_keys(dst->src[0], v) : a.k;
    a.v             = (const float *) v->data;
    a.v_head_stride = v->nb[1]/sizeof(float);
    a.v_node_stride = (int32_t) v->nb[2];
    a.v_seq_stride  = v->nb[3]/sizeof(float);
    a.g             = (const float *) src[2]->data;
    a.beta          = (const float *) src[3]->data;
    a.state         = (const float *) src[4]->data;
    a.indices       = (const int32_t *) src[5]->data;
    a.dst           = (float *) dst->data;
    a.n_tokens      = (int32_t) v->ne[2];
    a.n_path        = (int32_t) src[5]->ne[0];
    a.n_shared_ints = launch.n_shared_ints;
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
    const dim3             blocks(S/(COLUMNS*launch.n_groups), v->ne[1], v->ne[3]);
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
    const bool          grid_fits = v->ne[1] <= 65535 && v->ne[3] <= 65535;
    const bool          plan_fits = v->ne[2] <= 65536 && n_visits <= (attention ? TREE_PLAN_MAX_NODES : MAX_PATH);
    const bool          is_known  = S == 16 || S == 32 || S == 64 || S == 128;
    return is_known && grid_fits && plan_fits && rows_are_near(dst->src[0]) && rows_are_near(dst->src[1]) && rows_are_near(v);
}

// ---------------------------------------------------------------- the convolution

struct conv_args {
    const float *   input;   // [width, n_channels, n_seqs]
    const float *   kernel;  // [D_CONV, n_channels]
    const int32_t * parents; // [n_nodes, n_seqs]
    float *         dst;     // [n_channels, n_nodes, n_seqs]
    int32_t         n_channels;
    int32_t         n_nodes;
    uint3           width_magic;
};

static constexpr int CONV_THREADS = 256;

// In floats, odd: lanes that read the same column of different channels then hit different banks.
TREE_PLAN_ANYWHERE int32_t conv_row_stride(int32_t width) { return width | 1; }

// A block has blockDim.x channels. It reads their rows once, as they lie; then a thread takes every blockDim.y-th node.
template <int D_CONV, bool SILU>
static __global__ void __launch_bounds__(CONV_THREADS) conv_kernel(const conv_args a) {
    extern __shared__ float shared_floats[];
    const int32_t width  = D_CONV - 1 + a.n_nodes;
    const int32_t stride = conv_row_stride(width);
    int32_t * before = (int32_t *) shared_floats; // the column before each column
    float *   rows   = shared_floats + width;

    const int     thread    = threadIdx.y*blockDim.x + threadIdx.x;
    const int     first     = blockIdx.x*blockDim.x;
    const int     n_rows    = min((int) blockDim.x, a.n_channels - first);
    const float * input     = a.input + ((int64_t) blockIdx.y*a.n_channels + first)*width;
    const int32_t * parents = a.parents + (int64_t) blockIdx.y*a.n_nodes;

    ggml_cuda_pdl_lc();
    ggml_cuda_pdl_sync();

    for (int32_t i = thread; i < n_rows*width; i += CONV_THREADS) {
        const uint2 at = fast_div_modulo(i, a.width_magic);
        rows[at.x*stride + at.y] = input[i];
    }
    for (int32_t i = thread; i < width; i += CONV_THREADS) {
        before[i] = tree_column_before(parents, i, D_CONV - 1);
    }
    const int channel = first + threadIdx.x;
    float kernel[D_CONV];
    if (channel < a.n_channels) {
#pragma unroll
        for (int tap = 0; tap < D_CONV; tap++) {
            kernel[tap] = a.kernel[channel*D_CONV + tap];
        }
    }
    __syncthreads();
    if (channel >= a.n_channels) {
        return;
    }

    const float * row = rows + threadIdx.x*stride;
    float *       out = a.dst + (int64_t) blockIdx.y*a.n_nodes*a.n_channels + channel;
    for (int32_t node = threadIdx.y; node < a.n_nodes; node += blockDim.y) {
        float x[D_CONV];
        int32_t column = D_CONV - 1 + node;
#pragma unroll
        for (int tap = D_CONV - 1; tap >= 0; tap--) {
            x[tap] = row[column];
            column = tap > 0 ? before[column] : column;
        }
        float sum = 0.0f;
#pragma unroll
        for (int tap = 0; tap < D_CONV; tap++) {
            sum = fmaf(x[tap], kernel[tap], sum);
        }
        sum += 0.0f; // a bias that is not there, in the chain kernel: no -0
        out[(int64_t) node*a.n_channels] = SILU ? ggml_cuda_op_silu_single(sum) : sum;
    }
}

static size_t conv_shared_bytes(int32_t width, int n_channels) {
    return (width + (size_t) n_channels*conv_row_stride(width))*sizeof(float);
}

template <int D_CONV>
static void start_conv(ggml_backend_cuda_context & ctx, const ggml_tensor * conv, ggml_tensor * dst) {
    const int32_t width = (int32_t) conv->src[0]->ne[0];
    conv_args a;
    a.input       = (const float *) conv->src[0]->data;
    a.kernel      = (const float *) conv->src[1]->data;
    a.parents     = (const int32_t *) conv->src[2]->data;
    a.dst         = (float *) dst->data;
    a.n_channels  = (int32_t) conv->ne[0];
    a.n_nodes     = (int32_t) conv->ne[1];
    a.width_magic = init_fastdiv_values(width);

    int n_channels = 32; // of a block
    while (n_channels > 8 && conv_shared_bytes(width, n_channels) > MAX_SHARED_BYTES) {
        n_channels /= 2;
    }
    const dim3 blocks((a.n_channels + n_channels - 1)/n_channels, conv->ne[2]);
    const ggml_cuda_kernel_launch_params params(blocks, dim3(n_channels, CONV_THREADS/n_channels), conv_shared_bytes(width, n_channels), ctx.stream());
    if (dst == conv) {
        ggml_cuda_kernel_launch(conv_kernel<D_CONV, false>, params, a);
    } else {
        ggml_cuda_kernel_launch(conv_kernel<D_CONV, true>, params, a);
    }
}

// dst: the convolution itself, or the SiLU of it
static void start_conv(ggml_backend_cuda_context & ctx, const ggml_tensor * conv, ggml_tensor * dst) {
    switch (conv->src[1]->ne[0]) {
        case 3:  start_conv<3>(ctx, conv, dst);  break;
        case 4:  start_conv<4>(ctx, conv, dst);  break;
        case 5:  start_conv<5>(ctx, conv, dst);  break;
        case 9:  start_conv<9>(ctx, conv, dst);  break;
        case 15: start_conv<15>(ctx, conv, dst); break;
        default: GGML_ABORT("%s with a kernel of %d, expected 3, 4, 5, 9 or 15", ggml_op_name(conv->op), (int) conv->src[1]->ne[0]);
    }
}

static bool conv_supported(const ggml_tensor * dst) {
    const int64_t d_conv    = dst->src[1]->ne[0];
    const bool    is_known  = d_conv == 3 || d_conv == 4 || d_conv == 5 || d_conv == 9 || d_conv == 15;
    const bool    grid_fits = dst->ne[2] <= 65535 && dst->ne[0] <= INT32_MAX/d_conv;
    return is_known && grid_fits && dst->ne[1] <= TREE_PLAN_MAX_NODES;
}

// ---------------------------------------------------------------- what ggml-cuda.cu calls

bool ggml_cuda_tree_op_supported(const ggml_tensor * dst) {
    switch (dst->op) {
        case GGML_OP_SSM_CONV_TREE:                return conv_supported(dst);
        case GGML_OP_GATED_DELTA_NET_TREE:
        case GGML_OP_GATED_DELTA_NET_TREE_PERSIST: return delta_net_supported(dst);
        default:                                   return false;
    }
}

bool ggml_cuda_tree_op_compute(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    switch (dst->op) {
        case GGML_OP_SSM_CONV_TREE:                start_conv(ctx, dst, dst);         return true;
        case GGML_OP_GATED_DELTA_NET_TREE:         start_delta_net<true>(ctx, dst);   return true;
        case GGML_OP_GATED_DELTA_NET_TREE_PERSIST: start_delta_net<false>(ctx, dst);  return true;
        default:                                   return false;
    }
}

static bool overlap(const ggml_tensor * a, const ggml_tensor * b) {
    const char * a_first = (const char *) a->data;
    const char * b_first = (const char *) b->data;
    return a_first < b_first + ggml_nbytes(b) && b_first < a_first + ggml_nbytes(a);
}

// A convolution and its SiLU. The SiLU may have been given memory that the convolution's inputs had.
static bool is_conv_with_silu(const ggml_cgraph * graph, int i) {
    if (!ggml_can_fuse(graph, i, { GGML_OP_SSM_CONV_TREE, GGML_OP_UNARY }) || ggml_get_unary_op(graph->nodes[i + 1]) != GGML_UNARY_OP_SILU) {
        return false;
    }
    const ggml_tensor * conv = graph->nodes[i];
    const ggml_tensor * silu = graph->nodes[i + 1];
    const bool free = !overlap(silu, conv->src[0]) && !overlap(silu, conv->src[1]) && !overlap(silu, conv->src[2]);
    return free && silu->type == GGML_TYPE_F32 && ggml_is_contiguous(silu);
}

int ggml_cuda_tree_op_try_fuse(ggml_backend_cuda_context & ctx, const ggml_cgraph * graph, int i) {
    if (is_conv_with_silu(graph, i)) {
        start_conv(ctx, graph->nodes[i], graph->nodes[i + 1]);
        return 1;
    }
    return ggml_cuda_fuse_small_copies(ctx, graph, i);
}
