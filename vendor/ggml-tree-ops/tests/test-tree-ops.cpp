// Checks and times the tree ops against the chain ops of ggml and against a plain reference.
//
//   test-tree-ops list                          names of the checks
//   test-tree-ops NAME [THREADS]                runs one; exit status 0 if it holds
//   test-tree-ops all                           runs them all
//   test-tree-ops abort NAME                    builds a wrong graph; aborts with the message of the op
//   test-tree-ops time [THREADS [SECONDS]]      table: time of the tree ops over that of the chain ops
//   test-tree-ops time --backend CUDA0 [GB/S]   the same on a GPU, with the floor that its memory sets
//
// --backend NAME: a device of ggml's, CPU by default, for the tree ops and the chain ops. --quick: few trees of each check.
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-tree-ops.h"
#include "cuda/tree-plan.h"
#include "ggml.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using ints   = std::vector<int32_t>;
using floats = std::vector<float>;

static std::mt19937 rng;

static std::string text(double x) {
    char digits[32];
    snprintf(digits, sizeof(digits), "%.9g", x); // tells any two floats apart
    return digits;
}

static int random_int(int first, int last) { return std::uniform_int_distribution<int>(first, last)(rng); }
static int one_of(const ints & values) { return values[random_int(0, (int) values.size() - 1)]; }

static floats random_floats(int64_t n, float low, float high) {
    std::uniform_real_distribution<float> distribution(low, high);
    floats values(n);
    for (float & x : values) {
        x = distribution(rng);
    }
    return values;
}

static int n_trees; // checked, for the report

[[noreturn]] static void fail(const std::string & what) { throw std::runtime_error(what); }

// ---------------------------------------------------------------- trees

enum shape { UNIFORM, DEEP, BUSHY, STAR, CHAIN, BINARY, CATERPILLAR, N_SHAPES };

// with more than one root: some nodes' parents are replaced by -1
static ints random_tree(int n, shape kind, bool several_roots) {
    ints parents(n);
    for (int i = 0; i < n; i++) {
        switch (kind) {
            case UNIFORM:     parents[i] = random_int(0, std::max(i - 1, 0));                   break;
            case DEEP:        parents[i] = random_int(std::max(i - 3, 0), std::max(i - 1, 0));  break;
            case BUSHY:       parents[i] = random_int(0, (int) std::sqrt((double) i));          break;
            case STAR:        parents[i] = 0;                                                   break;
            case CHAIN:       parents[i] = i - 1;                                               break;
            case BINARY:      parents[i] = (i - 1) / 2;                                         break;
            case CATERPILLAR: parents[i] = i % 2 ? i - 1 : i - 2;                               break;
            default:          fail("no such shape");
        }
        if (i == 0 || parents[i] >= i || (several_roots && random_int(0, 5) == 0)) {
            parents[i] = -1;
        }
    }
    return parents;
}

static ints path_to(const ints & parents, int node) {
    ints path;
    for (; node >= 0; node = parents[node]) {
        path.insert(path.begin(), node);
    }
    return path;
}

static std::vector<ints> leaf_paths(const ints & parents) {
    std::vector<bool> has_child(parents.size(), false);
    for (int32_t parent : parents) {
        if (parent >= 0) {
            has_child[parent] = true;
        }
    }
    std::vector<ints> paths;
    for (size_t i = 0; i < parents.size(); i++) {
        if (!has_child[i]) {
            paths.push_back(path_to(parents, (int) i));
        }
    }
    return paths;
}

// How the trees of some sequences, of n nodes each, lie in a batch: any way in which a sequence's nodes keep their order.
struct batch_order {
    int  n = 1, n_seqs = 1, n_states = 1;
    ints at;         // [n_seqs*n] where node i of sequence s is, at s*n + i
    ints row;        // [n_seqs] the number of each sequence's state
    ints root_state; // [n_seqs*n] of the state that a node starts from if it is a root

    void fill(int n_nodes, int n_sequences, bool mixed) {
        n = n_nodes; n_seqs = n_sequences;
        ints whose, next(n_seqs, 0);
        for (int i = 0; i < n*n_seqs; i++) {
            whose.push_back(i / n);
        }
        if (mixed) {
            std::shuffle(whose.begin(), whose.end(), rng);
        }
        at.assign(n*n_seqs, 0);
        for (int i = 0; i < n*n_seqs; i++) {
            at[whose[i]*n + next[whose[i]]++] = i;
        }
        n_states = n_seqs + (mixed ? random_int(0, 2) : 0);
        row.clear();
        for (int i = 0; i < n_states; i++) {
            row.push_back(i);
        }
        if (mixed) {
            std::shuffle(row.begin(), row.end(), rng);
        }
        row.resize(n_seqs);
        root_state.clear();
        for (int i = 0; i < n*n_seqs; i++) {
            root_state.push_back(row[i / n]);
        }
    }
    ints nodes(int seq, const ints & path) const {
        ints found;
        for (int32_t i : path) {
            found.push_back(at[seq*n + i]);
        }
        return found;
    }
    ints parents(const std::vector<ints> & trees) const {
        ints found(at.size());
        for (int s = 0; s < n_seqs; s++) {
            for (int i = 0; i < n; i++) {
                found[at[s*n + i]] = trees[s][i] < 0 ? -1 - root_state[s*n + i] : at[s*n + trees[s][i]];
            }
        }
        return found;
    }
    // paths of different lengths are filled up with -1
    ints paths(const std::vector<ints> & of_sequences, int n_path) const {
        ints found;
        for (int s = 0; s < n_seqs; s++) {
            ints path = nodes(s, of_sequences[s]);
            path.resize(n_path, -1);
            found.insert(found.end(), path.begin(), path.end());
        }
        return found;
    }
    // each sequence's own state before and after
    ints rows() const {
        ints found;
        for (int32_t r : row) {
            found.insert(found.end(), { r, r });
        }
        return found;
    }
    // whether no state is written where another sequence reads one
    bool is_apart(const ints & rows) const {
        for (int s = 0; s < n_seqs; s++) {
            if (rows[2*s] != row[s] && std::find(row.begin(), row.end(), rows[2*s]) != row.end()) {
                return false;
            }
        }
        return true;
    }
    // rows [row] of nodes or states, all of them
    static floats pick(const floats & all, int64_t row, const ints & which) {
        floats picked;
        for (int32_t i : which) {
            if (i < 0 || (i + INT64_C(1))*row > (int64_t) all.size()) {
                picked.insert(picked.end(), row, 0.0f); // a state that there is not
            } else {
                picked.insert(picked.end(), all.begin() + i*row, all.begin() + (i + INT64_C(1))*row);
            }
        }
        return picked;
    }
    int32_t state_of(int seq, const ints & path) const { return root_state[seq*n + path.front()]; }
};

static int longest(const std::vector<ints> & paths) {
    size_t n = 0;
    for (const ints & path : paths) {
        n = std::max(n, path.size());
    }
    return (int) n;
}

// ---------------------------------------------------------------- graphs

static ggml_backend_t cpu_backend;
static ggml_backend_t backend;       // computes the tree ops
static ggml_backend_t chain_backend; // and this one the chain ops: the same GPU, or one thread of the CPU
static bool           on_gpu    = false;
static bool           use_sched = false;
static bool           quick     = false;

static ggml_backend_t open_backend(ggml_backend_dev_t device, int n_threads) {
    ggml_backend_t backend = ggml_backend_dev_init(device, nullptr);
    auto * set_n_threads = (ggml_backend_set_n_threads_t) ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads");
    if (set_n_threads) {
        set_n_threads(backend, n_threads);
    }
    return backend;
}

// Tensors with data, and results: add sources and ops, compute(), read.
class graph {
public:
    explicit graph(ggml_backend_t on = backend)
        : ctx(ggml_init({ 16*1024*1024, nullptr, true })), on(on), nodes(ggml_new_graph_custom(ctx, 8192, false)) {}
    ~graph() {
        ggml_backend_buffer_free(buffer);
        ggml_free(ctx);
    }

    ggml_tensor * source(ggml_type type, std::vector<int64_t> ne, const void * data) {
        ggml_tensor * t = ggml_new_tensor(ctx, type, (int) ne.size(), ne.data());
        const char * bytes = (const char *) data;
        sources.push_back({ t, std::vector<char>(bytes, bytes + ggml_nbytes(t)) });
        return t;
    }
    ggml_tensor * floats_of(std::vector<int64_t> ne, const floats & data) { return source(GGML_TYPE_F32, ne, data.data()); }
    ggml_tensor * ints_of(std::vector<int64_t> ne, const ints & data) { return source(GGML_TYPE_I32, ne, data.data()); }

    ggml_tensor * result(ggml_tensor * t) {
        ggml_build_forward_expand(nodes, t);
        results.push_back(t);
        return t;
    }

    // a tensor on the way to a result that is NaN before the graph runs
    ggml_tensor * overwritten(ggml_tensor * t) {
        poisoned.push_back(t);
        return t;
    }

    void compute() {
        buffer = ggml_backend_alloc_ctx_tensors(ctx, on);
        poisoned.insert(poisoned.end(), results.begin(), results.end());
        for (ggml_tensor * t : poisoned) {
            if (!t->view_src) {
                const std::vector<char> poison(ggml_nbytes(t), (char) 0xff); // NaN
                ggml_backend_tensor_set(t, poison.data(), 0, poison.size());
            }
        }
        upload();
        run();
    }

