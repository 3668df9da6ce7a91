// Products of quantised weights with a few rows of activations ("tokens" below: 1 to 64) at the speed of the GPU's memory.
//
// Weights are unpacked to f16 on their way to the tensor cores; activations are f16, scaled by a power of two for each token;
// sums are f32. A thread block has some rows of weights, in tiles of 16. Its warps share these and their columns evenly, in
// blocks of 256; each has its own weights brought to shared memory, SLOTS tiles ahead, reads the activations by way of the L1
// cache, and waits for nobody; at the end the block adds up what its warps have. All sums run in an order that depends on the
// matrix alone: a token's result is the same bits whatever is computed with it.
#pragma once

#include "few-rows-weights.cuh"

static constexpr int FEW_ROWS_TILE  = 16;  // rows of weights of a matrix instruction
static constexpr int FEW_ROWS_BLOCK = 256; // columns that are unpacked together
static constexpr int FEW_ROWS_PARTS = 8;   // of a block of columns, see few_rows_weights

static __device__ __forceinline__ void few_rows_wait_for_previous_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}

static __device__ __forceinline__ void few_rows_let_next_kernel_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

// ---------------------------------------------------------------- activations

// Activations as the matrix instructions take them. For 8 tokens, 256 columns and part j of these, the 32 threads of a warp find
// 16 bytes each: thread 4*token + t the columns 64t + 4j + 0, 2, 1, 3 and 64t + 32 + 4j + 0, 2, 1, 3.
// One thread block writes one token; tokens beyond n_tokens are zeros.
struct few_rows_activations {
    uint4 * fragments;     // [columns/256][tokens/8][8][32]
    float * unscale;       // [tokens]: a power of two; results are to be multiplied by it
};

static constexpr int FEW_ROWS_MAX_COLUMNS = 32768;

// The power of two that brings numbers of up to `largest` into the upper range of f16, where they neither overflow nor vanish.
static __device__ __forceinline__ float few_rows_scale(float largest, float & inverse) {
    const int exponent = (__float_as_int(largest) >> 23) & 255; // 0: zero or tiny; 255: not finite
    const int by       = exponent == 0 || exponent == 255 ? 0 : min(13 - (exponent - 127), 100);
    inverse = __int_as_float((127 - by) << 23);
    return __int_as_float((127 + by) << 23);
}

static __device__ __forceinline__ uint32_t few_rows_two(float a, float b) { return few_rows_bits(__floats2half2_rn(a, b)); }

// Where a token's activations come from.
struct few_rows_source {
    const float * x;
    int64_t       stride;    // between tokens, in floats, as those below
    const float * factor;    // NORM: [columns], GLU: [tokens][columns]
    int64_t       factor_stride;
    float *       result;    // NORM: is written, may be x
    int64_t       result_stride;
    float         epsilon;
};

enum class few_rows_input {
    PLAIN, // x
    NORM,  // x/sqrt(mean(x*x) + epsilon)*factor
    GLU,   // silu(x)*factor
};

static __device__ __forceinline__ float4 few_rows_map(float4 a, float4 b, float scale, few_rows_input kind) {
    auto one = [=](float x, float y) { return kind == few_rows_input::NORM ? scale*x*y : x/(1.0f + expf(-x))*y; };
    return make_float4(one(a.x, b.x), one(a.y, b.y), one(a.z, b.z), one(a.w, b.w));
}

static __device__ __forceinline__ float few_rows_largest(float4 a) { return fmaxf(fmaxf(fabsf(a.x), fabsf(a.y)), fmaxf(fabsf(a.z), fabsf(a.w))); }
static __device__ __forceinline__ float few_rows_squares(float4 a) { return a.x*a.x + a.y*a.y + a.z*a.z + a.w*a.w; }

// Of all threads, in an order that depends on their number alone; `of_warps`: [32] in shared memory, one array for each call.
template <typename F> static __device__ __forceinline__ float few_rows_reduce(float value, float * of_warps, F combine) {
    for (int offset = 16; offset > 0; offset /= 2) {
        value = combine(value, __shfl_xor_sync(0xFFFFFFFF, value, offset));
    }
    if (threadIdx.x % 32 == 0) {
        of_warps[threadIdx.x/32] = value;
    }
    __syncthreads();
    value = threadIdx.x % 32 < blockDim.x/32 ? of_warps[threadIdx.x % 32] : 0;
    for (int offset = 16; offset > 0; offset /= 2) {
        value = combine(value, __shfl_xor_sync(0xFFFFFFFF, value, offset));
    }
    return value;
}

