// Checks of attention of few queries on the CPU (cpu/attention-parts-cpu.cpp) through ggml's own interface.
//
//   test-attention list               the checks
//   test-attention CHECK [THREADS]    runs one: "ok", or what is wrong and exit status 1
//   test-attention time THREADS       microseconds by queries and cells
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

static int n_threads = 2;

static void expect(bool ok, const std::string & what) {
    if (!ok) {
        throw std::runtime_error(what);
    }
}

static ggml_backend_t cpu_backend() {
    ggml_backend_load_all();
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    const auto set = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device),
                                                                                      "ggml_backend_set_n_threads");
    ggml_backend_t backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr);
    set(backend, n_threads);
    return backend;
}

// One attention: shapes, parameters and values. Values are kept as the tensors hold them, so F16 caches hold exact halves.
struct problem {
    int64_t   queries = 4, heads = 6, kv_heads = 2, sequences = 1, cells = 300, DK = 64, DV = 64;
    int64_t   mask_heads = 1;
    ggml_type type = GGML_TYPE_F16;
    float     scale = 0.125f, max_bias = 0, softcap = 0;
    bool      sinks = false, mask = true;

    std::vector<float> q, k, v, m, s; // m: [sequence][mask head][query][cell]

    void fill(std::mt19937 & random, double hidden) {
        std::normal_distribution<float>  normal;
        std::uniform_real_distribution<> chance;
        auto draw = [&](std::vector<float> & x, int64_t n, bool half) {
            x.resize(n);
            for (float & f : x) {
                f = half ? ggml_fp16_to_fp32(ggml_fp32_to_fp16(normal(random))) : normal(random);
            }
        };
        draw(q, sequences*heads*queries*DK, false);
        draw(k, sequences*kv_heads*cells*DK, type == GGML_TYPE_F16);
        draw(v, sequences*kv_heads*cells*DV, type == GGML_TYPE_F16);
        draw(s, heads, false);
        m.resize(sequences*mask_heads*queries*cells);
        for (float & f : m) {
            f = chance(random) < hidden ? -INFINITY : max_bias > 0 ? -(float) (random() % 50) : 0.0f;
        }
    }

    const float * K(int64_t cell, int64_t head, int64_t sequence) const { return &k[((sequence*kv_heads + head)*cells + cell)*DK]; }
    const float * V(int64_t cell, int64_t head, int64_t sequence) const { return &v[((sequence*kv_heads + head)*cells + cell)*DV]; }
    float & M(int64_t cell, int64_t query, int64_t head, int64_t sequence) {
        return m[((sequence*mask_heads + head % mask_heads)*queries + query)*cells + cell];
    }
};

static void set_values(ggml_tensor * t, const std::vector<float> & x) {
    if (t->type == GGML_TYPE_F32) {
        ggml_backend_tensor_set(t, x.data(), 0, x.size()*4);
        return;
    }
    std::vector<ggml_fp16_t> h(x.size());
    ggml_fp32_to_fp16_row(x.data(), h.data(), x.size());
    ggml_backend_tensor_set(t, h.data(), 0, h.size()*2);
}

// [sequence][query][head][DV]; repeats > 0: microseconds of the fastest instead
static std::vector<float> compute(const problem & p, int repeats = 0, double * microseconds = nullptr) {
    ggml_backend_t   backend = cpu_backend();
    ggml_context *   ctx     = ggml_init({ggml_tensor_overhead()*16 + ggml_graph_overhead(), nullptr, true});
    ggml_tensor *    q = ggml_new_tensor_4d(ctx, GGML_TYPE_F32, p.DK, p.queries, p.heads, p.sequences);
    ggml_tensor *    k = ggml_new_tensor_4d(ctx, p.type, p.DK, p.cells, p.kv_heads, p.sequences);
    ggml_tensor *    v = ggml_new_tensor_4d(ctx, p.type, p.DV, p.cells, p.kv_heads, p.sequences);
    ggml_tensor *    m = p.mask ? ggml_new_tensor_4d(ctx, GGML_TYPE_F16, p.cells, p.queries, p.mask_heads, p.sequences) : nullptr;
    ggml_tensor *    s = p.sinks ? ggml_new_tensor_1d(ctx, GGML_TYPE_F32, p.heads) : nullptr;
    ggml_tensor *    out = ggml_flash_attn_ext(ctx, q, k, v, m, p.scale, p.max_bias, p.softcap);
    if (s) {
        ggml_flash_attn_ext_add_sinks(out, s);
    }
    ggml_cgraph * graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, out);
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(ctx, backend);
    set_values(q, p.q);
    set_values(k, p.k);
    set_values(v, p.v);
    if (m) {
        set_values(m, p.m);
    }
    if (s) {
        set_values(s, p.s);
    }
    expect(ggml_backend_graph_compute(backend, graph) == GGML_STATUS_SUCCESS, "the graph was not computed");
    std::vector<float> result(ggml_nelements(out));
    ggml_backend_tensor_get(out, result.data(), 0, ggml_nbytes(out));
    for (int i = 0; i < repeats; ++i) {
        const auto start = std::chrono::steady_clock::now();
        ggml_backend_graph_compute(backend, graph);
        const double took = std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
        *microseconds     = i == 0 ? took : std::min(*microseconds, took);
    }
    ggml_backend_buffer_free(buffer);
    ggml_free(ctx);
    ggml_backend_free(backend);
    return result;
}