    // The scheduler places every tensor, on `on` or on the CPU; the results are in `scheduled`.
    void compute_scheduled() {
        ggml_backend_t all[] = { on, cpu_backend };
        ggml_backend_sched_t sched = ggml_backend_sched_new(all, nullptr, 2, 8192, false, true);
        for (auto & source : sources) {
            ggml_set_input(source.first);
        }
        for (ggml_tensor * t : results) {
            ggml_set_output(t);
        }
        if (!ggml_backend_sched_alloc_graph(sched, nodes)) {
            fail("the scheduler has no memory for the graph");
        }
        upload();
        if (ggml_backend_sched_graph_compute(sched, nodes) != GGML_STATUS_SUCCESS) {
            fail("the graph did not compute");
        }
        for (ggml_tensor * t : results) {
            scheduled.push_back(read(t));
        }
        ggml_backend_sched_free(sched);
    }

    void run() {
        ggml_status status;
        if (use_sched) {
            ggml_backend_t all[] = { on, cpu_backend };
            ggml_backend_sched_t sched = ggml_backend_sched_new(all, nullptr, on == cpu_backend ? 1 : 2, 8192, false, true);
            status = ggml_backend_sched_graph_compute(sched, nodes);
            ggml_backend_sched_free(sched);
        } else {
            status = ggml_backend_graph_compute(on, nodes);
        }
        if (status != GGML_STATUS_SUCCESS) {
            fail("the graph did not compute");
        }
    }

    static floats read(const ggml_tensor * t) {
        floats values(ggml_nelements(t));
        ggml_backend_tensor_get(t, values.data(), 0, values.size()*sizeof(float));
        return values;
    }

    ggml_context *      ctx;
    std::vector<floats> scheduled;

private:
    void upload() {
        for (auto & [t, data] : sources) {
            if (t->buffer) { // a scheduler gives none to what no op reads
                ggml_backend_tensor_set(t, data.data(), 0, data.size());
            }
        }
    }

    ggml_backend_t                                           on;
    ggml_cgraph *                                            nodes;
    ggml_backend_buffer_t                                    buffer = nullptr;
    std::vector<std::pair<ggml_tensor *, std::vector<char>>> sources;
    std::vector<ggml_tensor *>                               results;
    std::vector<ggml_tensor *>                               poisoned;
};

// `a` and `b` have to be the same bits
static void expect_same(const float * a, const float * b, int64_t n, const std::string & what) {
    for (int64_t i = 0; i < n; i++) {
        if (memcmp(a + i, b + i, sizeof(float)) != 0) {
            fail(what + ": value " + std::to_string(i) + " is " + text(a[i]) + ", expected " + text(b[i]));
        }
    }
}

// ---------------------------------------------------------------- delta net

// q, k, v as tensors of their own; as parts of one row a node, like a model's; or with heads outside of nodes
enum layout { APART, FUSED, PERMUTED, N_LAYOUTS };

struct net_problem {
    int    S = 16, H = 2, H_k = 2, n = 1, n_seqs = 1;
    bool   kda = false;
    layout order = APART;
    std::vector<ints> parents; // one tree a sequence
    batch_order       places;

    floats q, k, v, g, beta, state; // in the op's order of dimensions, contiguous: of all nodes of the batch, of all states

    void fill(bool mixed = false) {
        places.fill(n, n_seqs, mixed);
        const int64_t nodes = (int64_t) n*n_seqs, rows = H*nodes;
        const float   unit  = 1.0f/std::sqrt((float) S);
        q     = random_floats((int64_t) S*H_k*nodes, -unit, unit);
        k     = random_floats((int64_t) S*H_k*nodes, -unit, unit);
        v     = random_floats(S*rows, -1, 1);
        g     = random_floats((kda ? S : 1)*rows, -2, 0);
        beta  = random_floats(rows, 0, 1);
        state = random_floats((int64_t) S*S*H*places.n_states, -1, 1);
    }
    int gate() const { return kda ? S : 1; }
    int n_nodes() const { return n*n_seqs; }

    std::string describe() const {
        return "S " + std::to_string(S) + " H " + std::to_string(H) + "/" + std::to_string(H_k) + " n " + std::to_string(n) + " seqs " +
            std::to_string(n_seqs) + (kda ? " kda" : "") + " layout " + std::to_string(order);
    }
};

static net_problem random_net(int max_nodes) {
    net_problem p;
    p.S      = on_gpu ? one_of({ 16, 32, 64, 128 }) : one_of({ 16, 16, 20, 32, 32, 64, 128 });
    p.H_k    = one_of({ 1, 2, 3 });
    p.H      = p.H_k*one_of({ 1, 2, 3 });
    p.n_seqs = one_of({ 1, 1, 2, 3, 5 });
    p.kda    = random_int(0, 1);
    p.order  = (layout) random_int(0, N_LAYOUTS - 1);
    p.n      = random_int(1, random_int(1, max_nodes)); // small ones more often
    for (int s = 0; s < p.n_seqs; s++) {
        p.parents.push_back(random_tree(p.n, (shape) random_int(0, N_SHAPES - 1), random_int(0, 3) == 0));
    }
    p.fill(random_int(0, 1));
    return p;
}

// the part of a problem that one path sees, as a problem of one sequence
static net_problem along(const net_problem & p, int seq, const ints & path) {
    const ints nodes = p.places.nodes(seq, path);
    net_problem c;
    c.S = p.S; c.H = p.H; c.H_k = p.H_k; c.kda = p.kda; c.n = (int) path.size();
    c.places.fill(c.n, 1, false);
    c.q     = batch_order::pick(p.q,     (int64_t) p.S*p.H_k,    nodes);
    c.k     = batch_order::pick(p.k,     (int64_t) p.S*p.H_k,    nodes);
    c.v     = batch_order::pick(p.v,     (int64_t) p.S*p.H,      nodes);
    c.g     = batch_order::pick(p.g,     (int64_t) p.gate()*p.H, nodes);
    c.beta  = batch_order::pick(p.beta,  p.H,                    nodes);
    c.state = batch_order::pick(p.state, (int64_t) p.S*p.S*p.H,  { p.places.state_of(seq, path) });
    return c;
}

struct net_sources {
    ggml_tensor *q, *k, *v, *g, *beta, *state;
};

// [S, H, n] -> [S, n, H]
static floats heads_outside(const floats & x, int S, int H, int n) {
    floats y(x.size());
    for (int64_t t = 0; t < n; t++) {
        for (int64_t h = 0; h < H; h++) {
            std::copy_n(&x[(t*H + h)*S], S, &y[(h*n + t)*S]);
        }
    }
    return y;
}

static net_sources add_sources(graph & into, const net_problem & p) {
    net_sources s;
    const int n = p.n_nodes();
    if (p.order == FUSED) {
        const int64_t key = (int64_t) p.S*p.H_k, value = (int64_t) p.S*p.H, row = 2*key + value;
        floats all;
        for (int64_t i = 0; i < n; i++) {
            all.insert(all.end(), &p.q[i*key], &p.q[i*key] + key);
            all.insert(all.end(), &p.k[i*key], &p.k[i*key] + key);
            all.insert(all.end(), &p.v[i*value], &p.v[i*value] + value);
        }
        ggml_tensor * mix = into.floats_of({ row, n }, all);
        const auto part = [&](int H, int64_t offset) {
            return ggml_view_3d(into.ctx, mix, p.S, H, n, p.S*sizeof(float), row*sizeof(float), offset*sizeof(float));
        };
        s.q = part(p.H_k, 0);
        s.k = part(p.H_k, key);
        s.v = part(p.H, 2*key);
    } else {
        const auto add = [&](const floats & x, int H) {
            return p.order == APART ? into.floats_of({ p.S, H, n }, x) :
                ggml_permute(into.ctx, into.floats_of({ p.S, n, H }, heads_outside(x, p.S, H, n)), 0, 2, 1, 3);
        };
        s.q = add(p.q, p.H_k);
        s.k = add(p.k, p.H_k);
        s.v = add(p.v, p.H);
    }
    s.g     = into.floats_of({ p.gate(), p.H, n }, p.g);
    s.beta  = into.floats_of({ 1, p.H, n }, p.beta);
    s.state = into.floats_of({ p.S, p.S, p.H, p.places.n_states }, p.state);
    return s;
}

static ggml_tensor * add_tree_of(graph & into, const net_problem & p, const ints & parents) {
    const net_sources s = add_sources(into, p);
    return into.result(ggml_gated_delta_net_tree(into.ctx, s.q, s.k, s.v, s.g, s.beta, s.state, into.ints_of({ p.n_nodes() }, parents)));
}

static ggml_tensor * add_tree(graph & into, const net_problem & p, const std::vector<ints> & trees) {
    return add_tree_of(into, p, p.places.parents(trees));
}

// a problem of one sequence
static ggml_tensor * add_chain(graph & into, const net_problem & p) {
    const net_sources s = add_sources(into, p);
    return into.result(ggml_gated_delta_net(into.ctx, s.q, s.k, s.v, s.g, s.beta, s.state, 1));
}

static ggml_tensor * add_persist_of(graph & into, const net_problem & p, const ints & paths, const ints & rows, bool inplace) {
    const net_sources s = add_sources(into, p);
    auto * op = inplace ? ggml_gated_delta_net_tree_persist_inplace : ggml_gated_delta_net_tree_persist;
    const int64_t n_seqs = (int64_t) rows.size()/2;
    return into.result(op(into.ctx, s.k, s.v, s.g, s.beta, s.state, into.ints_of({ (int64_t) paths.size()/n_seqs, n_seqs }, paths), into.ints_of({ 2, n_seqs }, rows)));
}

