// Checks of the interleaved weights (cpu/rows) through ggml's own interface, and their speed.
//
//   test-rows list               the checks
//   test-rows CHECK [THREADS]    runs one: "ok", "skipped: …", or what is wrong and exit status 1
//   test-rows time THREADS [TYPE…] [--rows 1,2,…] [--shape K M] [--cached]
//                                GB/s of weights by rows of activations, for each buffer type of the CPU; the best of many
//                                runs. Weights come from memory, or with --cached from the caches: the arithmetic alone
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

// the plain twin and what it needs, under a name of their own: the library has its own copies
#define rows plain_rows
#include "../cpu/rows/activations.cpp"
#include "../cpu/rows/form.cpp"
#include "../cpu/rows/reference.cpp"
#undef rows
namespace rows = plain_rows;

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

static const std::vector<ggml_type> TYPES = {
    GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, GGML_TYPE_Q4_1, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1, GGML_TYPE_IQ4_NL, GGML_TYPE_MXFP4, GGML_TYPE_Q4_K,
    GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_IQ4_XS, GGML_TYPE_F16, GGML_TYPE_BF16, GGML_TYPE_F32};

static int n_threads = 2;

struct skipped : std::runtime_error { using runtime_error::runtime_error; };

static void expect(bool ok, const std::string & what) {
    if (!ok) {
        throw std::runtime_error(what);
    }
}

// A function that the CPU backend offers by name: it may be a library that is loaded at run time.
template <class F> static F of_the_cpu(const char * name) {
    ggml_backend_load_all();
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    return (F) ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), name);
}

static ggml_backend_t cpu_backend() {
    static const auto set_threads = of_the_cpu<ggml_backend_set_n_threads_t>("ggml_backend_set_n_threads");
    ggml_backend_t backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    set_threads(backend, n_threads);
    return backend;
}

static std::vector<ggml_backend_buffer_type_t> buffer_types() {
    std::vector<ggml_backend_buffer_type_t> all = {ggml_backend_cpu_buffer_type()};
    static const auto get = of_the_cpu<ggml_backend_dev_get_extra_bufts_t>("ggml_backend_dev_get_extra_bufts");
    for (auto * t = get ? get(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU)) : nullptr; t && *t; ++t) {
        all.push_back(*t);
    }
    return all;
}

static ggml_backend_buffer_type_t rows_type() {
    for (ggml_backend_buffer_type_t t : buffer_types()) {
        if (std::string("CPU_ROWS") == ggml_backend_buft_name(t)) {
            return t;
        }
    }
    throw skipped("this build has no kernels for interleaved weights on this CPU, or GGML_CPU_ROWS=0 is set");
}

// ------------------------------------------------------------------ weights and activations

struct matrix {
    ggml_type            type;
    int64_t              k, m, n_matrices;
    std::vector<uint8_t> bytes; // as in a file

    size_t row_bytes() const { return ggml_row_size(type, k); }
};

static std::vector<float> normal(size_t n, unsigned seed, float scale = 1) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> d(0, scale);
    std::vector<float> x(n);
    for (float & v : x) {
        v = d(rng);
    }
    return x;
}

static matrix quantised(ggml_type type, int64_t k, int64_t m, int64_t n_matrices = 1) {
    matrix w{type, k, m, n_matrices, {}};
    const std::vector<float> x = normal(k*m*n_matrices, 1 + k + m);
    w.bytes.resize(w.row_bytes()*m*n_matrices);
    if (type == GGML_TYPE_F32) {
        memcpy(w.bytes.data(), x.data(), w.bytes.size());
    } else {
        ggml_quantize_chunk(type, x.data(), w.bytes.data(), 0, m*n_matrices, k, nullptr);
    }
    return w;
}

static std::vector<float> dequantised(const matrix & w) {
    std::vector<float> x(w.k*w.m*w.n_matrices);
    if (w.type == GGML_TYPE_F32) {
        memcpy(x.data(), w.bytes.data(), w.bytes.size());
    } else {
        ggml_get_type_traits(w.type)->to_float(w.bytes.data(), x.data(), x.size());
    }
    return x;
}

