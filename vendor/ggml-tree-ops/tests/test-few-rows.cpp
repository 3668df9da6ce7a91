// Checks quantised products of 1 to 64 tokens on a GPU against a plain reference: cuda/few-rows-products-cuda.cuh.
//
//   test-few-rows list            names of the checks
//   test-few-rows NAME [DEVICE]   runs one, on CUDA0 by default; exit status 0 if it holds, 77 without such a device
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

using floats = std::vector<float>;

static std::mt19937   rng(1);
static ggml_backend_t backend;

static constexpr int    MAX_TOKENS = 64;
static constexpr int    MIN_TOKENS = 4;    // from which on the kernel serves every type
static constexpr int    N_PATTERNS = 64;   // different rows of weights, in any order
static constexpr double EXACT      = 1e-5; // of what is computed in f16; 8-bit activations make 3e-5 and more
static constexpr double ROUGH      = 2e-3; // of ggml's kernels, where a K-quant's minimum magnifies the error of 8-bit activations

static const std::vector<ggml_type> TYPES = { GGML_TYPE_Q4_0, GGML_TYPE_Q8_0, GGML_TYPE_Q4_K, GGML_TYPE_Q5_K, GGML_TYPE_Q6_K, GGML_TYPE_IQ4_XS };

[[noreturn]] static void fail(const std::string & what) { throw std::runtime_error(what); }

static void require(bool holds, const std::string & what) {
    if (!holds) {
        fail(what);
    }
}

static float normal() { static std::normal_distribution<float> d; return d(rng); }

// ---------------------------------------------------------------- weights and activations

struct matrix {
    ggml_type            type;
    int64_t              columns, rows;
    std::vector<uint8_t> data;
    std::vector<floats>  patterns; // of weights
    std::vector<int>     pattern_of_row;

    std::string name() const { return std::string(ggml_type_name(type)) + ' ' + std::to_string(columns) + 'x' + std::to_string(rows); }
};

static matrix random_matrix(ggml_type type, int64_t columns, int64_t rows) {
    matrix m = { type, columns, rows, {}, {}, {} };
    const size_t row_bytes = ggml_row_size(type, columns);
    std::vector<uint8_t> patterns(N_PATTERNS*row_bytes);
    for (int i = 0; i < N_PATTERNS; i++) {
        floats weights(columns);
        const float size = 0.02f*std::exp(normal());
        for (float & w : weights) {
            w = size*normal();
        }
        ggml_quantize_chunk(type, weights.data(), &patterns[i*row_bytes], 0, 1, columns, nullptr);
        ggml_get_type_traits(type)->to_float(&patterns[i*row_bytes], weights.data(), columns);
        m.patterns.push_back(weights);
    }
    m.data.resize(rows*row_bytes);
    for (int64_t r = 0; r < rows; r++) {
        m.pattern_of_row.push_back(rng() % N_PATTERNS);
        memcpy(&m.data[r*row_bytes], &patterns[m.pattern_of_row[r]*row_bytes], row_bytes);
    }
    return m;
}

// [tokens][columns]: of all sizes that a float has, with one token of zeros and one outlier.
static floats random_tokens(int64_t columns) {
    floats x(MAX_TOKENS*columns);
    for (int t = 0; t < MAX_TOKENS; t++) {
        const float size = t == 3 ? 0 : std::exp(8*normal());
        for (int64_t i = 0; i < columns; i++) {
            x[t*columns + i] = size*normal();
        }
    }
    x[5*columns + 77] *= 1e4f;
    return x;
}

// ---------------------------------------------------------------- graphs