static ggml_tensor * add_persist(graph & into, const net_problem & p, const std::vector<ints> & paths, bool inplace) {
    return add_persist_of(into, p, p.places.paths(paths, longest(paths)), p.places.rows(), inplace);
}

// every node of every sequence against the chain op over its root path (a leaf's chain has its ancestors' outputs too),
// and persist, in its own memory and in place, against the chain op's final state
static void check_net_of(const net_problem & p, const ints & claimed_parents) {
    n_trees += p.n_seqs;
    graph g, reference(chain_backend);
    ggml_tensor * tree = add_tree_of(g, p, claimed_parents);

    struct chain { int seq; ints path; ggml_tensor * result; };
    std::vector<chain> chains;
    std::vector<ints>  accepted;
    std::vector<ggml_tensor *> accepted_chains;
    for (int seq = 0; seq < p.n_seqs; seq++) {
        for (const ints & path : leaf_paths(p.parents[seq])) {
            chains.push_back({ seq, path, add_chain(reference, along(p, seq, path)) });
        }
        accepted.push_back(path_to(p.parents[seq], random_int(0, p.n - 1)));
        accepted_chains.push_back(add_chain(reference, along(p, seq, accepted.back())));
    }
    ints rows = p.places.rows();
    for (int seq = 0; seq < p.n_seqs; seq++) {
        rows[2*seq] = p.places.state_of(seq, accepted[seq]);
    }
    const ints    paths         = p.places.paths(accepted, longest(accepted));
    ggml_tensor * state         = add_persist_of(g, p, paths, rows, false);
    ggml_tensor * state_inplace = add_persist_of(g, p, paths, p.places.is_apart(rows) ? rows : p.places.rows(), true);
    g.compute();
    reference.compute();

    const int64_t row = (int64_t) p.S*p.H, state_size = row*p.S;
    const floats outputs = graph::read(tree);
    for (const chain & c : chains) {
        const floats expected = graph::read(c.result);
        const ints   nodes    = p.places.nodes(c.seq, c.path);
        for (size_t i = 0; i < nodes.size(); i++) {
            expect_same(&outputs[nodes[i]*row], &expected[i*row], row,
                "tree, " + p.describe() + ", sequence " + std::to_string(c.seq) + ", node " + std::to_string(c.path[i]));
        }
    }
    const floats after = graph::read(state), after_inplace = graph::read(state_inplace);
    for (int seq = 0; seq < p.n_seqs; seq++) {
        const floats expected = graph::read(accepted_chains[seq]);
        const float * expected_state = &expected[accepted[seq].size()*row];
        expect_same(&after[seq*state_size], expected_state, state_size, "persist, " + p.describe());
        if (p.places.is_apart(rows)) {
            expect_same(&after_inplace[p.places.row[seq]*state_size], expected_state, state_size, "persist in place, " + p.describe());
        }
    }
}

static void check_net(const net_problem & p, const std::vector<ints> & claimed_parents) {
    check_net_of(p, p.places.parents(claimed_parents));
}

// The recurrence in double precision, a copy of the state for each node: what the ops compute, in the plainest way.
struct plain_net {
    std::vector<std::vector<double>> states; // [node][i*S + j] of one head
    std::vector<std::vector<double>> outputs;
};

static plain_net plain(const net_problem & p, int seq, int head) {
    const int S = p.S, key_head = head % p.H_k;
    plain_net r;
    for (int node = 0; node < p.n; node++) {
        const int64_t place  = p.places.at[seq*p.n + node];
        const int64_t at     = place*p.H + head;
        const int64_t key_at = (place*p.H_k + key_head)*S;
        const int     parent = p.parents[seq][node];
        std::vector<double> state(S*S);
        for (int i = 0; i < S; i++) {
            for (int j = 0; j < S; j++) { // stored transposed
                const double before = parent >= 0 ? r.states[parent][i*S + j] : p.state[(((int64_t) p.places.row[seq]*p.H + head)*S + j)*S + i];
                state[i*S + j] = before*std::exp((double) p.g[at*p.gate() + (p.kda ? i : 0)]);
            }
        }
        std::vector<double> output(S);
        for (int j = 0; j < S; j++) {
            double seen = 0;
            for (int i = 0; i < S; i++) {
                seen += state[i*S + j]*p.k[key_at + i];
            }
            const double delta = (p.v[at*S + j] - seen)*p.beta[at];
            for (int i = 0; i < S; i++) {
                state[i*S + j] += p.k[key_at + i]*delta;
                output[j] += state[i*S + j]*p.q[key_at + i]/std::sqrt((double) S);
            }
        }
        r.states.push_back(state);
        r.outputs.push_back(output);
    }
    return r;
}

static void expect_close(float found, double expected, const std::string & what) {
    if (!(std::fabs(found - expected) <= 1e-5*std::max(1.0, std::fabs(expected)))) {
        fail(what + ": " + text(found) + ", expected " + text(expected));
    }
}

static void check_net_against_plain(const net_problem & p) {
    n_trees += p.n_seqs;
    std::vector<ints> accepted;
    for (int seq = 0; seq < p.n_seqs; seq++) {
        accepted.push_back(path_to(p.parents[seq], random_int(0, p.n - 1)));
    }
    graph g;
    ggml_tensor * tree  = add_tree(g, p, p.parents);
    ggml_tensor * state = add_persist(g, p, accepted, false);
    g.compute();
    const floats outputs = graph::read(tree), after = graph::read(state);
    for (int seq = 0; seq < p.n_seqs; seq++) {
        for (int head = 0; head < p.H; head++) {
            const plain_net expected = plain(p, seq, head);
            for (int node = 0; node < p.n; node++) {
                for (int j = 0; j < p.S; j++) {
                    expect_close(outputs[((int64_t) p.places.at[seq*p.n + node]*p.H + head)*p.S + j], expected.outputs[node][j], "tree, " + p.describe());
                }
            }
            for (int i = 0; i < p.S; i++) {
                for (int j = 0; j < p.S; j++) {
                    expect_close(after[(((int64_t) seq*p.H + head)*p.S + j)*p.S + i], expected.states[accepted[seq].back()][i*p.S + j], "persist, " + p.describe());
                }
            }
        }
    }
}

// ---------------------------------------------------------------- convolution

struct conv_problem {
    int d_conv = 4, d_inner = 1, n = 1, n_seqs = 1;
    std::vector<ints> parents;
    batch_order       places;
    bool              strided = false; // the inputs are part of longer rows
    floats input, carried, kernel;     // [d_inner, n*n_seqs], [(d_conv-1)*d_inner, n_states], [d_conv, d_inner]

    int n_nodes() const { return n*n_seqs; }
    int state_size() const { return (d_conv - 1)*d_inner; }
    void fill(bool mixed = false) {
        places.fill(n, n_seqs, mixed);
        input   = random_floats((int64_t) d_inner*n_nodes(), -1, 1);
        carried = random_floats((int64_t) state_size()*places.n_states, -1, 1);
        kernel  = random_floats((int64_t) d_conv*d_inner, -1, 1);
    }
    std::string describe() const {
        return "conv, d_conv " + std::to_string(d_conv) + " d_inner " + std::to_string(d_inner) + " n " + std::to_string(n) + " seqs " + std::to_string(n_seqs);
    }
};

static conv_problem random_conv(int max_nodes, bool with_chains = true) {
    conv_problem p;
    p.d_conv  = on_gpu ? one_of({ 4, 4, 3, 5, 9, 15 }) : one_of({ 4, 4, 4, 4, 2, 3, 5, 8, 9, 17 });
    p.d_inner = on_gpu && with_chains ? one_of({ 128, 256, 384 }) : one_of({ 1, 7, 16, 64, 65, 100, 192 }); // upstream's kernel takes 128 channels
    p.n_seqs  = one_of({ 1, 1, 2, 3, 5 });
    p.n       = random_int(1, random_int(1, max_nodes));
    p.strided = random_int(0, 1);
    for (int s = 0; s < p.n_seqs; s++) {
        p.parents.push_back(random_tree(p.n, (shape) random_int(0, N_SHAPES - 1), random_int(0, 3) == 0));
    }
    p.fill(random_int(0, 1));
    return p;
}

// one path's columns, as ggml_ssm_conv takes them: [d_conv-1 + path, d_inner]
static floats columns_along(const conv_problem & p, int seq, const ints & path) {
    const ints   nodes = p.places.nodes(seq, path);
    const floats state = batch_order::pick(p.carried, p.state_size(), { p.places.state_of(seq, path) });
    floats columns;
    for (int channel = 0; channel < p.d_inner; channel++) {
        columns.insert(columns.end(), &state[channel*(p.d_conv - 1)], &state[channel*(p.d_conv - 1)] + p.d_conv - 1);
        for (int32_t node : nodes) {
            columns.push_back(p.input[(int64_t) node*p.d_inner + channel]);
        }
    }
    return columns;
}

static ggml_tensor * add_inputs(graph & into, const conv_problem & p) {
    if (!p.strided) {
        return into.floats_of({ p.d_inner, p.n_nodes() }, p.input);
    }
    const int64_t row = p.d_inner + 3;
    floats longer(row*p.n_nodes(), 7.0f);
    for (int64_t i = 0; i < p.n_nodes(); i++) {
        std::copy_n(&p.input[i*p.d_inner], p.d_inner, &longer[i*row + 2]);
    }
    return ggml_view_2d(into.ctx, into.floats_of({ row, p.n_nodes() }, longer), p.d_inner, p.n_nodes(), row*sizeof(float), 2*sizeof(float));
}

