// Attention whose sums depend on what a query sees alone: the cells that it sees are counted off in parts of 256, in their order,
// whatever lies between them; a thread block adds up each part, another one the parts, in order. No two queries share a sum.
#include "batch-invariant-cuda.cuh"

#include "ggml-cuda/convert.cuh"

#include <algorithm>
#include <cmath>

static constexpr int    PART         = 256;               // cells
static constexpr int    THREADS      = 128;
static constexpr int    WARPS        = THREADS/WARP_SIZE;
static constexpr int    MAX_HEAD     = 1024;
static constexpr size_t MOST_SCRATCH = 64*1024*1024;      // bytes

struct attention {
    const char *  q, * k, * v;
    const char *  mask;    // may be null: every query sees every cell
    const float * sinks;   // may be null
    float *       result;  // [streams][queries][heads][v_size]
    int64_t       q_query, q_head, q_stream, k_cell, k_head, k_stream, v_cell, v_head, v_stream, mask_query, mask_stream; // bytes
    int           k_size, v_size, n_heads, heads_per_kv, n_queries, n_cells, mask_streams, k_type, v_type;
    float         scale, softcap, max_bias, m0, m1;
    uint32_t      n_head_log2;
};

// Of some queries (counted over all streams) at once.
struct attention_scratch {
    int     first_query, max_parts;
    int *   cells;   // [queries][n_cells], those that are seen; null: all
    int *   counts;  // [queries]
    float * sums;    // [queries][heads][parts][v_size]
    float2 * parts;  // [queries][heads][parts]: the largest score and the sum of exp(score - largest)
};

// ---------------------------------------------------------------- keys and values

template <int type> static __device__ __forceinline__ float element(const char * row, int i, int type_at_run_time) {
    switch (type == GGML_TYPE_COUNT ? type_at_run_time : type) {
        case GGML_TYPE_F32:  return ((const float *) row)[i];
        case GGML_TYPE_F16:  return __half2float(((const half *) row)[i]);
        case GGML_TYPE_BF16: return ggml_cuda_cast<float>(((const nv_bfloat16 *) row)[i]);
        case GGML_TYPE_Q8_0: {
            const block_q8_0 & b = ((const block_q8_0 *) row)[i/QK8_0];
            return __half2float(b.d)*b.qs[i % QK8_0];
        }
        case GGML_TYPE_Q4_0: {
            const block_q4_0 & b = ((const block_q4_0 *) row)[i/QK4_0];
            const int at = i % QK4_0;
            return __half2float(b.d)*((b.qs[at % 16] >> (at/16*4) & 15) - 8);
        }
        case GGML_TYPE_Q4_1: {
            const block_q4_1 & b = ((const block_q4_1 *) row)[i/QK4_1];
            const int at = i % QK4_1;
            return __low2float(b.dm)*(b.qs[at % 16] >> (at/16*4) & 15) + __high2float(b.dm);
        }
        case GGML_TYPE_Q5_0: {
            const block_q5_0 & b = ((const block_q5_0 *) row)[i/QK5_0];
            const int at = i % QK5_0, high = b.qh[at/8] >> at % 8 & 1;
            return __half2float(b.d)*(((b.qs[at % 16] >> (at/16*4) & 15) | high << 4) - 16);
        }
        case GGML_TYPE_Q5_1: {
            const block_q5_1 & b = ((const block_q5_1 *) row)[i/QK5_1];
            const int at = i % QK5_1, high = b.qh[at/8] >> at % 8 & 1;
            return __low2float(b.dm)*((b.qs[at % 16] >> (at/16*4) & 15) | high << 4) + __high2float(b.dm);
        }
        default: return NAN;
    }
}

static bool has_elements(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32:
        case GGML_TYPE_F16:
        case GGML_TYPE_BF16:
        case GGML_TYPE_Q8_0:
        case GGML_TYPE_Q4_0:
        case GGML_TYPE_Q4_1:
        case GGML_TYPE_Q5_0:
        case GGML_TYPE_Q5_1: return true;
        default:             return false;
    }
}