// Results of `matrices` by the first n tokens, each [n][rows], of one graph.
static std::vector<floats> products(const std::vector<const matrix *> & matrices, const floats & x, int n) {
    const int64_t columns = matrices[0]->columns;
    ggml_context * context = ggml_init({ (2*matrices.size() + 8)*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true });
    ggml_tensor *  tokens  = ggml_new_tensor_2d(context, GGML_TYPE_F32, columns, n);
    ggml_cgraph *  graph   = ggml_new_graph(context);
    std::vector<ggml_tensor *> weights, results;
    for (const matrix * m : matrices) {
        weights.push_back(ggml_new_tensor_2d(context, m->type, m->columns, m->rows));
        results.push_back(ggml_mul_mat(context, weights.back(), tokens));
        ggml_build_forward_expand(graph, results.back());
    }
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(context, backend);
    require(buffer != nullptr, "no memory");
    for (ggml_tensor * result : results) {
        ggml_backend_tensor_memset(result, 0xFF, 0, ggml_nbytes(result)); // NaN, where nothing is written
    }
    for (size_t i = 0; i < matrices.size(); i++) {
        ggml_backend_tensor_set(weights[i], matrices[i]->data.data(), 0, matrices[i]->data.size());
    }
    ggml_backend_tensor_set(tokens, x.data(), 0, ggml_nbytes(tokens));
    require(ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS, "the graph was not computed");
    std::vector<floats> found;
    for (ggml_tensor * result : results) {
        found.emplace_back(ggml_nelements(result));
        ggml_backend_tensor_get(result, found.back().data(), 0, ggml_nbytes(result));
    }
    ggml_backend_buffer_free(buffer);
    ggml_free(context);
    return found;
}

// The largest error of a token, squared, over what the squares of the products that are summed up come to. (Not over the result's
// square: sums of numbers with both signs may be next to nothing.)
static double error(const matrix & m, const floats & x, const floats & found) {
    double largest = 0;
    for (size_t t = 0; t < found.size()/m.rows; t++) {
        std::vector<double> expected(N_PATTERNS), squares(N_PATTERNS);
        for (int i = 0; i < N_PATTERNS; i++) {
            for (int64_t k = 0; k < m.columns; k++) {
                const double product = (double) m.patterns[i][k]*x[t*m.columns + k];
                expected[i] += product;
                squares[i]  += product*product;
            }
        }
        double wrong = 0, size = 0;
        for (int64_t r = 0; r < m.rows; r++) {
            const double difference = found[t*m.rows + r] - expected[m.pattern_of_row[r]];
            wrong += difference*difference;
            size  += squares[m.pattern_of_row[r]];
        }
        require(std::isfinite(wrong), m.name() + ": token " + std::to_string(t) + " has results that are no numbers");
        require(size > 0 || wrong == 0, m.name() + ": a token of zeros has results");
        largest = std::max(largest, size > 0 ? wrong/size : 0);
    }
    return largest;
}

static void expect_error_below(double limit, const matrix & m, const floats & x, const floats & found) {
    const double e = error(m, x, found);
    char text[32];
    snprintf(text, sizeof(text), "%.2g", e);
    require(e < limit, m.name() + ", " + std::to_string(found.size()/m.rows) + " tokens: error " + text);
}

// Results of two matrices by what a norm with weights makes of x, or a SwiGLU of gates x and `factor`, or by x: [which][n][rows].
enum class input { NORM, GLU };

static constexpr float EPSILON = 1e-6f;

static std::vector<floats> products_of(input kind, const std::vector<const matrix *> & matrices, const floats & x, const floats & factor, int n) {
    const int64_t columns = matrices[0]->columns;
    ggml_context * context = ggml_init({ 32*ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true });
    ggml_tensor *  tokens  = ggml_new_tensor_2d(context, GGML_TYPE_F32, columns, n);
    ggml_tensor *  other   = kind == input::NORM ? ggml_new_tensor_1d(context, GGML_TYPE_F32, columns) : ggml_new_tensor_2d(context, GGML_TYPE_F32, columns, n);
    ggml_tensor *  made    = kind == input::NORM ? ggml_mul(context, ggml_rms_norm(context, tokens, EPSILON), other) : ggml_swiglu_split(context, tokens, other);
    ggml_cgraph *  graph   = ggml_new_graph(context);
    std::vector<ggml_tensor *> weights, results;
    for (const matrix * m : matrices) {
        weights.push_back(ggml_new_tensor_2d(context, m->type, m->columns, m->rows));
        results.push_back(ggml_mul_mat(context, weights.back(), made));
        ggml_build_forward_expand(graph, results.back());
    }
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(context, backend);
    require(buffer != nullptr, "no memory");
    for (size_t i = 0; i < matrices.size(); i++) {
        ggml_backend_tensor_set(weights[i], matrices[i]->data.data(), 0, matrices[i]->data.size());
    }
    ggml_backend_tensor_set(tokens, x.data(), 0, ggml_nbytes(tokens));
    ggml_backend_tensor_set(other, factor.data(), 0, ggml_nbytes(other));
    require(ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS, "the graph was not computed");
    if (kind == input::NORM) {
        results.push_back(made); // which others may want
    }
    std::vector<floats> found;
    for (ggml_tensor * result : results) {
        found.emplace_back(ggml_nelements(result));
        ggml_backend_tensor_get(result, found.back().data(), 0, ggml_nbytes(result));
    }
    ggml_backend_buffer_free(buffer);
    ggml_free(context);
    return found;
}