static ggml_tensor * add_states(graph & into, const conv_problem & p) {
    return into.floats_of({ p.state_size(), p.places.n_states }, p.carried);
}

static ggml_tensor * add_tree_node(graph & into, const conv_problem & p, const ints & parents) {
    return ggml_ssm_conv_tree(into.ctx, add_inputs(into, p), add_states(into, p), into.floats_of({ p.d_conv, p.d_inner }, p.kernel), into.ints_of({ p.n_nodes() }, parents));
}

static ggml_tensor * add_tree(graph & into, const conv_problem & p, const std::vector<ints> & trees) {
    return into.result(add_tree_node(into, p, p.places.parents(trees)));
}

static ggml_tensor * add_chain(graph & into, const conv_problem & p, int seq, const ints & path) {
    return into.result(ggml_ssm_conv(into.ctx, into.floats_of({ p.d_conv - 1 + (int64_t) path.size(), p.d_inner, 1 }, columns_along(p, seq, path)),
        into.floats_of({ p.d_conv, p.d_inner }, p.kernel)));
}

static ggml_tensor * add_persist_of(graph & into, const conv_problem & p, const ints & paths, const ints & rows, bool inplace) {
    auto * op = inplace ? ggml_ssm_conv_tree_persist_inplace : ggml_ssm_conv_tree_persist;
    const int64_t n_seqs = (int64_t) rows.size()/2;
    return into.result(op(into.ctx, add_inputs(into, p), add_states(into, p), into.ints_of({ (int64_t) paths.size()/n_seqs, n_seqs }, paths), into.ints_of({ 2, n_seqs }, rows)));
}

static void check_conv_of(const conv_problem & p, const ints & claimed_parents) {
    n_trees += p.n_seqs;
    graph g, reference(chain_backend);
    ggml_tensor * tree = g.result(add_tree_node(g, p, claimed_parents));
    struct chain { int seq; ints path; ggml_tensor * result; };
    std::vector<chain> chains;
    std::vector<ints>  accepted;
    ints rows = p.places.rows();
    for (int seq = 0; seq < p.n_seqs; seq++) {
        for (const ints & path : leaf_paths(p.parents[seq])) {
            chains.push_back({ seq, path, add_chain(reference, p, seq, path) });
        }
        accepted.push_back(path_to(p.parents[seq], random_int(0, p.n - 1)));
        rows[2*seq] = p.places.state_of(seq, accepted[seq]);
    }
    const ints    paths         = p.places.paths(accepted, longest(accepted));
    ggml_tensor * state         = add_persist_of(g, p, paths, rows, false);
    ggml_tensor * state_inplace = add_persist_of(g, p, paths, p.places.is_apart(rows) ? rows : p.places.rows(), true);
    g.compute();
    reference.compute();
    const floats outputs = graph::read(tree);
    for (const chain & c : chains) {
        const floats expected = graph::read(c.result);
        const ints   nodes    = p.places.nodes(c.seq, c.path);
        for (size_t i = 0; i < nodes.size(); i++) {
            expect_same(&outputs[(int64_t) nodes[i]*p.d_inner], &expected[i*p.d_inner], p.d_inner,
                p.describe() + ", sequence " + std::to_string(c.seq) + ", node " + std::to_string(c.path[i]));
        }
    }
    const floats after = graph::read(state), after_inplace = graph::read(state_inplace);
    for (int seq = 0; seq < p.n_seqs; seq++) {
        const floats columns = columns_along(p, seq, accepted[seq]);
        floats expected; // the last d_conv - 1
        const int width = p.d_conv - 1 + (int) accepted[seq].size();
        for (int channel = 0; channel < p.d_inner; channel++) {
            expected.insert(expected.end(), columns.begin() + (channel + 1)*width - (p.d_conv - 1), columns.begin() + (channel + 1)*width);
        }
        expect_same(&after[(int64_t) seq*p.state_size()], expected.data(), p.state_size(), "persist, " + p.describe());
        if (p.places.is_apart(rows)) {
            expect_same(&after_inplace[(int64_t) p.places.row[seq]*p.state_size()], expected.data(), p.state_size(), "persist in place, " + p.describe());
        }
    }
}

static void check_conv(const conv_problem & p, const std::vector<ints> & claimed_parents) {
    check_conv_of(p, p.places.parents(claimed_parents));
}

static void check_conv_against_plain(const conv_problem & p) {
    n_trees += p.n_seqs;
    graph g;
    ggml_tensor * tree = add_tree(g, p, p.parents);
    g.compute();
    const floats outputs = graph::read(tree);
    for (int seq = 0; seq < p.n_seqs; seq++) {
        const float * carried = &p.carried[(int64_t) p.places.row[seq]*p.state_size()];
        for (int node = 0; node < p.n; node++) {
            const ints path = path_to(p.parents[seq], node);
            for (int channel = 0; channel < p.d_inner; channel++) {
                double sum = 0;
                for (int tap = 0; tap < p.d_conv; tap++) {
                    const int back   = p.d_conv - 1 - tap;             // generations above the node
                    const int beyond = back - ((int) path.size() - 1); // of these, above its root
                    const float x = beyond > 0 ? carried[channel*(p.d_conv - 1) + p.d_conv - 1 - beyond] :
                        p.input[(int64_t) p.places.at[seq*p.n + path[path.size() - 1 - back]]*p.d_inner + channel];
                    sum += (double) x*p.kernel[(int64_t) channel*p.d_conv + tap];
                }
                expect_close(outputs[(int64_t) p.places.at[seq*p.n + node]*p.d_inner + channel], sum, p.describe());
            }
        }
    }
}

static floats & states_of(net_problem & p) { return p.state; }
static floats & states_of(conv_problem & p) { return p.carried; }

// ---------------------------------------------------------------- checks

static void many(int n, const std::function<void()> & check) {
    const int step = quick ? std::max(n/8, 1) : 1;
    for (int i = 0; i < n; i += step) {
        rng.seed(i);
        try {
            check();
        } catch (const std::exception & e) {
            fail("seed " + std::to_string(i) + ": " + e.what());
        }
    }
}

static void expect_failure(const char * what, const std::function<void()> & check) {
    try {
        check();
    } catch (const std::exception &) {
        return;
    }
    fail(std::string("not noticed: ") + what);
}

static void skip(const std::string & reason) { printf("skipped: %s\n", reason.c_str()); }

static net_problem fixed_net(int S, int n, bool kda, shape kind) {
    net_problem p;
    p.S = S; p.H = 2; p.H_k = 1; p.n = n; p.kda = kda;
    p.parents = { random_tree(n, kind, false) };
    p.fill();
    return p;
}

static conv_problem fixed_conv(int n, shape kind) {
    conv_problem p;
    p.d_inner = on_gpu ? 128 : 100; p.n = n;
    p.parents = { random_tree(n, kind, false) };
    p.fill();
    return p;
}

static void chain_of_all_sequences_equals_the_chain_op() {
    many(150, [] {
        net_problem p = random_net(64);
        p.parents.assign(p.n_seqs, random_tree(p.n, CHAIN, false));
        check_net(p, p.parents);
        conv_problem c = random_conv(64);
        c.parents.assign(c.n_seqs, random_tree(c.n, CHAIN, false));
        check_conv(c, c.parents);
    });
}

// Of several sequences at once: from one row to another, from no state at all, to no row. No other state is touched.
static void states_go_where_they_are_told_to() {
    many(200, [] {
        const net_problem p = random_net(20);
        const conv_problem c = random_conv(20);
        n_trees += 2;
        const auto check = [](auto p, int64_t size) {
            const floats & states = states_of(p);
            const int  seq  = random_int(0, p.n_seqs - 1);
            const ints path = p.places.nodes(seq, path_to(p.parents[seq], random_int(0, p.n - 1)));
            const int  from = one_of({ random_int(0, p.places.n_states - 1), -1, p.places.n_states, INT32_MIN, INT32_MAX });
            const int  to   = one_of({ random_int(0, p.places.n_states - 1), random_int(0, p.places.n_states - 1), -1, p.places.n_states, INT32_MAX });
            graph g;
            ggml_tensor * next = add_persist_of(g, p, path, { from, to }, false), * moved = add_persist_of(g, p, path, { from, to }, true);
            ggml_tensor * same = nullptr;
            if (from < 0 || from >= p.places.n_states) { // as from a state of zeros
                auto without = p;
                std::fill(states_of(without).begin(), states_of(without).end(), 0.0f);
                same = add_persist_of(g, without, path, { 0, 0 }, false);
            }
            g.compute();
            const floats expected = graph::read(next);
            if (same) {
                expect_same(expected.data(), graph::read(same).data(), size, "from no state, " + p.describe());
            }
            const floats after = graph::read(moved);
            const bool is_row = to >= 0 && to < p.places.n_states;
            if (is_row) {
                expect_same(&after[to*size], expected.data(), size, "to another row, " + p.describe());
            }
            for (int i = 0; i < p.places.n_states; i++) {
                if (!is_row || i != to) {
                    expect_same(&after[i*size], &states[i*size], size, "another's state, " + p.describe());
                }
            }
        };
        check(p, (int64_t) p.S*p.S*p.H);
        check(c, c.state_size());
    });
}