// A thread has items of eight columns: four, and the four 32 columns on.
template <few_rows_input kind> static __global__ void __launch_bounds__(1024) few_rows_convert(
        const few_rows_source source, int n_tokens, int n_columns, few_rows_activations out) {
    constexpr int MAX_ITEMS = FEW_ROWS_MAX_COLUMNS/(8*1024);
    const int token   = blockIdx.x;
    const int n_items = token < n_tokens ? n_columns/8 : 0;
    __shared__ float of_warps[2][32];
    auto column = [](int i) { return (i >> 5)*256 + ((i >> 3) & 3)*64 + (i & 7)*4; };

    few_rows_let_next_kernel_start();
    few_rows_wait_for_previous_kernel();
    float4 low[MAX_ITEMS], high[MAX_ITEMS];
    float  squares = 0;
#pragma unroll
    for (int k = 0; k < MAX_ITEMS; k++) {
        const int i = threadIdx.x + k*blockDim.x;
        low[k] = high[k] = make_float4(0, 0, 0, 0);
        if (i < n_items) {
            const float4 * from = (const float4 *) (source.x + token*source.stride + column(i));
            low[k]  = from[0];
            high[k] = from[8];
            squares += few_rows_squares(low[k]) + few_rows_squares(high[k]);
        }
    }
    if (kind != few_rows_input::PLAIN) {
        float scale = 1;
        if (kind == few_rows_input::NORM) {
            squares = few_rows_reduce(squares, of_warps[1], [](float a, float b) { return a + b; });
            scale   = rsqrtf(squares/n_columns + source.epsilon);
        }
#pragma unroll
        for (int k = 0; k < MAX_ITEMS; k++) {
            const int i = threadIdx.x + k*blockDim.x;
            if (i < n_items) {
                const float4 * factor = (const float4 *) (source.factor + token*source.factor_stride + column(i));
                low[k]  = few_rows_map(low[k],  factor[0], scale, kind);
                high[k] = few_rows_map(high[k], factor[8], scale, kind);
                if (kind == few_rows_input::NORM) {
                    float4 * to = (float4 *) (source.result + token*source.result_stride + column(i));
                    to[0] = low[k];
                    to[8] = high[k];
                }
            }
        }
    }
    float largest = 0;
#pragma unroll
    for (int k = 0; k < MAX_ITEMS; k++) {
        largest = fmaxf(largest, fmaxf(few_rows_largest(low[k]), few_rows_largest(high[k])));
    }
    largest = few_rows_reduce(largest, of_warps[0], [](float a, float b) { return fmaxf(a, b); });
    float inverse;
    const float scale = few_rows_scale(largest, inverse);
    if (threadIdx.x == 0) {
        out.unscale[token] = inverse;
    }
#pragma unroll
    for (int k = 0; k < MAX_ITEMS; k++) {
        const int i = threadIdx.x + k*blockDim.x;
        if (i < n_columns/8) {
            const int64_t part = ((int64_t) (i >> 5)*(gridDim.x/8) + token/8)*FEW_ROWS_PARTS + (i & 7);
            out.fragments[part*32 + (token % 8)*4 + ((i >> 3) & 3)] = make_uint4(
                few_rows_two(low[k].x*scale, low[k].z*scale), few_rows_two(low[k].y*scale, low[k].w*scale),
                few_rows_two(high[k].x*scale, high[k].z*scale), few_rows_two(high[k].y*scale, high[k].w*scale));
        }
    }
}

// ---------------------------------------------------------------- copies to shared memory