static floats normed(const floats & x, const floats & weights) {
    floats y(x.size());
    const size_t columns = weights.size();
    for (size_t t = 0; t < x.size()/columns; t++) {
        double squares = 0;
        for (size_t i = 0; i < columns; i++) {
            squares += (double) x[t*columns + i]*x[t*columns + i];
        }
        for (size_t i = 0; i < columns; i++) {
            y[t*columns + i] = (float) (x[t*columns + i]/std::sqrt(squares/columns + EPSILON)*weights[i]);
        }
    }
    return y;
}

static floats gated(const floats & gate, const floats & up) {
    floats y(gate.size());
    for (size_t i = 0; i < gate.size(); i++) {
        y[i] = (float) (gate[i]/(1 + std::exp(-(double) gate[i]))*up[i]);
    }
    return y;
}

// ---------------------------------------------------------------- checks

struct size { int64_t columns, rows; };

// One tile, a tile less or more than an H100 has multiprocessors, passes over many tiles, and those of models.
static const std::vector<size> SIZES = {
    { 256, 16 }, { 512, 48 }, { 768, 2096 }, { 1280, 2128 }, { 256, 53248 }, { 1280, 30000 }, { 1024, 16 }, { 5120, 1024 }, { 17408, 512 }
};

static void every_count_of_tokens_agrees_with_a_plain_reference() {
    for (ggml_type type : TYPES) {
        for (size s : SIZES) {
            const matrix m = random_matrix(type, s.columns, s.rows);
            const floats x = random_tokens(s.columns);
            for (int n : { 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 32, 33, 41, 48, 49, 63, 64 }) {
                expect_error_below(EXACT, m, x, products({ &m }, x, n)[0]);
            }
        }
    }
}

static void a_token_does_not_depend_on_how_many_there_are() {
    for (ggml_type type : TYPES) {
        for (size s : SIZES) {
            const matrix m = random_matrix(type, s.columns, s.rows), other = random_matrix(GGML_TYPE_Q8_0, s.columns, 32);
            const floats x = random_tokens(s.columns);
            const auto   all = products({ &m, &m, &other }, x, MAX_TOKENS), alone = products({ &m }, x, MAX_TOKENS);
            for (int n = MIN_TOKENS; n < MAX_TOKENS; n += s.columns*s.rows > 4000000 ? 7 : 1) {
                const auto some = products({ &m, &m, &other }, x, n);
                for (int i = 0; i < 3; i++) {
                    require(memcmp(some[i].data(), all[i].data(), some[i].size()*sizeof(float)) == 0,
                        m.name() + ": " + std::to_string(n) + " tokens together differ from " + std::to_string(MAX_TOKENS) + ", product " + std::to_string(i));
                }
                const floats single = products({ &m }, x, n)[0];
                require(memcmp(single.data(), alone[0].data(), single.size()*sizeof(float)) == 0, m.name() + ": " + std::to_string(n) + " tokens differ");
            }
        }
    }
}

static void products_in_a_row_agree_with_a_plain_reference() {
    std::vector<matrix> matrices;
    const floats x = random_tokens(2560);
    for (int i = 0; i < 11; i++) { // more than are fused, of one type in a row and not
        matrices.push_back(random_matrix(i < 6 ? GGML_TYPE_Q4_K : TYPES[i % TYPES.size()], 2560, 16*(1 + i % 3)));
    }
    std::vector<const matrix *> all;
    for (const matrix & m : matrices) {
        all.push_back(&m);
    }
    for (int n : { MIN_TOKENS, 16, 23, 64 }) {
        const auto found = products(all, x, n);
        for (size_t i = 0; i < all.size(); i++) {
            expect_error_below(EXACT, matrices[i], x, found[i]);
        }
    }
}