static void random_trees_equal_the_chain_op_over_each_path() {
    many(1200, [] {
        const net_problem p = random_net(30);
        check_net(p, p.parents);
    });
    many(100, [] {
        const net_problem p = random_net(100);
        check_net(p, p.parents);
    });
    many(1500, [] {
        const conv_problem p = random_conv(100);
        check_conv(p, p.parents);
    });
}

static void special_trees_equal_the_chain_op_over_each_path() {
    many(2, [] {
        for (int kind = 0; kind < N_SHAPES; kind++) {
            for (int n : { 1, 2, 3, 6, 7, 8, 63, 64, 127, 512 }) {
                const bool large = n == 512;
                if (quick && n > 64) {
                    continue;
                }
                // with all 512 nodes below one, there are as many chains: the small heads then
                const int S = on_gpu ? one_of({ 16, 32, 64, 128 }) : large ? 16 : one_of({ 16, 20, 32, 64, 128 });
                const net_problem p = fixed_net(S, n, random_int(0, 1), (shape) kind);
                check_net(p, p.parents);
                const conv_problem c = fixed_conv(n, (shape) kind);
                check_conv(c, c.parents);
            }
        }
        net_problem p = fixed_net(32, 40, false, UNIFORM);
        p.parents = { ints(40, -1) }; // roots only
        check_net(p, p.parents);
        conv_problem c = fixed_conv(40, UNIFORM);
        c.parents = p.parents;
        check_conv(c, c.parents);
    });
}

static void trees_agree_with_a_plain_reference() {
    many(60, [] { check_net_against_plain(random_net(30)); });
    many(120, [] { check_conv_against_plain(random_conv(60, false)); });
}

static void indices_out_of_range_are_harmless() {
    many(200, [] {
        net_problem p = random_net(30);
        conv_problem c = random_conv(30);
        const auto spoil = [](auto & p) { // returns the op's parents; in p what they mean
            ints at_fault;
            for (int s = 0; s < p.n_seqs; s++) {
                at_fault.push_back(random_int(0, p.n - 1));
                p.parents[s][at_fault[s]] = -1;
            }
            ints broken = p.places.parents(p.parents);
            for (int s = 0; s < p.n_seqs; s++) {
                const int flat = s*p.n + at_fault[s], node = p.places.at[flat];
                if (random_int(0, 1)) { // no parent: a root of the first state
                    broken[node] = one_of({ node, node + 1, p.n_nodes(), 1 << 30, INT32_MAX });
                    p.places.root_state[flat] = 0;
                } else {                // no state: zeros
                    broken[node] = one_of({ -1 - p.places.n_states, INT32_MIN });
                    p.places.root_state[flat] = -1 - broken[node];
                }
            }
            return broken;
        };
        const ints broken = spoil(p), broken_conv = spoil(c);
        check_net_of(p, broken);
        check_conv_of(c, broken_conv);

        const auto check_paths = [](auto & p) {
            std::vector<ints> clean;
            for (int s = 0; s < p.n_seqs; s++) {
                clean.push_back(path_to(p.parents[s], random_int(0, p.n - 1)));
            }
            const int n_path = longest(clean);
            const ints paths = p.places.paths(clean, n_path);
            ints spoiled;
            for (int s = 0; s < p.n_seqs; s++) {
                ints path(paths.begin() + s*n_path, paths.begin() + (s + 1)*n_path);
                path.insert(path.begin() + random_int(0, (int) clean[s].size()), one_of({ -1, p.n_nodes(), INT32_MIN, INT32_MAX }));
                spoiled.insert(spoiled.end(), path.begin(), path.end());
            }
            graph g;
            ggml_tensor * a = add_persist_of(g, p, paths, p.places.rows(), false), * b = add_persist_of(g, p, spoiled, p.places.rows(), false);
            ggml_tensor * none = add_persist_of(g, p, ints(p.n_seqs, -1), p.places.rows(), true); // an empty path changes nothing
            g.compute();
            expect_same(graph::read(b).data(), graph::read(a).data(), ggml_nelements(a), "persist with an index out of range");
            expect_same(graph::read(none).data(), states_of(p).data(), ggml_nelements(none), "persist of an empty path");
        };
        check_paths(p);
        check_paths(c);
    });
}

static void the_scheduler_runs_them() {
    use_sched = true;
    many(20, [] {
        const net_problem p = random_net(20);
        check_net(p, p.parents);
        const conv_problem c = random_conv(20);
        check_conv(c, c.parents);
    });
}

static void a_wrong_parent_or_value_is_noticed() {
    many(20, [] {
        net_problem p = random_net(20);
        p.n = 12; p.parents.assign(p.n_seqs, random_tree(p.n, DEEP, false));
        p.fill();
        conv_problem c = fixed_conv(12, DEEP);
        std::vector<ints> wrong = p.parents, wrong_conv = c.parents;
        wrong[p.n_seqs - 1][11] = wrong[p.n_seqs - 1][11] - 1;
        wrong_conv[0][11] = wrong_conv[0][11] - 1;
        expect_failure("a wrong parent", [&] { check_net(p, wrong); });
        expect_failure("a wrong parent in the convolution", [&] { check_conv(c, wrong_conv); });
        const float x = 1.0f, y = std::nextafter(1.0f, 2.0f);
        expect_failure("one bit", [&] { expect_same(&x, &y, 1, "x"); });
    });
}

static void they_are_registered() {
    const std::map<ggml_op, std::string> names = {
        { GGML_OP_SSM_CONV_TREE, "SSM_CONV_TREE" },
        { GGML_OP_SSM_CONV_TREE_PERSIST, "SSM_CONV_TREE_PERSIST" },
        { GGML_OP_GATED_DELTA_NET_TREE, "GATED_DELTA_NET_TREE" },
        { GGML_OP_GATED_DELTA_NET_TREE_PERSIST, "GATED_DELTA_NET_TREE_PERSIST" },
    };
    for (const auto & [op, name] : names) {
        if (name != ggml_op_name(op) || !strstr(ggml_op_symbol(op), "tree")) {
            fail("op " + std::to_string(op) + " is named " + ggml_op_name(op) + ", " + ggml_op_symbol(op));
        }
    }
    rng.seed(0);
    graph g;
    const net_problem p = fixed_net(16, 4, false, UNIFORM);
    const conv_problem c = fixed_conv(4, UNIFORM);
    for (ggml_tensor * t : { add_tree(g, p, p.parents), add_persist(g, p, { { 0 } }, false), add_tree(g, c, c.parents), add_persist_of(g, c, { 0 }, { 0, 0 }, true) }) {
        if (!ggml_backend_supports_op(backend, t)) {
            fail(std::string(ggml_backend_name(backend)) + " does not list " + ggml_op_name(t->op));
        }
    }
    g.compute();
}