// Weights in a buffer, and a graph over them.
class fixture {
public:
    fixture(const matrix & w, ggml_backend_buffer_type_t where) : backend(cpu_backend()) {
        weights_context = ggml_init({4*ggml_tensor_overhead(), nullptr, true});
        weights = ggml_new_tensor_3d(weights_context, w.type, w.k, w.m, w.n_matrices);
        buffer  = ggml_backend_alloc_ctx_tensors_from_buft(weights_context, where);
        expect(buffer, "no memory");
        ggml_backend_tensor_set(weights, w.bytes.data(), 0, w.bytes.size());
        graph_context = ggml_init({64*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true});
    }

    ~fixture() {
        ggml_backend_buffer_free(graph_buffer);
        ggml_backend_buffer_free(buffer);
        ggml_free(graph_context);
        ggml_free(weights_context);
        ggml_backend_free(backend);
    }

    ggml_tensor * input(ggml_type type, int64_t a, int64_t b, int64_t c = 1) { return ggml_new_tensor_3d(graph_context, type, a, b, c); }

    void prepare(ggml_tensor * result) {
        expect(ggml_backend_supports_op(backend, result) || !result->src[1]->buffer, "the op is not supported");
        graph = ggml_new_graph(graph_context);
        ggml_build_forward_expand(graph, result);
        graph_buffer = ggml_backend_alloc_ctx_tensors(graph_context, backend);
        expect(ggml_backend_supports_op(backend, result), "the op is not supported");
    }

    std::vector<float> run(ggml_tensor * result) {
        expect(ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS, "the graph was not computed");
        std::vector<float> out(ggml_nelements(result));
        ggml_backend_tensor_get(result, out.data(), 0, out.size()*4);
        return out;
    }

    ggml_backend_t        backend;
    ggml_context *        weights_context;
    ggml_context *        graph_context;
    ggml_tensor *         weights;
    ggml_backend_buffer_t buffer, graph_buffer = nullptr;
    ggml_cgraph *         graph = nullptr;
};

// n rows of activations times the weights: [n][m]
static std::vector<float> product(const matrix & w, const std::vector<float> & x, int64_t n, ggml_backend_buffer_type_t where) {
    fixture f(w, where);
    ggml_tensor * in  = f.input(GGML_TYPE_F32, w.k, n);
    ggml_tensor * out = ggml_mul_mat(f.graph_context, f.weights, in);
    f.prepare(out);
    ggml_backend_tensor_set(in, x.data(), 0, w.k*n*4);
    return f.run(out);
}

// The same by the plain twin.
static std::vector<float> plain_product(const matrix & w, const std::vector<float> & x, int64_t n) {
    const rows::form & f = *rows::form_of(w.type);
    rows::activation_form a;
    a.block     = f.block;
    a.floats    = w.type == GGML_TYPE_F16 || w.type == GGML_TYPE_BF16 || w.type == GGML_TYPE_F32;
    a.pair_sums = w.type == GGML_TYPE_Q4_K || w.type == GGML_TYPE_Q5_K;
    a.sum       = w.type == GGML_TYPE_Q4_1 || w.type == GGML_TYPE_Q5_1;
    const rows::layout where = {&f, w.k/f.block};
    std::vector<uint8_t> group(where.group_bytes());
    std::vector<int32_t> tile(where.n_blocks*a.words());
    std::vector<float>   out(n*w.m);
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t b = 0; b < where.n_blocks; ++b) {
            rows::quantise_block(a, &x[i*w.k + b*f.block], &tile[b*a.words()], 0, 1);
        }
        for (int64_t r = 0; r < w.m; r += rows::GROUP) {
            const int there = (int) std::min<int64_t>(rows::GROUP, w.m - r);
            float     results[rows::GROUP], * result = results;
            rows::pack(where, group.data(), &w.bytes[r*w.row_bytes()], w.row_bytes(), there);
            rows::reference_product(w.type, a, where.quants(group.data(), 0), where.scales(group.data(), 0), where.n_blocks, tile.data(), 1, &result);
            memcpy(&out[i*w.m + r], results, there*4);
        }
    }
    return out;
}

static std::string at(ggml_type type, int64_t k, int64_t m, int64_t n) {
    return std::string(ggml_type_name(type)) + " " + std::to_string(m) + " x " + std::to_string(k) + ", " + std::to_string(n) + " rows";
}