static void norms_and_gates_before_products_agree_with_a_plain_reference() {
    for (int64_t columns : { 256, 5120, 17408 }) {
        const matrix a = random_matrix(GGML_TYPE_Q4_K, columns, 48), b = random_matrix(GGML_TYPE_Q6_K, columns, 160);
        const floats x = random_tokens(columns);
        floats weights(columns), gates(x.size()), up(x.size());
        for (float & w : weights) { w = 1 + 0.3f*normal(); }
        for (float & v : gates)   { v = 2*normal(); }
        for (float & v : up)      { v = 3*normal(); }
        const floats by_norm = normed(x, weights), by_gate = gated(gates, up);
        for (int n : { MIN_TOKENS, 8, 23, 64 }) {
            const auto found = products_of(input::NORM, { &a, &b }, x, weights, n);
            expect_error_below(EXACT, a, by_norm, found[0]);
            expect_error_below(EXACT, b, by_norm, found[1]);
            for (size_t i = 0; i < found[2].size(); i++) {
                require(std::fabs(found[2][i] - by_norm[i]) <= 1e-5f*std::fabs(by_norm[i]), "a norm of " + std::to_string(columns) + " columns differs");
            }
            const floats one = products_of(input::GLU, { &a }, gates, up, n)[0];
            expect_error_below(EXACT, a, by_gate, one);
            const auto all = products_of(input::GLU, { &a }, gates, up, MAX_TOKENS)[0];
            require(memcmp(one.data(), all.data(), one.size()*sizeof(float)) == 0, "gated tokens depend on how many there are");
            const auto normed_all = products_of(input::NORM, { &a, &b }, x, weights, MAX_TOKENS)[1];
            require(memcmp(found[1].data(), normed_all.data(), found[1].size()*sizeof(float)) == 0, "normed tokens depend on how many there are");
        }
    }
}

static void what_the_kernel_does_not_take_is_still_right() {
    const floats x = random_tokens(2560);
    const matrix rows = random_matrix(GGML_TYPE_Q4_K, 2560, 100), columns = random_matrix(GGML_TYPE_Q8_0, 160, 64), type = random_matrix(GGML_TYPE_Q3_K, 2560, 64);
    floats narrow(x.begin(), x.begin() + 160*MAX_TOKENS);
    for (float & v : narrow) { // ggml's own kernels keep sums of these in f16
        v = normal();
    }
    floats wide(x.size());
    for (float & v : wide) {
        v = normal();
    }
    for (int n : { 1, 2, 16, 23, 64 }) {
        expect_error_below(ROUGH, rows, wide, products({ &rows }, wide, n)[0]);
        expect_error_below(ROUGH, type, wide, products({ &type }, wide, n)[0]);
        expect_error_below(ROUGH, columns, narrow, products({ &columns }, narrow, n)[0]);
    }
}

static const std::map<std::string, std::function<void()>> CHECKS = {
#define CHECK(name) { #name, name }
    CHECK(a_token_does_not_depend_on_how_many_there_are),
    CHECK(every_count_of_tokens_agrees_with_a_plain_reference),
    CHECK(norms_and_gates_before_products_agree_with_a_plain_reference),
    CHECK(products_in_a_row_agree_with_a_plain_reference),
    CHECK(what_the_kernel_does_not_take_is_still_right),
};

int main(int argc, char ** argv) {
    const std::string wanted = argc > 1 ? argv[1] : "list";
    const char *      device = argc > 2 ? argv[2] : "CUDA0";
    if (wanted == "list") {
        for (const auto & check : CHECKS) {
            printf("%s\n", check.first.c_str());
        }
        return 0;
    }
    if (CHECKS.count(wanted) == 0) {
        fprintf(stderr, "%s is no check; `list` names them\n", wanted.c_str());
        return 2;
    }
    ggml_backend_load_all();
    backend = ggml_backend_init_by_name(device, nullptr);
    if (backend == nullptr) {
        fprintf(stderr, "no device %s\n", device);
        return 77;
    }
    int status = 0;
    try {
        CHECKS.at(wanted)();
        printf("%s: ok\n", wanted.c_str());
    } catch (const std::exception & e) {
        fprintf(stderr, "%s: %s\n", wanted.c_str(), e.what());
        status = 1;
    }
    ggml_backend_free(backend);
    return status;
}
