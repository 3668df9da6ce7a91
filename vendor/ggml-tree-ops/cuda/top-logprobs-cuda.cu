// The best entries of every row of logits, in a few passes that shrink: blocks take a piece of a row each, keep its k best
// and the piece's share of the row's log-sum-exp; blocks of the next pass take the k best of several pieces; the last one
// has the row's. A key holds a logit and its index so that the larger key is the better candidate, which makes every
// pass, and the result, independent of the order in which blocks run.
#include "top-logprobs-cuda.cuh"

#include "ggml-top-logprobs.h"

#include <cstdint>

static constexpr int THREADS = 256;
static constexpr int PIECE   = 2048; // keys that a block takes

static_assert(PIECE % THREADS == 0, "every thread takes as many keys");

// a share of sum(exp(logits)): sum*exp(max)
struct partial_sum {
    float max;
    float sum;
};

// ---------------------------------------------------------------- keys

// 0 for what is no candidate
static __device__ uint64_t make_key(float logit, uint32_t index) {
    if (!(logit > -INFINITY)) {
        return 0;
    }
    const uint32_t bits    = __float_as_uint(logit);
    const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t) ordered << 32 | (uint32_t) ~index;
}

static __device__ float logit_of(uint64_t key) {
    const uint32_t ordered = key >> 32;
    return __uint_as_float(ordered & 0x80000000u ? ordered ^ 0x80000000u : ~ordered);
}

static __device__ uint32_t index_of(uint64_t key) {
    return ~(uint32_t) key;
}

// ---------------------------------------------------------------- one block

// Calls combine(i, j) for i < j < THREADS as a tree; the caller's slot 0 has all of them.
template <typename F> static __device__ void reduce_over_block(F combine) {
    for (int n = THREADS/2; n > 0; n /= 2) {
        __syncthreads();
        if (threadIdx.x < n) {
            combine(threadIdx.x, threadIdx.x + n);
        }
    }
    __syncthreads();
}

static __device__ partial_sum add(partial_sum a, partial_sum b) {
    const float max = fmaxf(a.max, b.max);
    if (max == -INFINITY) {
        return { max, 0.0f };
    }
    return { max, a.sum*expf(a.max - max) + b.sum*expf(b.max - max) };
}

static __device__ partial_sum sum_over_block(partial_sum mine, partial_sum * shared) {
    shared[threadIdx.x] = mine;
    reduce_over_block([=](int i, int j) { shared[i] = add(shared[i], shared[j]); });
    return shared[0];
}

// Bitonic: the largest first.
static __device__ void sort_keys(uint64_t * keys) {
    for (int size = 2; size <= PIECE; size *= 2) {
        for (int stride = size/2; stride > 0; stride /= 2) {
            __syncthreads();
            for (int pair = threadIdx.x; pair < PIECE/2; pair += THREADS) {
                const int  i          = 2*pair - (pair & (stride - 1));
                const int  j          = i + stride;
                const bool descending = (i & size) == 0;
                const uint64_t a = keys[i];
                const uint64_t b = keys[j];
                if ((a < b) == descending) {
                    keys[i] = b;
                    keys[j] = a;
                }
            }
        }
    }
    __syncthreads();
}

// Leaves the k largest of the block's keys in keys[0, k).
static __device__ void select_best(uint64_t * keys, int k) {
    if (k > 1) {
        sort_keys(keys);
        return;
    }
    __syncthreads();
    uint64_t best = keys[threadIdx.x];
    for (int i = threadIdx.x + THREADS; i < PIECE; i += THREADS) {
        best = max(best, keys[i]);
    }
    __syncthreads();
    keys[threadIdx.x] = best;
    reduce_over_block([=](int i, int j) { keys[i] = max(keys[i], keys[j]); });
}

// ---------------------------------------------------------------- passes

// grid: (pieces of a row, rows); best: [k, pieces, rows], sums: [pieces, rows]
static __global__ void __launch_bounds__(THREADS) best_of_logits(
        const float * logits, int64_t n, int k, uint64_t * best, partial_sum * sums) {
    __shared__ uint64_t    keys[PIECE];
    __shared__ partial_sum shared[THREADS];

    const float * row = logits + blockIdx.y*n;
    partial_sum   mine = { -INFINITY, 0.0f };

    float values[PIECE/THREADS];
    #pragma unroll
    for (int i = 0; i < PIECE/THREADS; ++i) {
        const int64_t at = (int64_t) blockIdx.x*PIECE + i*THREADS + threadIdx.x;
        values[i] = at < n ? row[at] : -INFINITY;
        keys[i*THREADS + threadIdx.x] = make_key(values[i], (uint32_t) at);
        mine.max = fmaxf(mine.max, values[i]); // NaN counts for nothing
    }
    #pragma unroll
    for (int i = 0; i < PIECE/THREADS; ++i) {
        mine.sum += values[i] > -INFINITY ? expf(values[i] - mine.max) : 0.0f;
    }
    const partial_sum total = sum_over_block(mine, shared);
    select_best(keys, k);

    const int64_t piece = (int64_t) blockIdx.y*gridDim.x + blockIdx.x;
    for (int i = threadIdx.x; i < k; i += THREADS) {
        best[piece*k + i] = keys[i];
    }
    if (threadIdx.x == 0) {
        sums[piece] = total;
    }
}