static void expect_same_bits(const std::vector<float> & a, const std::vector<float> & b, const std::string & what) {
    expect(a.size() == b.size(), what + ": other sizes");
    for (size_t i = 0; i < a.size(); ++i) {
        if (memcmp(&a[i], &b[i], 4) != 0) {
            char text[128];
            snprintf(text, sizeof text, ": entry %zu is %.9g and %.9g", i, a[i], b[i]);
            throw std::runtime_error(what + text);
        }
    }
}

// ------------------------------------------------------------------ checks

static void kernels_equal_their_plain_twin() {
    ggml_backend_buffer_type_t where = rows_type();
    for (ggml_type type : TYPES) {
        for (int64_t m : {1, 16, 37, 100}) {
            const int64_t k = rows::form_of(type)->block*(m == 16 ? 1 : 3);
            const matrix  w = quantised(type, k, m);
            for (int64_t n : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 40}) {
                const std::vector<float> x = normal(n*k, 5, 2);
                expect_same_bits(product(w, x, n, where), plain_product(w, x, n), at(type, k, m, n));
            }
        }
    }
}

// Random bytes as quants, scales of every sign and size, activations at the ends of their range.
static void extreme_values_are_right() {
    ggml_backend_buffer_type_t where = rows_type();
    for (ggml_type type : TYPES) {
        const int64_t k = 512, m = 48, n = 7;
        matrix w = quantised(type, k, m);
        std::vector<float> x = normal(n*k, 9);
        std::mt19937 rng(3);
        if (type != GGML_TYPE_F16 && type != GGML_TYPE_BF16 && type != GGML_TYPE_F32) {
            const rows::form & f = *rows::form_of(type);
            const int patterns[] = {0x00, 0xff, 0x80, 0x7f, 0x0f, 0xf0, 0x88, -1};
            for (size_t b = 0; b < w.bytes.size()/f.block_bytes; ++b) { // every byte but the half floats
                const int pattern = patterns[b/(k/f.block) % 8];
                for (int i = 0; i < f.n_quants; ++i) {
                    for (int j = 0; j < f.quants[i].size*f.quants[i].count; ++j) {
                        w.bytes[b*f.block_bytes + f.quants[i].offset + j] = (uint8_t) (pattern < 0 ? rng() : pattern);
                    }
                }
                for (int i = 1; i < f.n_scales; ++i) {
                    for (int j = 0; j < f.scales[i].size*f.scales[i].count; ++j) {
                        w.bytes[b*f.block_bytes + f.scales[i].offset + j] = (uint8_t) (b % 3 ? rng() : 0xff);
                    }
                }
            }
        }
        for (int64_t i = 0; i < n*k; ++i) {
            const float ends[] = {1, -1};
            x[i] = i/k == 0 ? 1 : i/k == 1 ? -1 : i/k == 2 ? ends[i % 2] : i/k == 3 ? ends[i/2 % 2] : i/k == 4 ? ends[i/4 % 2] : i/k == 5 ? 0 : x[i];
        }
        expect_same_bits(product(w, x, n, where), plain_product(w, x, n), at(type, k, m, n));
    }
}

static void a_row_does_not_depend_on_the_others() {
    ggml_backend_buffer_type_t where = rows_type();
    for (ggml_type type : TYPES) {
        const int64_t k = 768, m = 333, n = 70;
        const matrix  w = quantised(type, k, m);
        const std::vector<float> x = normal(n*k, 11);
        const std::vector<float> all = product(w, x, n, where);
        for (int64_t i : {0, 1, 33, 69}) {
            const std::vector<float> one = product(w, {x.begin() + i*k, x.begin() + (i + 1)*k}, 1, where);
            expect_same_bits(one, {all.begin() + i*m, all.begin() + (i + 1)*m}, at(type, k, m, n));
        }
        const int threads = n_threads;
        n_threads = 1;
        const std::vector<float> single = product(w, x, n, where);
        n_threads = threads;
        expect_same_bits(all, single, at(type, k, m, n) + ", one thread");
    }
}