static double slope(const problem & p, int64_t head) {
    if (p.max_bias <= 0) {
        return 1;
    }
    const int64_t n = 1 << (int) std::floor(std::log2((double) p.heads));
    return head < n ? std::pow(std::pow(2.0, -p.max_bias/n), head + 1) : std::pow(std::pow(2.0, -p.max_bias/2/n), 2*(head - n) + 1);
}

// The same in double precision.
static std::vector<double> exact(problem p) {
    std::vector<double> out;
    for (int64_t sequence = 0; sequence < p.sequences; ++sequence) {
        for (int64_t query = 0; query < p.queries; ++query) {
            for (int64_t head = 0; head < p.heads; ++head) {
                const int64_t       kv_head = head/(p.heads/p.kv_heads);
                const float *       q       = &p.q[((sequence*p.heads + head)*p.queries + query)*p.DK];
                std::vector<double> score(p.cells, -INFINITY), sum(p.DV, 0.0);
                double              most = p.sinks ? p.s[head] : -INFINITY;
                for (int64_t c = 0; c < p.cells; ++c) {
                    if (p.mask && p.M(c, query, head, sequence) == -INFINITY) {
                        continue;
                    }
                    double x = 0;
                    for (int64_t d = 0; d < p.DK; ++d) {
                        x += (double) q[d]*p.K(c, kv_head, sequence)[d];
                    }
                    x *= p.scale;
                    x = p.softcap > 0 ? p.softcap*std::tanh(x/p.softcap) : x;
                    score[c] = x + (p.mask ? slope(p, head)*p.M(c, query, head, sequence) : 0);
                    most     = std::max(most, score[c]);
                }
                double weights = p.sinks ? std::exp(p.s[head] - most) : 0;
                for (int64_t c = 0; c < p.cells; ++c) {
                    const double w = score[c] == -INFINITY ? 0 : std::exp(score[c] - most);
                    weights += w;
                    for (int64_t d = 0; w > 0 && d < p.DV; ++d) {
                        sum[d] += w*p.V(c, kv_head, sequence)[d];
                    }
                }
                for (double x : sum) {
                    out.push_back(weights > 0 ? x/weights : 0);
                }
            }
        }
    }
    return out;
}

static std::vector<std::pair<std::string, problem>> problems() {
    std::vector<std::pair<std::string, problem>> all;
    auto add = [&](const std::string & name, const std::function<void(problem &)> & change) {
        problem p;
        change(p);
        all.emplace_back(name, p);
    };
    add("four queries", [](problem &) {});
    add("one query", [](problem & p) { p.queries = 1; });
    add("one query, three parts", [](problem & p) { p.queries = 1; p.cells = 900; });
    add("63 queries, floats", [](problem & p) { p.queries = 63; p.type = GGML_TYPE_F32; });
    add("few cells", [](problem & p) { p.cells = 5; });
    add("no mask", [](problem & p) { p.mask = false; p.cells = 513; });
    add("wide heads of two sizes", [](problem & p) { p.DK = 192; p.DV = 128; });
    add("heads of 72 and 40", [](problem & p) { p.DK = 72; p.DV = 40; });
    add("40 heads of one K and V", [](problem & p) { p.heads = 40; p.kv_heads = 1; p.queries = 3; });
    add("a head each", [](problem & p) { p.heads = p.kv_heads = 3; p.queries = 9; });
    add("sequences", [](problem & p) { p.sequences = 3; p.queries = 2; });
    add("one query in each of two sequences", [](problem & p) { p.sequences = 2; p.queries = 1; p.cells = 600; });
    add("ALiBi", [](problem & p) { p.max_bias = 8; p.heads = 6; });
    add("a mask for each head", [](problem & p) { p.mask_heads = 6; });
    add("a mask for each head, one query", [](problem & p) { p.mask_heads = 6; p.queries = 1; });
    add("capped scores", [](problem & p) { p.softcap = 3; });
    add("sinks", [](problem & p) { p.sinks = true; });
    add("sinks, one query", [](problem & p) { p.sinks = true; p.queries = 1; p.cells = 700; });
    return all;
}

static void results_are_close_to_the_exact_ones() {
    std::mt19937 random(1);
    for (auto & [name, p] : problems()) {
        for (double hidden : {0.0, 0.3, 0.97}) {
            p.fill(random, hidden);
            const std::vector<float>  found = compute(p);
            const std::vector<double> right = exact(p);
            for (size_t i = 0; i < found.size(); ++i) {
                expect(std::fabs(found[i] - right[i]) < 4e-6*(1 + std::fabs(right[i])),
                       name + ": " + std::to_string(found[i]) + " instead of " + std::to_string(right[i]));
            }
        }
    }
}