// Tiles of 16 rows by 256 columns of weights on their way to a warp, SLOTS of them. Rows that do not begin at a multiple of 16
// bytes are copied from the one before.
template <ggml_type type, int SLOTS> struct few_rows_ring {
    using weights = few_rows_weights<type>;
    static constexpr bool ALIGNED = weights::BYTES % 16 == 0;
    static constexpr int  PIECES  = ALIGNED ? weights::BYTES/16 : (weights::BYTES + 14)/16; // of 16 bytes, in a row
    static constexpr int  EIGHTS  = PIECES % 8 == 1 ? PIECES/8 : (PIECES + 7)/8;
    static constexpr int  TILE    = FEW_ROWS_TILE*weights::PITCH;
    static constexpr int  BYTES   = SLOTS*TILE;

    // Eight threads a row, where a single piece is left one.
    static __device__ __forceinline__ void copy(uint8_t * to, const uint8_t * from, int64_t row_bytes, int lane) {
        const int piece = lane % 8;
        const uint8_t * at = from + (lane/8)*row_bytes;
#pragma unroll
        for (int row = 0; row < FEW_ROWS_TILE; row += 4) {
#pragma unroll
            for (int i = 0; i < EIGHTS; i++) {
                if (8*i + 8 <= PIECES || 8*i + piece < PIECES) {
                    copy_16(to + (row + lane/8)*weights::PITCH + (8*i + piece)*16, aligned(at) + (8*i + piece)*16);
                }
            }
            at += 4*row_bytes;
        }
        if (8*EIGHTS < PIECES && lane < FEW_ROWS_TILE) {
            copy_16(to + lane*weights::PITCH + EIGHTS*128, aligned(from + lane*row_bytes) + EIGHTS*128);
        }
    }

    // Where a row of a tile begins in what was copied of it; `block`: of 256 columns. Tiles begin at multiples of 16 bytes.
    static __device__ __forceinline__ int offset(int row, int block, int64_t row_bytes) {
        return ALIGNED ? 0 : ((uint32_t) block*weights::BYTES + (uint32_t) row*(uint32_t) row_bytes) & 15;
    }

    static __device__ __forceinline__ void copied() { // to be called for each slot in turn, whether one was copied or not
        asm volatile("cp.async.commit_group;" ::: "memory");
    }

    static __device__ __forceinline__ void wait() { // for the slot whose turn it is
        asm volatile("cp.async.wait_group %0;" :: "n"(SLOTS - 1) : "memory");
        __syncwarp();
    }

  private:
    static __device__ __forceinline__ const uint8_t * aligned(const uint8_t * at) {
        return ALIGNED ? at : (const uint8_t *) ((uintptr_t) at & ~(uintptr_t) 15);
    }
    static __device__ __forceinline__ void copy_16(void * to, const uint8_t * from) {
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" :: "r"((uint32_t) __cvta_generic_to_shared(to)), "l"(from) : "memory");
    }
};

// ---------------------------------------------------------------- the product

// sums += weights (16 rows by 16 columns) * activations (16 columns by 8 tokens)
static __device__ __forceinline__ void few_rows_multiply(float (&sums)[4], half2 a0, half2 a1, half2 a2, half2 a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(few_rows_bits(a0)), "r"(few_rows_bits(a1)), "r"(few_rows_bits(a2)), "r"(few_rows_bits(a3)), "r"(b0), "r"(b1));
}

static constexpr int FEW_ROWS_MATRICES = 4;

struct few_rows_matrix {
    const uint8_t * weights;
    float *         result;   // [tokens][rows]
    int64_t         stride;   // between tokens of the result, in floats
    int             end_tile; // of this one and those before it
};

// Matrices of one type and width by the same activations, one below the other.
struct few_rows_product {
    few_rows_matrix matrices[FEW_ROWS_MATRICES];
    int64_t         row_bytes;
    int             n_tiles;    // of 16 rows, of all matrices
    int             n_blocks;   // of 256 columns
    const uint4 *   fragments;  // see few_rows_activations
    const float *   unscale;
    int             n_tokens;
    int             max_tiles;  // of a thread block at once, see few_rows_shape

    // The matrix that has a tile, and the tile's number in it.
    __device__ __forceinline__ const few_rows_matrix & matrix_of(int & tile) const {
        int i = 0;
        while (tile >= matrices[i].end_tile) { // the last one ends at n_tiles
            i++;
        }
        tile -= i == 0 ? 0 : matrices[i - 1].end_tile;
        return matrices[i];
    }
    __device__ __forceinline__ const uint8_t * weights_of(int tile) const {
        const few_rows_matrix & matrix = matrix_of(tile);
        return matrix.weights + tile*FEW_ROWS_TILE*row_bytes;
    }
};