// The error is that of activations rounded to 8 bits (none for floating point weights).
static void products_are_close_to_the_exact_ones() {
    ggml_backend_buffer_type_t where = rows_type();
    for (ggml_type type : TYPES) {
        const int64_t k = 1024, m = 64, n = 4;
        const matrix  w = quantised(type, k, m);
        const std::vector<float> x = normal(n*k, 13), values = dequantised(w), got = product(w, x, n, where);
        double error = 0, size = 0;
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t r = 0; r < m; ++r) {
                double sum = 0;
                for (int64_t j = 0; j < k; ++j) {
                    sum += (double) values[r*k + j]*x[i*k + j];
                }
                error += (sum - got[i*m + r])*(sum - got[i*m + r]);
                size  += sum*sum;
            }
        }
        const bool floats = type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 || type == GGML_TYPE_F32;
        const double relative = std::sqrt(error/size);
        expect(relative < (floats ? 1e-6 : 0.012), at(type, k, m, n) + ": relative error " + std::to_string(relative));
    }
}

static void a_tensor_comes_back_as_it_was() {
    ggml_backend_buffer_type_t where = rows_type();
    for (ggml_type type : TYPES) {
        matrix  w = quantised(type, 512, 83);
        fixture f(w, where);
        std::vector<uint8_t> back(w.bytes.size());
        ggml_backend_tensor_get(f.weights, back.data(), 0, back.size());
        expect(back == w.bytes, at(type, w.k, w.m, 0) + ": not the same bytes");

        std::mt19937 rng(5); // parts that begin and end anywhere
        for (int i = 0; i < 20; ++i) {
            const size_t from = rng() % w.bytes.size(), size = rng() % (w.bytes.size() - from) + 1;
            for (size_t j = 0; j < size; ++j) {
                w.bytes[from + j] = (uint8_t) rng();
            }
            ggml_backend_tensor_set(f.weights, w.bytes.data() + from, from, size);
            std::vector<uint8_t> part(size);
            ggml_backend_tensor_get(f.weights, part.data(), from, size);
            expect(std::equal(part.begin(), part.end(), w.bytes.begin() + from), at(type, w.k, w.m, 0) + ": a part is not the same");
        }
        ggml_backend_tensor_get(f.weights, back.data(), 0, back.size());
        expect(back == w.bytes, at(type, w.k, w.m, 0) + ": not the same bytes after writing parts");
    }
}

static void experts_equal_products_of_their_own() {
    ggml_backend_buffer_type_t where = rows_type();
    for (ggml_type type : {GGML_TYPE_Q8_0, GGML_TYPE_Q4_K, GGML_TYPE_F16}) {
        const int64_t k = 512, m = 72, experts = 5, used = 2, tokens = 9;
        const matrix  w = quantised(type, k, m, experts);
        for (int64_t inputs : {(int64_t) 1, used}) { // one input for all experts of a token, or one each
            fixture f(w, where);
            ggml_tensor * in  = f.input(GGML_TYPE_F32, k, inputs, tokens);
            ggml_tensor * ids = f.input(GGML_TYPE_I32, used, tokens);
            ggml_tensor * out = ggml_mul_mat_id(f.graph_context, f.weights, in, ids);
            f.prepare(out);
            const std::vector<float> x = normal(k*inputs*tokens, 17);
            std::vector<int32_t> chosen;
            for (int64_t t = 0; t < tokens; ++t) { // expert 4 is never asked
                chosen.push_back((int32_t) (t % 4));
                chosen.push_back((int32_t) ((t + 1) % 4));
            }
            ggml_backend_tensor_set(in, x.data(), 0, x.size()*4);
            ggml_backend_tensor_set(ids, chosen.data(), 0, chosen.size()*4);
            const std::vector<float> got = f.run(out);
            for (int64_t t = 0; t < tokens; ++t) {
                for (int64_t i = 0; i < used; ++i) {
                    matrix expert{type, k, m, 1, {}};
                    const size_t size = w.row_bytes()*m, e = chosen[t*used + i];
                    expert.bytes.assign(w.bytes.begin() + e*size, w.bytes.begin() + (e + 1)*size);
                    const float * row = &x[(t*inputs + i % inputs)*k];
                    const float * result = &got[(t*used + i)*m];
                    expect_same_bits({result, result + m}, product(expert, {row, row + k}, 1, where), at(type, k, m, tokens) + ", an expert");
                }
            }
        }
    }
}