// ---------------------------------------------------------------- kernels

// A block lists the cells that one query sees.
static __global__ void __launch_bounds__(1024) list_cells(const attention a, const attention_scratch s) {
    __shared__ int of_warps[32];
    const int    query = s.first_query + blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x/32;
    const half * mask  = (const half *) (a.mask + query % a.n_queries*a.mask_query + query/a.n_queries % a.mask_streams*a.mask_stream);
    int *        cells = s.cells + (int64_t) blockIdx.x*a.n_cells;
    int          n     = 0;
    for (int base = 0; base < a.n_cells; base += 1024) {
        const int      cell = base + threadIdx.x;
        const bool     seen = cell < a.n_cells && __half2float(mask[cell]) != -INFINITY;
        const unsigned all  = __ballot_sync(0xFFFFFFFF, seen);
        if (lane == 0) {
            of_warps[warp] = __popc(all);
        }
        __syncthreads();
        int before = n;
        for (int w = 0; w < 32; w++) {
            before += w < warp ? of_warps[w] : 0;
            n      += of_warps[w];
        }
        if (seen) {
            cells[before + __popc(all & ((1u << lane) - 1))] = cell;
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        s.counts[blockIdx.x] = n;
    }
}

// Of all threads, in a fixed order; `of_warps`: [WARPS] in shared memory.
template <typename F> static __device__ float over_block(float value, float * of_warps, F combine) {
    for (int offset = 16; offset > 0; offset /= 2) {
        value = combine(value, __shfl_xor_sync(0xFFFFFFFF, value, offset));
    }
    if (threadIdx.x % 32 == 0) {
        of_warps[threadIdx.x/32] = value;
    }
    __syncthreads();
    value = of_warps[0];
    for (int w = 1; w < WARPS; w++) {
        value = combine(value, of_warps[w]);
    }
    __syncthreads();
    return value;
}

// A block has one part of what one head of one query sees.
template <int type> static __global__ void __launch_bounds__(THREADS) attend_to_part(const attention a, const attention_scratch s) {
    __shared__ float q[MAX_HEAD], weights[PART], of_warps[WARPS];
    __shared__ int   cells[PART];
    const int part = blockIdx.x, head = blockIdx.y, query = s.first_query + blockIdx.z, lane = threadIdx.x % 32;
    const int of_stream = query % a.n_queries, stream = query/a.n_queries;
    const int n = min(PART, (s.cells ? s.counts[blockIdx.z] : a.n_cells) - part*PART);
    if (n <= 0) {
        return;
    }
    const float * from = (const float *) (a.q + of_stream*a.q_query + head*a.q_head + stream*a.q_stream);
    for (int i = threadIdx.x; i < a.k_size; i += THREADS) {
        q[i] = from[i]*a.scale;
    }
    for (int i = threadIdx.x; i < n; i += THREADS) {
        cells[i] = s.cells ? s.cells[(int64_t) blockIdx.z*a.n_cells + part*PART + i] : part*PART + i;
    }
    __syncthreads();

    const char * keys = a.k + head/a.heads_per_kv*a.k_head + stream*a.k_stream;
    const half * mask = (const half *) (a.mask + of_stream*a.mask_query + stream % a.mask_streams*a.mask_stream);
    const float slope = get_alibi_slope(a.max_bias, head, a.n_head_log2, a.m0, a.m1);
    for (int i = threadIdx.x/32; i < n; i += WARPS) {
        const char * key = keys + cells[i]*a.k_cell;
        float score = 0;
        for (int d = lane; d < a.k_size; d += 32) {
            score = fmaf(q[d], element<type>(key, d, a.k_type), score);
        }
        for (int offset = 16; offset > 0; offset /= 2) {
            score += __shfl_xor_sync(0xFFFFFFFF, score, offset);
        }
        score = a.softcap != 0 ? a.softcap*tanhf(score) : score;
        if (lane == 0) {
            weights[i] = a.mask ? fmaf(slope, __half2float(mask[cells[i]]), score) : score;
        }
    }
    __syncthreads();

    float largest = -INFINITY, sum = 0;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        largest = fmaxf(largest, weights[i]);
    }
    largest = over_block(largest, of_warps, [](float x, float y) { return fmaxf(x, y); });
    for (int i = threadIdx.x; i < n; i += THREADS) {
        weights[i] = expf(weights[i] - largest);
        sum += weights[i];
    }
    sum = over_block(sum, of_warps, [](float x, float y) { return x + y; });

    const int64_t at     = ((int64_t) blockIdx.z*a.n_heads + head)*s.max_parts + part;
    const char *  values = a.v + head/a.heads_per_kv*a.v_head + stream*a.v_stream;
    for (int d = threadIdx.x; d < a.v_size; d += THREADS) {
        float result = 0;
#pragma unroll 8
        for (int i = 0; i < n; i++) {
            result = fmaf(weights[i], element<type>(values + cells[i]*a.v_cell, d, a.v_type), result);
        }
        s.sums[at*a.v_size + d] = result;
    }
    if (threadIdx.x == 0) {
        s.parts[at] = make_float2(largest, sum);
    }
}