// The same graphs on a server of this process, over ggml's RPC. Only in a build that has it.
static void rpc_passes_them_on() {
    ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
    if (!rpc || on_gpu) {
        return skip(rpc ? "a server computes on a CPU" : "built without GGML_RPC");
    }
    using serve_t = void (*)(const char *, const char *, size_t, size_t, ggml_backend_dev_t *);
    using add_t   = ggml_backend_reg_t (*)(const char *);
    const std::string endpoint = "127.0.0.1:" + std::to_string(20000 + std::chrono::steady_clock::now().time_since_epoch().count() / 1000 % 20000);
    std::thread([=] {
        ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        ((serve_t) ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_start_server"))(endpoint.c_str(), nullptr, 2, 1, &cpu);
    }).detach();
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    ggml_backend_reg_t server = ((add_t) ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_add_server"))(endpoint.c_str());
    if (!server || ggml_backend_reg_dev_count(server) == 0) {
        fail("no RPC server at " + endpoint);
    }
    backend = open_backend(ggml_backend_reg_dev_get(server, 0), 2);
    many(20, [] {
        const net_problem p = random_net(20);
        check_net(p, p.parents);
        const conv_problem c = random_conv(20);
        check_conv(c, c.parents);
    });
}

// ---------------------------------------------------------------- checks of what is made for a GPU

// Runs each step of a plan in a random order, as a warp may.
struct shuffled_threads {
    template <class F> void each(int32_t n, F f) const {
        ints order(n);
        for (int i = 0; i < n; i++) {
            order[i] = i;
        }
        std::shuffle(order.begin(), order.end(), rng);
        for (int32_t i : order) {
            f(i);
        }
    }
    template <class F> bool any(int32_t n, F f) const {
        bool found = false;
        each(n, [&](int32_t i) { found |= f(i); });
        return found;
    }
    int32_t add(int32_t * p, int32_t x) const { return (*p += x) - x; }
    void maximum(int32_t * p, int32_t x) const { *p = std::max(*p, x); }
};

// Follows a plan: which node's state is in the registers, which in each slot.
static void check_plan(const ints & parents) {
    n_trees++;
    const int n = (int) parents.size();
    ints visits(n, -1), scratch(tree_plan_scratch(n), 0x5a5a5a5a), slots(tree_plan_n_slots(n), -1);
    std::vector<bool> seen(n, false);
    tree_plan(shuffled_threads(), parents.data(), n, visits.data(), scratch.data());

    int in_registers = -1;
    for (int32_t packed : visits) {
        const tree_visit v = tree_visit_unpack(packed);
        if (v.node >= n || seen[v.node]) {
            fail("node " + std::to_string(v.node) + " of " + std::to_string(n) + " is visited twice, or is none");
        }
        seen[v.node] = true;
        const int from = v.from == tree_visit::START ? -1 : v.from == tree_visit::PREVIOUS ? in_registers : v.from < (int) slots.size() ? slots[v.from] : -2;
        const int parent = parents[v.node] >= 0 && parents[v.node] < v.node ? parents[v.node] : -1;
        if (from != parent) {
            fail("node " + std::to_string(v.node) + " starts from the state of " + std::to_string(from) + ", expected " + std::to_string(parent));
        }
        in_registers = v.node;
        if (v.to != tree_visit::NOWHERE) {
            if (v.to >= (int) slots.size()) {
                fail("slot " + std::to_string(v.to) + ", expected fewer than " + std::to_string(slots.size()));
            }
            slots[v.to] = v.node;
        }
    }
}

// What a convolution's taps go on with, node after node: an ancestor, or the entry of a root.
static void check_taps(const ints & parents) {
    for (int node = 0; node < (int) parents.size(); node++) {
        const int found = tree_conv_parent(parents.data(), node), expected = parents[node] < node ? parents[node] : -1;
        if (found != expected) {
            fail("before node " + std::to_string(node) + " comes " + std::to_string(found) + ", expected " + std::to_string(expected));
        }
    }
}

static void plans_for_a_gpu_find_every_parents_state() {
    const auto check = [](ints parents) {
        if (random_int(0, 3) == 0) {
            parents[random_int(0, (int) parents.size() - 1)] = one_of({ (int) parents.size(), INT32_MAX, INT32_MIN, -2 });
        }
        check_plan(parents);
        check_taps(parents);
    };
    many(4000, [&] { check(random_tree(random_int(1, random_int(1, 200)), (shape) random_int(0, N_SHAPES - 1), random_int(0, 3) == 0)); });
    many(8, [&] {
        for (int kind = 0; kind < N_SHAPES; kind++) {
            for (int n : { 1, 2, 3, 6, 7, 15, 31, 32, 33, 512, (int) TREE_PLAN_MAX_NODES }) {
                check(random_tree(n, (shape) kind, false));
            }
        }
    });
}

// On a GPU the graph is captured in its second run and replayed later.
static void a_graph_runs_again_for_other_trees() {
    many(12, [] {
        net_problem p = random_net(40);
        conv_problem c = random_conv(40);
        graph g;
        ggml_tensor * net = add_tree(g, p, p.parents), * conv = add_tree(g, c, c.parents);
        ggml_tensor * path      = add_persist_of(g, p, ints(p.n_nodes(), -1), p.places.rows(), false);
        ggml_tensor * conv_path = add_persist_of(g, c, ints(c.n_nodes(), -1), c.places.rows(), false);
        g.compute();
        for (int run = 0; run < 5; run++) {
            n_trees += p.n_seqs + c.n_seqs;
            const auto change = [](auto & p, ints & parents, ints & paths) {
                std::vector<ints> accepted;
                for (ints & tree : p.parents) {
                    tree = random_tree(p.n, (shape) random_int(0, N_SHAPES - 1), false);
                    accepted.push_back(path_to(tree, random_int(0, p.n - 1)));
                }
                parents = p.places.parents(p.parents);
                paths   = p.places.paths(accepted, p.n);
            };
            ints parents, paths, conv_parents, conv_paths;
            change(p, parents, paths);
            change(c, conv_parents, conv_paths);
            ggml_backend_tensor_set(net->src[6],       parents.data(),      0, ggml_nbytes(net->src[6]));
            ggml_backend_tensor_set(path->src[5],      paths.data(),        0, ggml_nbytes(path->src[5]));
            ggml_backend_tensor_set(conv->src[3],      conv_parents.data(), 0, ggml_nbytes(conv->src[3]));
            ggml_backend_tensor_set(conv_path->src[2], conv_paths.data(),   0, ggml_nbytes(conv_path->src[2]));
            g.run();

            graph anew;
            const std::vector<ggml_tensor *> expected = {
                add_tree(anew, p, p.parents), add_persist_of(anew, p, paths, p.places.rows(), false),
                add_tree(anew, c, c.parents), add_persist_of(anew, c, conv_paths, c.places.rows(), false),
            };
            anew.compute();
            const std::vector<ggml_tensor *> found = { net, path, conv, conv_path };
            for (size_t i = 0; i < found.size(); i++) {
                expect_same(graph::read(found[i]).data(), graph::read(expected[i]).data(), ggml_nelements(found[i]),
                    std::string(ggml_op_name(found[i]->op)) + ", run " + std::to_string(run) + ", " + p.describe() + ", " + c.describe());
            }
        }
    });
}

// The chain's convolution is fused with its SiLU there too. What a fused one leaves out is the convolution's own output.
static void a_silu_after_the_convolution_is_fused_on_a_gpu() {
    if (!on_gpu) {
        return skip("needs a GPU: --backend");
    }
    many(20, [] {
        const conv_problem c = random_conv(100);
        n_trees += c.n_seqs;
        graph g, alone;
        ggml_tensor * conv = g.overwritten(add_tree_node(g, c, c.places.parents(c.parents)));
        ggml_tensor * silu = g.result(ggml_silu(g.ctx, conv));
        ggml_tensor * unfused = add_tree(alone, c, c.parents);
        ggml_tensor * silu_of = alone.result(ggml_silu(alone.ctx, ggml_cont(alone.ctx, unfused)));
        g.compute();
        alone.compute();
        expect_same(graph::read(silu).data(), graph::read(silu_of).data(), ggml_nelements(silu), "SiLU, " + c.describe());
        if (!std::isnan(graph::read(conv)[0])) {
            fail("not fused: " + c.describe());
        }
    });
}

// Copies among a few tensors, some of what others have just written: a backend may start several at once only where that
// makes no difference.
static void copies_in_a_row_keep_their_order() {
    many(300, [] {
        const int size = 4096, n_stores = random_int(2, 12), n_copies = random_int(1, 20);
        graph g;
        std::vector<ggml_tensor *> stores;
        std::vector<floats> expected;
        for (int i = 0; i < n_stores; i++) {
            expected.push_back(random_floats(size, -1, 1));
            stores.push_back(g.floats_of({ size }, expected.back()));
        }
        for (int copy = 0; copy < n_copies; copy++) {
            const int from = random_int(0, n_stores - 1), to = random_int(0, n_stores - 1);
            if (from == to) {
                continue;
            }
            const int ne[] = { random_int(1, 40), random_int(1, 6), random_int(0, 4) }; // some are empty
            const int stride1 = ne[0] + random_int(0, 8), stride2 = random_int(0, 2) ? stride1*ne[1] + random_int(0, 8) : 1;
            const int src_at = random_int(0, size - (40 + 8)*6*4 - 8*4), dst_at = random_int(0, size - 40*6*4);
            const size_t f = sizeof(float);
            ggml_tensor * src = ggml_view_3d(g.ctx, stores[from], ne[0], ne[1], ne[2], stride1*f, stride2*f, src_at*f);
            ggml_tensor * dst = ggml_view_3d(g.ctx, stores[to], ne[0], ne[1], ne[2], ne[0]*f, ne[0]*ne[1]*f, dst_at*f);
            g.result(ggml_cpy(g.ctx, src, dst));
            for (int i = 0; i < ne[0]*ne[1]*ne[2]; i++) {
                expected[to][dst_at + i] = expected[from][src_at + i % ne[0] + i / ne[0] % ne[1]*stride1 + i / (ne[0]*ne[1])*stride2];
            }
        }
        g.compute();
        for (size_t i = 0; i < stores.size(); i++) {
            expect_same(graph::read(stores[i]).data(), expected[i].data(), size, "tensor " + std::to_string(i));
        }
    });
}

// Of all values of a result: the norm of the difference over the norm.
static double relative_difference(const floats & a, const floats & b) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < a.size(); i++) {
        difference += ((double) a[i] - b[i])*((double) a[i] - b[i]);
        norm       += (double) b[i]*b[i];
    }
    return std::sqrt(difference/norm);
}

// Within 1e-6, and the chain op of the GPU is as far from that of the CPU.
static void a_gpu_agrees_with_the_cpu() {
    if (!on_gpu) {
        return skip("needs a GPU: --backend");
    }
    double largest = 0, largest_of_chain = 0;
    many(150, [&] {
        const net_problem p = random_net(64);
        const conv_problem c = random_conv(64, false);
        n_trees += p.n_seqs + c.n_seqs;
        std::vector<ints> accepted;
        for (const ints & tree : p.parents) {
            accepted.push_back(path_to(tree, random_int(0, p.n - 1)));
        }
        graph gpu, cpu(cpu_backend);
        ggml_tensor * on[2][5];
        for (int i = 0; i < 2; i++) {
            graph & g = i ? cpu : gpu;
            on[i][0] = add_tree(g, p, p.parents);
            on[i][1] = add_persist(g, p, accepted, false);
            on[i][2] = add_tree(g, c, c.parents);
            on[i][3] = add_persist_of(g, c, c.places.paths(c.parents, c.n), c.places.rows(), true);
            on[i][4] = add_chain(g, along(p, 0, accepted[0]));
        }
        gpu.compute();
        cpu.compute();
        for (int op = 0; op < 5; op++) {
            const double difference = relative_difference(graph::read(on[0][op]), graph::read(on[1][op]));
            (op < 4 ? largest : largest_of_chain) = std::max(op < 4 ? largest : largest_of_chain, difference);
            if (op < 4 && !(difference <= 1e-6)) {
                fail(std::string(ggml_op_name(on[0][op]->op)) + ": " + text(difference) + " from the CPU's, " + p.describe() + ", " + c.describe());
            }
        }
    });
    printf("largest difference from the CPU: %.2g, of the chain op %.2g\n", largest, largest_of_chain);
}