// Query i of `p` alone, with only the cells that it sees, as plain decoding has them.
static problem alone(problem p, int64_t query) {
    problem one = p;
    one.queries = 1;
    one.q.clear();
    for (int64_t h = 0; h < p.heads; ++h) {
        const auto from = p.q.begin() + (h*p.queries + query)*p.DK;
        one.q.insert(one.q.end(), from, from + p.DK);
    }
    std::vector<int64_t> seen;
    for (int64_t c = 0; c < p.cells; ++c) {
        if (p.M(c, query, 0, 0) != -INFINITY) {
            seen.push_back(c);
        }
    }
    one.cells = seen.size();
    one.k.clear(); one.v.clear(); one.m.clear();
    for (int64_t h = 0; h < p.kv_heads; ++h) {
        for (int64_t c : seen) {
            one.k.insert(one.k.end(), p.K(c, h, 0), p.K(c, h, 0) + p.DK);
            one.v.insert(one.v.end(), p.V(c, h, 0), p.V(c, h, 0) + p.DV);
        }
    }
    for (int64_t c : seen) {
        one.m.push_back(p.M(c, query, 0, 0));
    }
    return one;
}

static void a_query_depends_on_nothing_but_the_cells_it_sees() {
    std::mt19937 random(2);
    for (auto & [name, p] : problems()) {
        if (p.sequences > 1 || p.mask_heads > 1 || !p.mask) {
            continue;
        }
        for (int64_t cells : {p.cells, (int64_t) 256, (int64_t) 1100}) {
            p.cells = cells;
            p.fill(random, 0.4);
            const std::vector<float> together = compute(p);
            for (int64_t query = 0; query < p.queries; query += 1 + p.queries/5) {
                const problem one = alone(p, query);
                if (one.cells > 0) {
                    const std::vector<float> single = compute(one);
                    expect(std::equal(single.begin(), single.end(), together.begin() + query*p.heads*p.DV),
                           name + ", " + std::to_string(cells) + " cells: query " + std::to_string(query) + " has other bits alone");
                }
            }
        }
    }
}

static void the_number_of_threads_changes_nothing() {
    std::mt19937 random(3);
    for (auto & [name, p] : problems()) {
        p.fill(random, 0.2);
        n_threads = 1;
        const std::vector<float> one = compute(p);
        for (int threads : {2, 3, 7}) {
            n_threads = threads;
            expect(compute(p) == one, name + ": other bits with " + std::to_string(threads) + " threads");
        }
    }
}

static void what_hidden_cells_hold_does_not_matter() {
    std::mt19937 random(4);
    for (auto & [name, p] : problems()) {
        if (!p.mask || p.mask_heads > 1) {
            continue;
        }
        p.fill(random, 0.0);
        for (int64_t c = 0; c < p.cells; c += 3) {
            for (int64_t i = 0; i < p.queries*p.sequences; ++i) {
                p.M(c, i % p.queries, 0, i/p.queries) = -INFINITY;
            }
        }
        const std::vector<float> before = compute(p);
        for (int64_t i = 0; i < p.kv_heads*p.sequences; ++i) {
            for (int64_t c = 0; c < p.cells; c += 3) {
                std::fill_n(p.k.begin() + (i*p.cells + c)*p.DK, p.DK, NAN);
                std::fill_n(p.v.begin() + (i*p.cells + c)*p.DV, p.DV, NAN);
            }
        }
        expect(compute(p) == before, name + ": hidden cells that hold no numbers changed something");
    }
}

static void print_times() {
    std::mt19937 random(5);
    for (int64_t cells : {128, 1024, 4096, 16384}) {
        for (int64_t queries : {1, 4, 8, 16, 32, 63, 64}) {
            problem p;
            p.queries = queries; p.heads = 9; p.kv_heads = 3; p.cells = cells;
            p.fill(random, 0.0);
            double microseconds = 0;
            compute(p, 20, &microseconds);
            printf("%6d cells %3d queries %10.1f us\n", (int) cells, (int) queries, microseconds);
        }
    }
}

static const std::map<std::string, void (*)()> CHECKS = {
    {"a_query_depends_on_nothing_but_the_cells_it_sees", a_query_depends_on_nothing_but_the_cells_it_sees},
    {"results_are_close_to_the_exact_ones", results_are_close_to_the_exact_ones},
    {"the_number_of_threads_changes_nothing", the_number_of_threads_changes_nothing},
    {"what_hidden_cells_hold_does_not_matter", what_hidden_cells_hold_does_not_matter},
};

int main(int argc, char ** argv) {
    const std::string check = argc > 1 ? argv[1] : "list";
    n_threads               = argc > 2 ? atoi(argv[2]) : 2;
    if (check == "list") {
        for (const auto & c : CHECKS) {
            printf("%s\n", c.first.c_str());
        }
        return 0;
    }
    try {
        check == "time" ? print_times() : CHECKS.at(check)();
        puts("ok");
        return 0;
    } catch (const std::exception & e) {
        printf("%s\n", e.what());
        return 1;
    }
}