// N8: tokens in eights. SLOTS: tiles that a warp has on their way.
template <ggml_type type, int N8, int SLOTS, int WARPS> struct few_rows_shape {
    static constexpr int RINGS = WARPS*few_rows_ring<type, SLOTS>::BYTES;
    static constexpr int SUMS  = N8*8*FEW_ROWS_TILE*4; // of a tile
    static constexpr int bytes(int max_tiles) { return RINGS + (max_tiles - 1)*SUMS; }
    static_assert(SUMS <= few_rows_ring<type, SLOTS>::BYTES, "a warp leaves its last sums where its weights were");
};

template <ggml_type type, int N8, int SLOTS, int WARPS>
static __global__ void __launch_bounds__(32*WARPS, 1) few_rows_kernel(const few_rows_product p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    __trap(); // never started there
#else
    using shape   = few_rows_shape<type, N8, SLOTS, WARPS>;
    using weights = few_rows_weights<type>;
    using ring    = few_rows_ring<type, SLOTS>;
    constexpr int AT_ONCE = 4;                    // parts
    constexpr int AHEAD   = N8 > 2 ? 1 : N8 == 2 && type == GGML_TYPE_Q6_K ? 3 : type == GGML_TYPE_Q5_K ? 1 : 2; // parts, as measured
    constexpr int STEP    = N8*FEW_ROWS_PARTS*32; // of `fragments`, for a block of columns

    extern __shared__ __align__(16) uint8_t few_rows_shared[];
    float *   ended = (float *) (few_rows_shared + shape::RINGS); // sums of tiles whose columns end within a warp's share
    const int lane = threadIdx.x % 32, warp = threadIdx.x/32;
    const int row  = lane/4, t = lane % 4; // a thread has the rows `row` and `row + 8` of each tile
    uint8_t * slots = few_rows_shared + warp*ring::BYTES;

    const int n_blocks   = p.n_blocks;
    const int first_tile = (int64_t) p.n_tiles*blockIdx.x/gridDim.x, n_tiles = (int64_t) p.n_tiles*(blockIdx.x + 1)/gridDim.x - first_tile;
    const int n_passes   = (n_tiles + p.max_tiles - 1)/p.max_tiles;

    few_rows_let_next_kernel_start();
    for (int pass = 0; pass < n_passes; pass++) {
        // A pass is tiles by blocks of columns, counted in this order, and each warp has a share of these units.
        const int pass_tile = first_tile + n_tiles*pass/n_passes, n_pass_tiles = first_tile + n_tiles*(pass + 1)/n_passes - pass_tile;
        const int n_units = n_pass_tiles*n_blocks;
        const int first   = n_units*warp/WARPS, end = n_units*(warp + 1)/WARPS;
        int tile = first/n_blocks, block = first % n_blocks;

        int next_tile = pass_tile + tile, next_block = block, n_to_copy = end - first;
        const uint8_t * next = n_to_copy > 0 ? p.weights_of(next_tile) + (int64_t) next_block*weights::BYTES : nullptr;
        auto copy_next = [&](int slot) {
            if (n_to_copy > 0) {
                ring::copy(slots + slot*ring::TILE, next, p.row_bytes, lane);
                next += weights::BYTES;
                if (--n_to_copy > 0 && ++next_block == n_blocks) {
                    next_block = 0;
                    next = p.weights_of(++next_tile);
                }
            }
            ring::copied();
        };
        for (int slot = 0; slot < SLOTS; slot++) {
            copy_next(slot);
        }
        if (pass == 0) {
            few_rows_wait_for_previous_kernel(); // which wrote the activations; nobody writes weights
        }

        float sums[N8][4] = {};
        auto leave_sums = [&](float * at) {
            at += row;
#pragma unroll
            for (int n = 0; n < N8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    at[(n*8 + 2*t + i % 2)*FEW_ROWS_TILE + i/2*8] = sums[n][i];
                    sums[n][i] = 0;
                }
            }
        };
        const uint4 * fragments = p.fragments + (int64_t) block*STEP + lane;
        uint4 ahead[AHEAD][N8]; // the activations of the first parts of the next block of columns
        auto look_ahead = [&] {
#pragma unroll
            for (int j = 0; j < AHEAD; j++) {
#pragma unroll
                for (int n = 0; n < N8; n++) {
                    ahead[j][n] = fragments[(n*FEW_ROWS_PARTS + j)*32];
                }
            }
        };
        look_ahead();
        int slot = 0;
#pragma unroll 1
        for (int unit = first; unit < end; unit++) {
            ring::wait();
            const uint8_t * row0 = slots + slot*ring::TILE + row*weights::PITCH, * row1 = row0 + 8*weights::PITCH;
            const int offset0 = ring::offset(row, block, p.row_bytes), offset1 = ring::offset(row + 8, block, p.row_bytes);
            const auto scales0 = weights::scales::load(row0, offset0, t), scales1 = weights::scales::load(row1, offset1, t);
            const bool ends = ++block == n_blocks;
#pragma unroll
            for (int j0 = 0; j0 < FEW_ROWS_PARTS; j0 += AT_ONCE) {
                typename weights::template raw<AT_ONCE> raw0, raw1;
                raw0.load(row0, offset0, t, j0);
                raw1.load(row1, offset1, t, j0);
#pragma unroll
                for (int i = 0; i < AT_ONCE; i++) {
                    const int j = j0 + i;
                    uint4 b[N8];
#pragma unroll
                    for (int n = 0; n < N8; n++) {
                        b[n] = j < AHEAD ? ahead[j][n] : fragments[(n*FEW_ROWS_PARTS + j)*32];
                    }
                    const few_rows_part part0 = raw0.part(i, j, scales0), part1 = raw1.part(i, j, scales1);
#pragma unroll
                    for (int n = 0; n < N8; n++) {
                        few_rows_multiply(sums[n], part0.low02, part1.low02, part0.low13, part1.low13, b[n].x, b[n].y);
                    }
#pragma unroll
                    for (int n = 0; n < N8; n++) {
                        few_rows_multiply(sums[n], part0.high02, part1.high02, part0.high13, part1.high13, b[n].z, b[n].w);
                    }
                }
            }
            fragments += ends ? STEP - (int64_t) n_blocks*STEP : STEP;
            look_ahead();
            __syncwarp();
            copy_next(slot);
            slot = slot + 1 == SLOTS ? 0 : slot + 1;
            if (ends) {
                block = 0;
                if (unit + 1 < end) {
                    leave_sums(ended + tile++*(shape::SUMS/4));
                }
            }
        }
        if (first < end) {
            leave_sums((float *) slots);
        }

        // A tile's sums: of the warps whose share ends in it, in the order of the columns, and of the one that went on.
        __syncthreads();
        for (int i = threadIdx.x; i < n_pass_tiles*p.n_tokens*FEW_ROWS_TILE; i += 32*WARPS) {
            const int of_tile = i % FEW_ROWS_TILE, of_pass = i/FEW_ROWS_TILE/p.n_tokens, token = i/FEW_ROWS_TILE % p.n_tokens;
            const int first_warp = ((of_pass*n_blocks + 1)*WARPS - 1)/n_units, last_warp = ((of_pass + 1)*n_blocks*WARPS - 1)/n_units;
            const int at = token*FEW_ROWS_TILE + of_tile;
            float sum = 0;
            for (int w = first_warp; w <= last_warp; w++) {
                const int end_of_w = n_units*(w + 1)/WARPS;
                if (end_of_w > (of_pass + 1)*n_blocks) {
                    sum += ended[of_pass*(shape::SUMS/4) + at];
                } else if (n_units*w/WARPS < end_of_w) {
                    sum += ((const float *) (few_rows_shared + w*ring::BYTES))[at];
                }
            }
            int of_matrix = pass_tile + of_pass;
            const few_rows_matrix & matrix = p.matrix_of(of_matrix);
            matrix.result[token*matrix.stride + of_matrix*FEW_ROWS_TILE + of_tile] = sum*p.unscale[token];
        }
        __syncthreads();
    }
#endif
}