static __global__ void __launch_bounds__(THREADS) add_parts(const attention a, const attention_scratch s) {
    const int     head = blockIdx.x, query = s.first_query + blockIdx.y;
    const int     n_parts = ((s.cells ? s.counts[blockIdx.y] : a.n_cells) + PART - 1)/PART;
    const int64_t first   = ((int64_t) blockIdx.y*a.n_heads + head)*s.max_parts;
    float largest = a.sinks ? a.sinks[head] : -INFINITY;
    for (int p = 0; p < n_parts; p++) {
        largest = fmaxf(largest, s.parts[first + p].x);
    }
    float sum = a.sinks ? expf(a.sinks[head] - largest) : 0;
    for (int p = 0; p < n_parts; p++) {
        sum = fmaf(s.parts[first + p].y, expf(s.parts[first + p].x - largest), sum);
    }
    for (int d = threadIdx.x; d < a.v_size; d += THREADS) {
        float result = 0;
        for (int p = 0; p < n_parts; p++) {
            result = fmaf(s.sums[(first + p)*a.v_size + d], expf(s.parts[first + p].x - largest), result);
        }
        a.result[((int64_t) query*a.n_heads + head)*a.v_size + d] = sum > 0 ? result/sum : 0;
    }
}

// ---------------------------------------------------------------- the op

static bool can_attend(const ggml_tensor * dst) {
    const ggml_tensor * q = dst->src[0], * k = dst->src[1], * v = dst->src[2], * mask = dst->src[3];
    return q->type == GGML_TYPE_F32 && has_elements(k->type) && has_elements(v->type) && k->ne[0] <= MAX_HEAD &&
        (!mask || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1)) && ggml_is_contiguous(dst);
}

static attention describe(const ggml_tensor * dst) {
    const ggml_tensor * q = dst->src[0], * k = dst->src[1], * v = dst->src[2], * mask = dst->src[3], * sinks = dst->src[4];
    attention a = {};
    a.q = (const char *) q->data, a.q_query = q->nb[1], a.q_head = q->nb[2], a.q_stream = q->nb[3];
    a.k = (const char *) k->data, a.k_cell  = k->nb[1], a.k_head = k->nb[2], a.k_stream = k->nb[3];
    a.v = (const char *) v->data, a.v_cell  = v->nb[1], a.v_head = v->nb[2], a.v_stream = v->nb[3];
    a.mask_streams = 1;
    if (mask) {
        a.mask = (const char *) mask->data, a.mask_query = mask->nb[1], a.mask_stream = mask->nb[3], a.mask_streams = mask->ne[3];
    }
    a.sinks  = sinks ? (const float *) sinks->data : nullptr;
    a.result = (float *) dst->data;
    a.k_size = k->ne[0], a.v_size = v->ne[0], a.n_heads = q->ne[2], a.heads_per_kv = q->ne[2]/k->ne[2];
    a.n_queries = q->ne[1], a.n_cells = k->ne[1], a.k_type = k->type, a.v_type = v->type;
    memcpy(&a.scale,    (const float *) dst->op_params + 0, sizeof(float));
    memcpy(&a.max_bias, (const float *) dst->op_params + 1, sizeof(float));
    memcpy(&a.softcap,  (const float *) dst->op_params + 2, sizeof(float));
    a.scale      /= a.softcap != 0 ? a.softcap : 1;
    a.n_head_log2 = 1u << (uint32_t) floorf(log2f((float) a.n_heads));
    a.m0 = powf(2.0f, -a.max_bias/a.n_head_log2);
    a.m1 = powf(2.0f, -a.max_bias/2.0f/a.n_head_log2);
    return a;
}