// Head sizes, kernels and trees that no GPU kernel is made for: the scheduler gives these to the CPU.
static void the_cpu_computes_what_a_gpu_does_not_take() {
    if (!on_gpu) {
        return skip("needs a GPU: --backend");
    }
    many(3, [] {
        net_problem p = fixed_net(20, 12, false, UNIFORM);
        net_problem large = fixed_net(16, TREE_PLAN_MAX_NODES + 1, false, DEEP);
        conv_problem c = fixed_conv(12, UNIFORM);
        c.d_conv = 2;
        c.fill();
        graph g, cpu(cpu_backend);
        std::vector<ggml_tensor *> found, expected;
        for (graph * at : { &g, &cpu }) {
            std::vector<ggml_tensor *> & results = at == &g ? found : expected;
            results = { add_tree(*at, p, p.parents), add_persist(*at, p, { { 0 } }, false), add_tree(*at, large, large.parents), add_tree(*at, c, c.parents) };
        }
        for (ggml_tensor * t : found) {
            if (ggml_backend_supports_op(backend, t)) {
                fail(std::string(ggml_op_name(t->op)) + " is listed");
            }
        }
        cpu.compute();
        g.compute_scheduled();
        for (size_t i = 0; i < found.size(); i++) {
            expect_same(g.scheduled[i].data(), graph::read(expected[i]).data(), ggml_nelements(expected[i]), ggml_op_name(found[i]->op));
        }
    });
}

static const std::map<std::string, void (*)()> checks = {
    { "chain_of_all_sequences_equals_the_chain_op", chain_of_all_sequences_equals_the_chain_op },
    { "random_trees_equal_the_chain_op_over_each_path", random_trees_equal_the_chain_op_over_each_path },
    { "states_go_where_they_are_told_to", states_go_where_they_are_told_to },
    { "special_trees_equal_the_chain_op_over_each_path", special_trees_equal_the_chain_op_over_each_path },
    { "trees_agree_with_a_plain_reference", trees_agree_with_a_plain_reference },
    { "indices_out_of_range_are_harmless", indices_out_of_range_are_harmless },
    { "the_scheduler_runs_them", the_scheduler_runs_them },
    { "a_wrong_parent_or_value_is_noticed", a_wrong_parent_or_value_is_noticed },
    { "they_are_registered", they_are_registered },
    { "rpc_passes_them_on", rpc_passes_them_on },
    { "plans_for_a_gpu_find_every_parents_state", plans_for_a_gpu_find_every_parents_state },
    { "a_graph_runs_again_for_other_trees", a_graph_runs_again_for_other_trees },
    { "a_silu_after_the_convolution_is_fused_on_a_gpu", a_silu_after_the_convolution_is_fused_on_a_gpu },
    { "copies_in_a_row_keep_their_order", copies_in_a_row_keep_their_order },
    { "a_gpu_agrees_with_the_cpu", a_gpu_agrees_with_the_cpu },
    { "the_cpu_computes_what_a_gpu_does_not_take", the_cpu_computes_what_a_gpu_does_not_take },
};

// ---------------------------------------------------------------- wrong graphs

static void build_wrong(const std::string & name) {
    graph g;
    rng.seed(0);
    const net_problem p = fixed_net(16, 4, false, UNIFORM);
    const net_sources s = add_sources(g, p);
    const auto parents = [&](int64_t n) { return g.ints_of({ n }, ints(n, -1)); };
    const auto rows = [&] { return g.ints_of({ 2, 1 }, ints(2, 0)); };
    const auto zeros = [&](std::vector<int64_t> ne) {
        int64_t n = 1;
        for (int64_t x : ne) {
            n *= x;
        }
        return g.floats_of(ne, floats(n));
    };
    if (name == "parents-length") {
        ggml_gated_delta_net_tree(g.ctx, s.q, s.k, s.v, s.g, s.beta, s.state, parents(5));
    } else if (name == "parents-type") {
        ggml_gated_delta_net_tree(g.ctx, s.q, s.k, s.v, s.g, s.beta, s.state, zeros({ 4 }));
    } else if (name == "key-heads") {
        ggml_gated_delta_net_tree(g.ctx, zeros({ 16, 3, 4 }), s.k, s.v, s.g, s.beta, s.state, parents(4));
    } else if (name == "state-shape") {
        ggml_gated_delta_net_tree_persist(g.ctx, s.k, s.v, s.g, s.beta, zeros({ 16, 16, 1 }), parents(2), rows());
    } else if (name == "state-layout") {
        ggml_gated_delta_net_tree_persist_inplace(g.ctx, s.k, s.v, s.g, s.beta, ggml_transpose(g.ctx, s.state), parents(2), rows());
    } else if (name == "rows-of-two") {
        ggml_gated_delta_net_tree_persist(g.ctx, s.k, s.v, s.g, s.beta, s.state, g.ints_of({ 1, 2 }, ints(2)), rows());
    } else if (name == "conv-states") {
        ggml_ssm_conv_tree(g.ctx, zeros({ 8, 5 }), zeros({ 16, 1 }), zeros({ 4, 8 }), parents(5));
    } else {
        fail("no such graph: " + name);
    }
}

// ---------------------------------------------------------------- times

// least time of each graph; they take turns, so that a busy moment hits all of them
static std::vector<double> microseconds(std::vector<graph *> graphs, double seconds) {
    std::vector<double> least(graphs.size(), 1e30);
    const auto now = [] { return std::chrono::steady_clock::now(); };
    const auto start = now();
    for (int round = 0; round < 15 || now() - start < std::chrono::duration<double>(seconds); round++) {
        for (size_t i = 0; i < graphs.size(); i++) {
            const auto before = now();
            graphs[i]->run();
            least[i] = std::min(least[i], std::chrono::duration<double, std::micro>(now() - before).count());
        }
    }
    return least;
}

static void print_times(double seconds) {
    printf("| head size | heads | gate | nodes | chain op, µs | chain through the tree op | random tree | star | persist of 6 nodes, µs |\n");
    printf("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (int S : { 32, 64, 128 }) {
        for (int H : { 6, 16, 48 }) {
            for (int n : { 8, 16, 32, 64 }) {
                for (int kda = 0; kda <= (H == 16); kda++) {
                    rng.seed(1);
                    net_problem p;
                    p.S = S; p.H = H; p.H_k = (H + 2)/3; p.n = n; p.kda = kda;
                    while (H % p.H_k != 0) {
                        p.H_k++;
                    }
                    p.fill();
                    graph chain, as_chain, tree, star, persist; // all on `backend`: the same threads
                    add_chain(chain, p);
                    add_tree(as_chain, p, { random_tree(n, CHAIN, false) });
                    add_tree(tree, p, { random_tree(n, UNIFORM, false) });
                    add_tree(star, p, { random_tree(n, STAR, false) });
                    add_persist(persist, p, { { 0, 1, 2, 3, 4, 5 } }, true);
                    std::vector<graph *> all = { &chain, &as_chain, &tree, &star, &persist };
                    for (graph * g : all) {
                        g->compute();
                    }
                    const auto us = microseconds(all, seconds);
                    printf("| %d | %d | %s | %d | %.0f | %.2f | %.2f | %.2f | %.0f |\n", S, H, kda ? "channel" : "head", n, us[0], us[1]/us[0], us[2]/us[0], us[3]/us[0], us[4]);
                    fflush(stdout);
                }
            }
        }
    }
    printf("\n| channels | nodes | chain convolution, µs | chain through the tree op | random tree |\n| --- | --- | --- | --- | --- |\n");
    for (int d_inner : { 1024, 3072, 10240 }) {
        for (int n : { 8, 16, 32, 64 }) {
            rng.seed(1);
            conv_problem p;
            p.d_inner = d_inner; p.n = n;
            p.fill();
            graph chain, as_chain, tree;
            add_chain(chain, p, 0, path_to(random_tree(n, CHAIN, false), n - 1));
            add_tree(as_chain, p, { random_tree(n, CHAIN, false) });
            add_tree(tree, p, { random_tree(n, UNIFORM, false) });
            std::vector<graph *> all = { &chain, &as_chain, &tree };
            for (graph * g : all) {
                g->compute();
            }
            const auto us = microseconds(all, seconds);
            printf("| %d | %d | %.0f | %.2f | %.2f |\n", d_inner, n, us[0], us[1]/us[0], us[2]/us[0]);
            fflush(stdout);
        }
    }
}

// ---------------------------------------------------------------- times on a GPU

static constexpr int N_LAYERS = 48; // of ops with sources of their own, which no cache holds

// Adds one op over sources of this layer.
using add_op = std::function<ggml_tensor *(graph &, int layer)>;

// What an op costs in a graph of many, which the backend captures and replays: a graph of twice as many ops less one of
// as many, so that what a graph costs is not in it.
static double microseconds_of(const std::function<add_op(graph &)> & prepare) {
    double least[2] = { 1e30, 1e30 };
    for (int twice = 0; twice < 2; twice++) {
        graph g;
        const add_op add = prepare(g);
        for (int i = 0; i < N_LAYERS*(1 + twice); i++) {
            g.result(add(g, i % N_LAYERS));
        }
        g.compute();
        for (int run = 0; run < 30; run++) {
            const auto before = std::chrono::steady_clock::now();
            g.run();
            least[twice] = std::min(least[twice], std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - before).count());
        }
    }
    return (least[1] - least[0])/N_LAYERS;
}

