// Quantised matrix products by number of rows of activations: GB/s of weights read, through ggml's own backend interface.
// Weights rotate among enough copies that no cache serves them; the median of several runs is printed.
//
//   g++ -O2 -std=c++17 benchmarks/gpu/products.cpp -I GGML/include -L LIB -lggml -lggml-base -Wl,-rpath,LIB -o products
//   GGML_CUDA_DISABLE_FUSION=1 ./products CUDA0 q4_K q6_K      # each product by itself, its activations converted for it alone
//   ./products CUDA0 q4_K                                      # products of the same activations share their conversion
//   GGML_CUDA_FEW_ROWS=0 ./products CUDA0 q4_K                 # ggml's kernels
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

struct shape { int64_t columns, rows; };

static const std::vector<shape> SHAPES = { { 5120, 17408 }, { 17408, 5120 }, { 5120, 5120 }, { 5120, 1024 } };
static const std::vector<int>   TOKENS = { 1, 2, 3, 4, 5, 6, 8, 9, 16, 17, 24, 32, 48, 64 };

static constexpr size_t BEYOND_CACHES = 300000000; // bytes of weights, together
static constexpr int    RUNS = 7, PER_RUN = 3, WARMUP = 3;

static std::mt19937 rng(1);

static ggml_type type_named(const std::string & name) {
    for (int t = 0; t < GGML_TYPE_COUNT; t++) {
        if (ggml_type_name((ggml_type) t) && name == ggml_type_name((ggml_type) t)) {
            return (ggml_type) t;
        }
    }
    return GGML_TYPE_COUNT;
}

static std::vector<float> random_floats(int64_t n, float size) {
    std::normal_distribution<float> normal(0, size);
    std::vector<float> values(n);
    for (float & x : values) {
        x = normal(rng);
    }
    return values;
}

// Of 64 different rows in any order: to quantise all of them takes long.
static std::vector<uint8_t> random_weights(ggml_type type, shape s) {
    constexpr int N_DIFFERENT = 64;
    const size_t row_bytes = ggml_row_size(type, s.columns);
    const auto   floats = random_floats(N_DIFFERENT*s.columns, 0.02f);
    std::vector<uint8_t> weights(s.rows*row_bytes);
    ggml_quantize_chunk(type, floats.data(), weights.data(), 0, N_DIFFERENT, s.columns, nullptr);
    for (int64_t r = N_DIFFERENT; r < s.rows; r++) {
        memcpy(&weights[r*row_bytes], &weights[(rng() % N_DIFFERENT)*row_bytes], row_bytes);
    }
    return weights;
}

static double seconds_of(ggml_backend_t backend, ggml_cgraph * graph) {
    const auto started = std::chrono::steady_clock::now();
    for (int i = 0; i < PER_RUN; i++) {
        ggml_backend_graph_compute(backend, graph);
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count()/PER_RUN;
}

// GB/s; 0: no memory.
static double measure(ggml_backend_t backend, ggml_type type, shape s, const std::vector<uint8_t> & data, int n_tokens) {
    const int n_copies = (int) (BEYOND_CACHES/data.size()) + 1;
    ggml_context * context = ggml_init({ ggml_tensor_overhead()*(2*n_copies + 8) + ggml_graph_overhead_custom(4096, false), nullptr, true });
    ggml_cgraph *  graph   = ggml_new_graph_custom(context, 4096, false);
    ggml_tensor *  tokens  = ggml_new_tensor_2d(context, GGML_TYPE_F32, s.columns, n_tokens);
    std::vector<ggml_tensor *> weights;
    for (int i = 0; i < n_copies; i++) {
        weights.push_back(ggml_new_tensor_2d(context, type, s.columns, s.rows));
        ggml_build_forward_expand(graph, ggml_mul_mat(context, weights.back(), tokens));
    }
    double result = 0;
    if (ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(context, backend)) {
        for (ggml_tensor * w : weights) {
            ggml_backend_tensor_set(w, data.data(), 0, data.size());
        }
        const auto x = random_floats(s.columns*n_tokens, 1);
        ggml_backend_tensor_set(tokens, x.data(), 0, ggml_nbytes(tokens));
        for (int i = 0; i < WARMUP; i++) {
            ggml_backend_graph_compute(backend, graph);
        }
        std::vector<double> seconds(RUNS);
        std::generate(seconds.begin(), seconds.end(), [&] { return seconds_of(backend, graph); });
        std::sort(seconds.begin(), seconds.end());
        result = data.size()*n_copies/seconds[RUNS/2]/1e9;
        ggml_backend_buffer_free(buffer);
    }
    ggml_free(context);
    return result;
}

int main(int argc, char ** argv) {
    ggml_backend_load_all();
    ggml_backend_t backend = argc > 2 ? ggml_backend_init_by_name(argv[1], nullptr) : nullptr;
    if (backend == nullptr) {
        fprintf(stderr, "usage: products DEVICE TYPE…, as in: products CUDA0 q4_K\n");
        return 1;
    }
    printf("%-6s %-12s", "type", "columns x rows");
    for (int n : TOKENS) {
        printf(" %5d", n);
    }
    printf("   tokens; GB/s of weights\n");
    for (int i = 2; i < argc; i++) {
        const ggml_type type = type_named(argv[i]);
        if (type == GGML_TYPE_COUNT || !ggml_is_quantized(type)) {
            fprintf(stderr, "%s is no quantised type\n", argv[i]);
            return 1;
        }
        for (shape s : SHAPES) {
            const auto data = random_weights(type, s);
            printf("%-6s %5d x %-6d", argv[i], (int) s.columns, (int) s.rows);
            for (int n : TOKENS) {
                printf(" %5.0f", measure(backend, type, s, data, n));
                fflush(stdout);
            }
            printf("\n");
        }
    }
    ggml_backend_free(backend);
    return 0;
}