static void activations_may_have_three_dimensions_and_gaps() {
    ggml_backend_buffer_type_t where = rows_type();
    for (ggml_type type : {GGML_TYPE_Q4_0, GGML_TYPE_Q6_K, GGML_TYPE_F32}) {
        const int64_t k = 256, m = 40;
        const matrix  w = quantised(type, k, m);
        fixture f(w, where);
        ggml_tensor * in  = f.input(GGML_TYPE_F32, 2*k, 3, 4);
        ggml_tensor * out = ggml_mul_mat(f.graph_context, f.weights, ggml_view_3d(f.graph_context, in, k, 3, 4, in->nb[1], in->nb[2], k*4));
        f.prepare(out);
        const std::vector<float> x = normal(2*k*12, 19);
        ggml_backend_tensor_set(in, x.data(), 0, x.size()*4);
        const std::vector<float> got = f.run(out);
        for (int64_t i = 0; i < 12; ++i) {
            const float * row = &x[2*k*i + k];
            expect_same_bits({&got[i*m], &got[i*m] + m}, product(w, {row, row + k}, 1, where), at(type, k, m, 12));
        }
    }
}

static void other_ops_and_odd_views_are_not_taken() {
    ggml_backend_buffer_type_t where = rows_type();
    const matrix w = quantised(GGML_TYPE_Q8_0, 256, 64);
    fixture f(w, where);
    ggml_context * c = f.graph_context;
    ggml_tensor * x = f.input(GGML_TYPE_F32, 256, 2), * ids = f.input(GGML_TYPE_I32, 4, 1);
    auto view = [&](int64_t row) {
        ggml_tensor * v = ggml_view_2d(c, f.weights, 256, 16, f.weights->nb[1], row*f.weights->nb[1]);
        ggml_backend_view_init(v);
        return v;
    };
    expect(ggml_backend_supports_op(f.backend, ggml_mul_mat(c, f.weights, x)), "a product is not supported");
    expect(ggml_backend_supports_op(f.backend, ggml_mul_mat(c, view(16), x)), "a product with rows 16 to 31 is not supported");
    expect(!ggml_backend_supports_op(f.backend, ggml_mul_mat(c, view(8), x)), "rows 8 to 23 are not in one group");
    expect(!ggml_backend_supports_op(f.backend, ggml_get_rows(c, f.weights, ids)), "rows can't be read");
    expect(!ggml_backend_supports_op(f.backend, ggml_cast(c, f.weights, GGML_TYPE_F32)), "weights can't be copied");
}

// ------------------------------------------------------------------ speed

static double seconds_of_a_graph(const matrix & w, int n, ggml_backend_buffer_type_t where, int copies) {
    ggml_backend_t backend = cpu_backend();
    ggml_context * cw = ggml_init({ggml_tensor_overhead()*(copies + 4), nullptr, true});
    ggml_context * c  = ggml_init({ggml_tensor_overhead()*(copies + 4) + ggml_graph_overhead_custom(4096, false), nullptr, true});
    ggml_cgraph *  graph = ggml_new_graph_custom(c, 4096, false);
    ggml_tensor *  x = ggml_new_tensor_2d(c, GGML_TYPE_F32, w.k, n);
    std::vector<ggml_tensor *> weights;
    for (int i = 0; i < copies; ++i) {
        weights.push_back(ggml_new_tensor_2d(cw, w.type, w.k, w.m));
    }
    ggml_backend_buffer_t wb = ggml_backend_buft_alloc_buffer(where, 0);
    weights[0]->buffer = wb; // whether this buffer type takes the type at all
    const bool taken = ggml_backend_supports_op(backend, ggml_mul_mat(c, weights[0], x));
    weights[0]->buffer = nullptr;
    ggml_backend_buffer_free(wb);
    double best = 0;
    if (taken) {
        ggml_free(c);
        c = ggml_init({ggml_tensor_overhead()*(copies + 4) + ggml_graph_overhead_custom(4096, false), nullptr, true});
        graph = ggml_new_graph_custom(c, 4096, false);
        x = ggml_new_tensor_2d(c, GGML_TYPE_F32, w.k, n);
        for (ggml_tensor * one : weights) {
            ggml_build_forward_expand(graph, ggml_mul_mat(c, one, x));
        }
        wb = ggml_backend_alloc_ctx_tensors_from_buft(cw, where);
        ggml_backend_buffer_t cb = ggml_backend_alloc_ctx_tensors(c, backend);
        for (ggml_tensor * one : weights) {
            ggml_backend_tensor_set(one, w.bytes.data(), 0, w.bytes.size());
        }
        const std::vector<float> values = normal(w.k*n, 3);
        ggml_backend_tensor_set(x, values.data(), 0, values.size()*4);
        best = 1e9;
        const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(400);
        for (int i = 0; i < 3 || (i < 1000 && std::chrono::steady_clock::now() < end); ++i) {
            const auto from = std::chrono::steady_clock::now();
            ggml_backend_graph_compute(backend, graph);
            best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count());
        }
        ggml_backend_buffer_free(cb);
        ggml_backend_buffer_free(wb);
    }
    ggml_free(c);
    ggml_free(cw);
    ggml_backend_free(backend);
    return best;
}