// Takes the piece of a row's n_keys keys that this block is for.
static __device__ void load_keys(const uint64_t * in, int64_t n_keys, uint64_t * keys) {
    const uint64_t * row = in + blockIdx.y*n_keys;
    for (int i = threadIdx.x; i < PIECE; i += THREADS) {
        const int64_t at = (int64_t) blockIdx.x*PIECE + i;
        keys[i] = at < n_keys ? row[at] : 0;
    }
}

// in: [n_keys, rows]; best: [k, gridDim.x, rows]
static __global__ void __launch_bounds__(THREADS) best_of_keys(const uint64_t * in, int64_t n_keys, int k, uint64_t * best) {
    __shared__ uint64_t keys[PIECE];

    load_keys(in, n_keys, keys);
    select_best(keys, k);

    for (int i = threadIdx.x; i < k; i += THREADS) {
        best[((int64_t) blockIdx.y*gridDim.x + blockIdx.x)*k + i] = keys[i];
    }
}

// in: [n_keys, rows], n_keys <= PIECE; sums: [n_sums, rows]; out: [2*k, rows]
static __global__ void __launch_bounds__(THREADS) write_best(
        const uint64_t * in, int64_t n_keys, int k, const partial_sum * sums, int64_t n_sums, bool as_logits, float * out) {
    __shared__ uint64_t    keys[PIECE];
    __shared__ partial_sum shared[THREADS];

    partial_sum mine = { -INFINITY, 0.0f };
    for (int64_t i = threadIdx.x; i < n_sums; i += THREADS) {
        mine = add(mine, sums[blockIdx.y*n_sums + i]);
    }
    const partial_sum total = sum_over_block(mine, shared);
    const float       norm  = as_logits ? 0.0f : total.max + logf(total.sum);

    load_keys(in, n_keys, keys);
    select_best(keys, k);

    // a row whose largest logit is +inf has no probabilities
    const bool usable = total.max < INFINITY;
    for (int i = threadIdx.x; i < k; i += THREADS) {
        const uint64_t key = usable ? keys[i] : 0;
        out[(int64_t) blockIdx.y*2*k + i]     = key ? logit_of(key) - norm     : -INFINITY;
        out[(int64_t) blockIdx.y*2*k + k + i] = key ? (float) index_of(key) : -1.0f;
    }
}

// ---------------------------------------------------------------- the op

static int64_t n_pieces(int64_t n) {
    return (n + PIECE - 1)/PIECE;
}

bool ggml_cuda_supports_top_logprobs(const ggml_tensor * op) {
    return ggml_is_top_logprobs(op) && op->ne[0]/2 <= PIECE/2 && op->ne[1] < 65536;
}

void ggml_cuda_op_top_logprobs(ggml_backend_cuda_context & ctx, ggml_tensor * dst) {
    const ggml_tensor * logits = dst->src[0];
    const int64_t n      = logits->ne[0];
    const int64_t n_rows = logits->ne[1];
    const int     k      = (int) (dst->ne[0]/2);
    if (n_rows == 0) {
        return;
    }
    cudaStream_t stream = ctx.stream();

    const int64_t n_sums = n_pieces(n);
    int64_t       n_keys = n_sums*k;

    ggml_cuda_pool_alloc<partial_sum> sums(ctx.pool(), n_sums*n_rows);
    ggml_cuda_pool_alloc<uint64_t>    first(ctx.pool(), n_keys*n_rows);
    ggml_cuda_pool_alloc<uint64_t>    second(ctx.pool(), n_pieces(n_keys)*k*n_rows);

    best_of_logits<<<dim3(n_sums, n_rows), THREADS, 0, stream>>>((const float *) logits->data, n, k, first.get(), sums.get());
    CUDA_CHECK(cudaGetLastError());

    uint64_t * in  = first.get();
    uint64_t * out = second.get();
    for (; n_keys > PIECE; n_keys = n_pieces(n_keys)*k) {
        best_of_keys<<<dim3(n_pieces(n_keys), n_rows), THREADS, 0, stream>>>(in, n_keys, k, out);
        CUDA_CHECK(cudaGetLastError());
        std::swap(in, out);
    }
    write_best<<<dim3(1, n_rows), THREADS, 0, stream>>>(in, n_keys, k, sums.get(), n_sums, ggml_top_entries_are_logits(dst), (float *) dst->data);
    CUDA_CHECK(cudaGetLastError());
}