static void start_parts(const attention & a, const attention_scratch & s, int n_queries, cudaStream_t stream) {
    const dim3 grid(s.max_parts, a.n_heads, n_queries);
    switch (a.k_type == a.v_type ? a.k_type : GGML_TYPE_COUNT) {
        case GGML_TYPE_F16:  attend_to_part<GGML_TYPE_F16><<<grid, THREADS, 0, stream>>>(a, s); break;
        case GGML_TYPE_Q8_0: attend_to_part<GGML_TYPE_Q8_0><<<grid, THREADS, 0, stream>>>(a, s); break;
        case GGML_TYPE_Q4_0: attend_to_part<GGML_TYPE_Q4_0><<<grid, THREADS, 0, stream>>>(a, s); break;
        default:             attend_to_part<GGML_TYPE_COUNT><<<grid, THREADS, 0, stream>>>(a, s); break;
    }
    CUDA_CHECK(cudaGetLastError());
}

bool ggml_cuda_invariant_attention(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    if (!ggml_cuda_batch_invariant()) {
        return false;
    }
    if (!can_attend(dst)) {
        static bool said = false;
        if (!said) {
            said = true;
            GGML_LOG_WARN("GGML_CUDA_BATCH_INVARIANT: attention with keys of type %s and size %d and values of type %s is computed by ggml's kernels, "
                "which round differently for one token and for several\n", ggml_type_name(dst->src[1]->type), (int) dst->src[1]->ne[0],
                ggml_type_name(dst->src[2]->type));
        }
        return false;
    }
    const attention a      = describe(dst);
    const int       n_all  = a.n_queries*(int) dst->src[0]->ne[3];
    attention_scratch s    = {};
    s.max_parts            = (a.n_cells + PART - 1)/PART;
    const size_t    bytes  = (size_t) a.n_heads*s.max_parts*(a.v_size*sizeof(float) + sizeof(float2)) + (size_t) a.n_cells*sizeof(int);
    const int    at_once   = (int) std::clamp<size_t>(MOST_SCRATCH/std::max<size_t>(bytes, 1), 1, std::min(n_all, 65535));
    ggml_cuda_pool_alloc<float>  sums(ctx.pool(), (size_t) at_once*a.n_heads*s.max_parts*a.v_size);
    ggml_cuda_pool_alloc<float2> parts(ctx.pool(), (size_t) at_once*a.n_heads*s.max_parts);
    ggml_cuda_pool_alloc<int>    cells(ctx.pool(), a.mask ? (size_t) at_once*a.n_cells : 1);
    ggml_cuda_pool_alloc<int>    counts(ctx.pool(), at_once);
    s.sums = sums.get(), s.parts = parts.get(), s.counts = counts.get(), s.cells = a.mask ? cells.get() : nullptr;
    for (; s.first_query < n_all; s.first_query += at_once) {
        const int n_queries = std::min(at_once, n_all - s.first_query);
        if (a.mask) {
            list_cells<<<n_queries, 1024, 0, ctx.stream()>>>(a, s);
        }
        start_parts(a, s, n_queries, ctx.stream());
        add_parts<<<dim3(a.n_heads, n_queries), THREADS, 0, ctx.stream()>>>(a, s);
        CUDA_CHECK(cudaGetLastError());
    }
    return true;
}