static std::vector<net_sources> net_layers(graph & g, const net_problem & p) {
    std::vector<net_sources> layers;
    for (int i = 0; i < N_LAYERS; i++) {
        layers.push_back(add_sources(g, p));
    }
    return layers;
}

static double chain_microseconds(const net_problem & p) {
    return microseconds_of([&](graph & g) -> add_op {
        return [layers = net_layers(g, p)](graph & g, int i) {
            const net_sources & s = layers[i];
            return ggml_gated_delta_net(g.ctx, s.q, s.k, s.v, s.g, s.beta, s.state, 1);
        };
    });
}

static double tree_microseconds(const net_problem & p, const ints & tree) {
    return microseconds_of([&](graph & g) -> add_op {
        return [layers = net_layers(g, p), parents = g.ints_of({ p.n }, tree)](graph & g, int i) {
            const net_sources & s = layers[i];
            return ggml_gated_delta_net_tree(g.ctx, s.q, s.k, s.v, s.g, s.beta, s.state, parents);
        };
    });
}

static double persist_microseconds(const net_problem & p, ints path) {
    path.resize(p.n, -1);
    return microseconds_of([&](graph & g) -> add_op {
        return [layers = net_layers(g, p), entries = g.ints_of({ p.n }, path), rows = g.ints_of({ 2 }, { 0, 0 })](graph & g, int i) {
            const net_sources & s = layers[i];
            return ggml_gated_delta_net_tree_persist_inplace(g.ctx, s.k, s.v, s.g, s.beta, s.state, entries, rows);
        };
    });
}

// The inputs that a verifying forward keeps: four copies, as one op here.
static double copies_microseconds(const net_problem & p) {
    return microseconds_of([&](graph & g) -> add_op {
        return [layers = net_layers(g, p), kept = net_layers(g, p)](graph & g, int i) {
            g.result(ggml_cpy(g.ctx, layers[i].k, kept[i].k));
            g.result(ggml_cpy(g.ctx, layers[i].v, kept[i].v));
            g.result(ggml_cpy(g.ctx, layers[i].g, kept[i].g));
            return ggml_cpy(g.ctx, layers[i].beta, kept[i].beta);
        };
    });
}

static double conv_microseconds(const conv_problem & p, const ints * tree) {
    return microseconds_of([&](graph & g) -> add_op {
        struct layer { ggml_tensor * columns, * inputs, * states, * kernel; };
        std::vector<layer> layers;
        for (int i = 0; i < N_LAYERS; i++) {
            const int64_t width = p.d_conv - 1 + p.n;
            layers.push_back({ g.floats_of({ width, p.d_inner, 1 }, random_floats(width*p.d_inner, -1, 1)), add_inputs(g, p), add_states(g, p),
                g.floats_of({ p.d_conv, p.d_inner }, p.kernel) });
        }
        ggml_tensor * parents = tree ? g.ints_of({ p.n }, *tree) : nullptr;
        return [=](graph & g, int i) {
            const layer & l = layers[i];
            return parents ? ggml_ssm_conv_tree(g.ctx, l.inputs, l.states, l.kernel, parents) : ggml_ssm_conv(g.ctx, l.columns, l.kernel);
        };
    });
}

// "12.3 | 1.50 | 400 | 1.2": microseconds, over those of the chain op, GB/s, over the least time that the memory allows
static std::string times(double us, double chain_us, double bytes, double gb_per_s) {
    char cells[128];
    snprintf(cells, sizeof(cells), "%.1f | %.2f | %.0f | %.1f", us, us/chain_us, bytes/us*1e-3, us/(bytes/gb_per_s*1e-3));
    return cells;
}

static void print_gpu_net_times(const char * model, int H, int n, double gb_per_s) {
    net_problem p;
    p.S = 128; p.H = H; p.H_k = 16; p.n = n;
    rng.seed(1);
    p.fill();
    const double state = 4.0*p.S*p.S*H, kept = 4.0*n*(p.S*p.H_k + p.S*H + 2*H), attention = 4.0*n*(p.S*p.H_k + p.S*H);
    const double chain = chain_microseconds(p);
    const auto print = [&](const char * what, double us, double bytes) {
        printf("| %s | %d | %s | %.2f | %s |\n", model, n, what, bytes*1e-6, times(us, chain, bytes, gb_per_s).c_str());
        fflush(stdout);
    };
    print("chain op", chain, 2*state + kept + attention);
    print("tree op: chain", tree_microseconds(p, random_tree(n, CHAIN, false)), state + kept + attention);
    print("tree op: random tree", tree_microseconds(p, random_tree(n, UNIFORM, false)), state + kept + attention);
    print("tree op: binary tree", tree_microseconds(p, random_tree(n, BINARY, false)), state + kept + attention);
    print("tree op: star", tree_microseconds(p, random_tree(n, STAR, false)), state + kept + attention);
    print("copies of k, v, g, beta", copies_microseconds(p), 2*kept);
    print("persist of 6 nodes", persist_microseconds(p, { 0, 1, 2, 3, 4, 5 }), 2*state + kept*6/n);
}

static void print_gpu_conv_times(const char * model, int d_inner, int n, double gb_per_s) {
    conv_problem p;
    p.d_inner = d_inner; p.n = n;
    rng.seed(1);
    p.fill();
    const double bytes = 4.0*d_inner*(p.d_conv - 1 + n + p.d_conv + n);
    const ints as_chain = random_tree(n, CHAIN, false), tree = random_tree(n, UNIFORM, false);
    const double chain = conv_microseconds(p, nullptr);
    const auto print = [&](const char * what, double us) {
        printf("| %s | %d | %s | %.2f | %s |\n", model, n, what, bytes*1e-6, times(us, chain, bytes, gb_per_s).c_str());
        fflush(stdout);
    };
    print("chain convolution", chain);
    print("tree convolution: chain", conv_microseconds(p, &as_chain));
    print("tree convolution: random tree", conv_microseconds(p, &tree));
}

static void print_gpu_times(double gb_per_s) {
    printf("Floor: every byte once at %.0f GB/s.\n\n", gb_per_s);
    printf("| shape | nodes | op | MB at least | µs | over the chain op | GB/s | over the floor |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (int n : quick ? ints { 23 } : ints { 8, 16, 23, 32, 64 }) {
        print_gpu_net_times("27B", 48, n, gb_per_s);
        print_gpu_net_times("9B",  32, n, gb_per_s);
        print_gpu_conv_times("27B", 10240, n, gb_per_s);
        print_gpu_conv_times("9B",  8192,  n, gb_per_s);
    }
}

// ---------------------------------------------------------------- command line

struct options {
    std::vector<std::string> words;
    std::string              device = "CPU";

    options(int argc, char ** argv) {
        for (int i = 1; i < argc; i++) {
            const std::string word = argv[i];
            if (word == "--quick") {
                quick = true;
            } else if (word == "--backend" && i + 1 < argc) {
                device = argv[++i];
            } else {
                words.push_back(word);
            }
        }
    }
    std::string word(size_t i) const { return i < words.size() ? words[i] : ""; }
    double number(size_t i, double otherwise) const { return i < words.size() ? atof(words[i].c_str()) : otherwise; }
};

static bool open_backends(const std::string & name, int n_threads) {
    ggml_backend_dev_t device = ggml_backend_dev_by_name(name.c_str());
    if (!device) {
        fprintf(stderr, "no device %s; there are:", name.c_str());
        for (size_t i = 0; i < ggml_backend_dev_count(); i++) {
            fprintf(stderr, " %s", ggml_backend_dev_name(ggml_backend_dev_get(i)));
        }
        fprintf(stderr, "\n");
        return false;
    }
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    on_gpu        = device != cpu;
    backend       = open_backend(device, n_threads);
    cpu_backend   = on_gpu ? open_backend(cpu, 1) : backend;
    chain_backend = on_gpu ? backend : open_backend(cpu, 1);
    return true;
}

static void run_check(const std::string & name) {
    n_trees = 0;
    checks.at(name)();
    use_sched = false;
    printf("%s ok: %d trees\n", name.c_str(), n_trees);
    fflush(stdout);
}

static void run(const options & given) {
    const std::string name = given.word(0);
    if (name == "time" && on_gpu) {
        print_gpu_times(given.number(1, 3350)); // an H100's
    } else if (name == "time") {
        print_times(given.number(2, 0.2));
    } else if (name == "all") {
        for (const auto & check : checks) {
            run_check(check.first);
        }
    } else {
        run_check(name);
    }
}

int main(int argc, char ** argv) {
    const options given(argc, argv);
    const std::string name = given.word(0);
    if (name == "list") {
        for (const auto & check : checks) {
            printf("%s\n", check.first.c_str());
        }
        return 0;
    }
    if (name == "abort" && !given.word(1).empty()) {
        build_wrong(given.word(1));
        return 0;
    }
    if (name != "time" && name != "all" && !checks.count(name)) {
        fprintf(stderr, "usage: test-tree-ops list | NAME [THREADS] | all | abort NAME | time [THREADS [SECONDS]], with --backend DEVICE, --quick\n");
        return 2;
    }
    if (!open_backends(given.device, std::max((int) given.number(1, 1), 1))) {
        return 2;
    }
    try {
        run(given);
    } catch (const std::exception & e) {
        printf("FAILED: %s\n", e.what());
        fflush(stdout);
        _Exit(1);
    }
    fflush(stdout);
    _Exit(0); // an RPC server may still be serving
}