static void time_types(int argc, char ** argv) {
    std::vector<ggml_type> types;
    std::vector<int>       rows_list = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 512};
    int64_t k = 2048, m = 4096;
    bool    cached = false;
    for (int i = 3; i < argc; ++i) {
        if (std::string("--rows") == argv[i] && i + 1 < argc) {
            rows_list.clear();
            for (char * p = argv[++i]; *p; p += *p == ',') {
                rows_list.push_back((int) strtol(p, &p, 10));
            }
        } else if (std::string("--shape") == argv[i] && i + 2 < argc) {
            k = atoi(argv[++i]);
            m = atoi(argv[++i]);
        } else if (std::string("--cached") == argv[i]) {
            cached = true;
        }
        for (ggml_type t : TYPES) {
            if (argv[i] == std::string(ggml_type_name(t))) {
                types.push_back(t);
            }
        }
    }
    printf("%-7s %-11s rows:", "type", "in");
    for (int n : rows_list) {
        printf(" %7d", n);
    }
    printf("   (GB/s of weights; %lld x %lld, %d threads)\n", (long long) m, (long long) k, n_threads);
    for (ggml_type type : types.empty() ? TYPES : types) {
        const matrix w = quantised(type, k, m);
        std::map<std::string, std::vector<double>> speed;
        for (int n : rows_list) { // buffer types in turn, so that all see the same machine
            const int copies = cached || n >= 64 ? 1 : (int) (150000000/w.bytes.size()) + 1;
            for (ggml_backend_buffer_type_t where : buffer_types()) {
                const double seconds = seconds_of_a_graph(w, n, where, copies);
                speed[ggml_backend_buft_name(where)].push_back(seconds ? w.bytes.size()*copies/seconds/1e9 : 0);
            }
        }
        for (auto & [name, list] : speed) {
            if (list[0] > 0) {
                printf("%-7s %-16s ", ggml_type_name(type), name.c_str());
                for (double gbs : list) {
                    printf(" %7.2f", gbs);
                }
                printf("\n");
            }
        }
        fflush(stdout);
    }
}

static const std::map<std::string, void (*)()> CHECKS = {
#define CHECK(name) {#name, name}
    CHECK(a_row_does_not_depend_on_the_others),
    CHECK(a_tensor_comes_back_as_it_was),
    CHECK(activations_may_have_three_dimensions_and_gaps),
    CHECK(experts_equal_products_of_their_own),
    CHECK(extreme_values_are_right),
    CHECK(kernels_equal_their_plain_twin),
    CHECK(other_ops_and_odd_views_are_not_taken),
    CHECK(products_are_close_to_the_exact_ones),
};

int main(int argc, char ** argv) {
    const std::string what = argc > 1 ? argv[1] : "";
    n_threads = argc > 2 ? atoi(argv[2]) : 2;
    if (what == "list") {
        for (auto & check : CHECKS) {
            printf("%s\n", check.first.c_str());
        }
        return 0;
    }
    if (what == "time") {
        ggml_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
        time_types(argc, argv);
        return 0;
    }
    if (!CHECKS.count(what)) {
        fprintf(stderr, "usage: test-rows list | CHECK [threads] | time THREADS [TYPE...] [--rows 1,2,...] [--shape K M] [--cached]\n");
        return 2;
    }
    try {
        CHECKS.at(what)();
        printf("ok\n");
    } catch (const skipped & reason) {
        printf("skipped: %s\n", reason.what());
    } catch (const std::exception & wrong) {
        printf("%s\n", wrong.what());
        return 1;
    }
    return 0;
}
