#include "product.h"

#include "kernels.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

namespace rows {

namespace {

int64_t groups_of(const ggml_tensor * weights) { return (weights->ne[1] + GROUP - 1)/GROUP; }

layout layout_of(const ggml_tensor * weights) {
    const form * f = form_of(weights->type);
    return {f, weights->ne[0]/f->block};
}

// ------------------------------------------------------------------ rows of activations

struct row {
    const float * in;
    float *       out;
};

// The rows that are multiplied with one matrix: all of MUL_MAT's, or those of one expert.
struct job {
    const uint8_t * weights;
    int64_t         first, n; // among all rows
};

// Tile t of n rows: as even as can be, so that 5 rows are 3 + 2 and not 4 + 1.
struct tiling {
    int64_t n, n_tiles;

    tiling(int64_t n, int max_tile) : n(n), n_tiles((n + max_tile - 1)/max_tile) {}
    int64_t start(int64_t t) const { return n*t/n_tiles; }
    int     size(int64_t t) const { return (int) (start(t + 1) - start(t)); }
};

row row_of_tensors(const ggml_tensor * op, int64_t i) {
    const ggml_tensor * x = op->src[1];
    if (i < x->ne[1]) { // divisions would take their time for every few results
        return {(const float *) ((const char *) x->data + i*x->nb[1]), (float *) ((char *) op->data + i*op->nb[1])};
    }
    const int64_t i1 = i % x->ne[1], i2 = i/x->ne[1] % x->ne[2], i3 = i/x->ne[1]/x->ne[2];
    return {(const float *) ((const char *) x->data + i1*x->nb[1] + i2*x->nb[2] + i3*x->nb[3]),
            (float *) ((char *) op->data + i1*op->nb[1] + i2*op->nb[2] + i3*op->nb[3])};
}

// One op: its kernel, its rows, and what params->wdata holds: the quantised rows, and for MUL_MAT_ID the rows of each expert.
class work {
public:
    const ggml_tensor * op;
    const kernel *      k;
    const layout        where;
    const bool          by_expert;
    const int64_t       n_rows, n_jobs;
    const size_t        row_words; // of a quantised row

    explicit work(const ggml_tensor * op, void * wdata = nullptr)
        : op(op), k(kernel_of(op->src[0]->type)), where(layout_of(op->src[0])), by_expert(op->op == GGML_OP_MUL_MAT_ID),
          n_rows(by_expert ? ggml_nelements(op->src[2]) : ggml_nrows(op->src[1])), n_jobs(by_expert ? op->src[0]->ne[2] : 1),
          row_words((size_t) k->activations.words()*where.n_blocks), memory((char *) GGML_PAD((uintptr_t) wdata, 64)) {}

    size_t size() const { return quantised_bytes() + (by_expert ? n_rows*sizeof(row) + n_jobs*sizeof(job) : 0) + 64; }

    int32_t * quantised(int64_t r) const { return (int32_t *) memory + r*row_words; }
    row       row_at(int64_t r) const { return by_expert ? rows()[r] : row_of_tensors(op, r); }
    job       job_at(int64_t i) const { return by_expert ? jobs()[i] : job{(const uint8_t *) op->src[0]->data, 0, n_rows}; }

    void list_rows_by_expert() const;

private:
    size_t quantised_bytes() const { return GGML_PAD(row_words*n_rows*4, 64); }
    row *  rows() const { return (row *) (memory + quantised_bytes()); }
    job *  jobs() const { return (job *) (rows() + n_rows); }

    char * memory;
};

void work::list_rows_by_expert() const {
    const ggml_tensor * x = op->src[1], * ids = op->src[2];
    auto job_of = [&](int64_t i, int64_t token) -> job & {
        const int32_t expert = *(const int32_t *) ((const char *) ids->data + i*ids->nb[0] + token*ids->nb[1]);
        GGML_ASSERT(expert >= 0 && expert < n_jobs);
        return jobs()[expert];
    };
    for (int64_t e = 0; e < n_jobs; ++e) {
        jobs()[e] = {(const uint8_t *) op->src[0]->data + e*groups_of(op->src[0])*where.group_bytes(), 0, 0};
    }
    for (int64_t i = 0; i < n_rows; ++i) {
        ++job_of(i % ids->ne[0], i/ids->ne[0]).n;
    }
    int64_t first = 0;
    for (int64_t e = 0; e < n_jobs; ++e) {
        jobs()[e].first = first;
        first += jobs()[e].n;
        jobs()[e].n = 0;
    }
    for (int64_t r = 0; r < n_rows; ++r) {
        const int64_t i = r % ids->ne[0], token = r/ids->ne[0];
        job &         j = job_of(i, token);
        rows()[j.first + j.n++] = {(const float *) ((const char *) x->data + (i % x->ne[1])*x->nb[1] + token*x->nb[2]),
                                   (float *) ((char *) op->data + i*op->nb[1] + token*op->nb[2])};
    }
}

// Blocks [from, to) of every row of a job, into its tiles.
void quantise(const work & w, const job & j, int64_t from, int64_t to) {
    const tiling tiles(j.n, w.k->max_tile);
    const int    block = w.k->activations.block, words = w.k->activations.words();
    for (int64_t t = 0; t < tiles.n_tiles; ++t) {
        const int     n    = tiles.size(t);
        const int64_t r    = j.first + tiles.start(t);
        for (int i = 0; i < n; ++i) {
            const float * in = w.row_at(r + i).in;
            for (int64_t b = from; b < to; ++b) {
                quantise_block(w.k->activations, in + b*block, w.quantised(r) + b*words*n, i, n);
            }
        }
    }
}

// ------------------------------------------------------------------ products

// Rows of activations that stay in the second-level cache while groups of weights pass by.
constexpr size_t CACHED_BYTES = 192*1024;

class product {
public:
    product(const work & w, const job & j)
        : w(w), j(j), tiles(j.n, w.k->max_tile), bytes(w.where.group_bytes()), ne1(w.op->src[0]->ne[1]) {}

    void groups(int64_t from, int64_t to) const {
        const int64_t cached = std::max<int64_t>(1, CACHED_BYTES/(w.row_words*4*w.k->max_tile));
        for (int64_t t = 0; t < tiles.n_tiles; t += cached) {
            for (int64_t g = from; g < to; ++g) {
                for (int64_t i = t; i < std::min(t + cached, tiles.n_tiles); ++i) {
                    tile(g, i);
                }
            }
        }
    }

private:
    void tile(int64_t group, int64_t t) const {
        const int64_t r = j.first + tiles.start(t);
        const int     n = tiles.size(t);
        const int64_t there = std::min<int64_t>(GROUP, ne1 - group*GROUP);
        float         beyond[MAX_TILE][GROUP]; // results of a last group with fewer rows
        float *       out[MAX_TILE];
        for (int i = 0; i < n; ++i) {
            out[i] = there == GROUP ? w.row_at(r + i).out + group*GROUP : beyond[i];
        }
        w.k->product[n](w.where.quants(j.weights, group), w.where.scales(j.weights, group), w.where.n_blocks,
                        w.quantised(r), out, ahead(group, t));
        if (there < GROUP) {
            for (int i = 0; i < n; ++i) {
                memcpy(w.row_at(r + i).out + group*GROUP, beyond[i], there*sizeof(float));
            }
        }
    }

    // One tile: the weights a little ahead. Several: each fetches its part of the next group.
    prefetch ahead(int64_t group, int64_t t) const {
        const uint8_t * here = w.where.quants(j.weights, group);
        if (tiles.n_tiles == 1) {
            return {here + std::min<size_t>(bytes, AHEAD), bytes};
        }
        if (tiles.n_tiles > 8) {
            return {here, 0};
        }
        return {here + bytes + bytes*t/tiles.n_tiles, bytes/tiles.n_tiles};
    }

    static constexpr size_t AHEAD = 16384;

    const work &  w;
    const job &   j;
    const tiling  tiles;
    const size_t  bytes;
    const int64_t ne1;
};

// Groups that a thread takes at once: several parts a thread, so that one that is late keeps no other waiting long.
int64_t groups_at_once(int64_t groups, int threads) {
    return std::max<int64_t>(1, std::min<int64_t>(32, groups/(threads*4)));
}

// ------------------------------------------------------------------ conversion

template <class F> void on_all_threads(int64_t n, size_t bytes, F && f) {
    const int threads = bytes < (1u << 20) ? 1 : (int) std::max(1u, std::min(16u, std::thread::hardware_concurrency()));
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) {
        others.emplace_back([&, t] { f(n*t/threads, n*(t + 1)/threads); });
    }
    f(0, n/threads);
    for (std::thread & t : others) {
        t.join();
    }
}

// A group of a tensor (of all its matrices in a row) in memory and in the file's form.
struct place_of_group {
    uint8_t * group;
    size_t    file_offset;
    int       n_rows;

    place_of_group(const ggml_tensor * weights, const layout & where, int64_t i) {
        const int64_t per_matrix = groups_of(weights), matrix = i/per_matrix, g = i % per_matrix;
        group       = (uint8_t *) weights->data + i*where.group_bytes();
        file_offset = matrix*weights->nb[2] + g*GROUP*weights->nb[1];
        n_rows      = (int) std::min<int64_t>(GROUP, weights->ne[1] - g*GROUP);
    }
};

// Whether a view is of whole rows from the first of a group on: then its data is where the group is.
bool begins_a_group(const ggml_tensor * weights) {
    const ggml_tensor * of = weights->view_src;
    return !of || (of->type == weights->type && of->ne[0] == weights->ne[0] && of->ne[2] == weights->ne[2] &&
                   weights->view_offs % (GROUP*weights->nb[1]) == 0);
}

int64_t all_groups(const ggml_tensor * weights) { return groups_of(weights)*weights->ne[2]*weights->ne[3]; }

} // namespace

bool can_hold(const ggml_tensor * weights) {
    const form * f = form_of(weights->type);
    return f && kernel_of(weights->type) && weights->ne[0] % f->block == 0 && weights->ne[3] == 1 && ggml_is_contiguous(weights);
}

bool can_compute(const ggml_tensor * op) {
    const ggml_tensor * weights = op->src[0], * x = op->src[1];
    if (!can_hold(weights) || !begins_a_group(weights) || x->type != GGML_TYPE_F32 || x->nb[0] != sizeof(float)) {
        return false;
    }
    return op->op == GGML_OP_MUL_MAT ? weights->ne[2] == 1 : op->op == GGML_OP_MUL_MAT_ID;
}

size_t bytes(const ggml_tensor * weights) { return all_groups(weights)*layout_of(weights).group_bytes(); }

size_t work_size(const ggml_tensor * op) { return work(op).size(); }

void compute(const ggml_compute_params * params, ggml_tensor * op) {
    const work w(op, params->wdata);
    GGML_ASSERT(params->wsize >= w.size());
    if (w.by_expert) {
        if (params->ith == 0) {
            w.list_rows_by_expert();
        }
        ggml_barrier(params->threadpool);
    }
    const int64_t blocks = w.where.n_blocks;
    for (int64_t i = 0; i < w.n_jobs; ++i) {
        quantise(w, w.job_at(i), blocks*params->ith/params->nth, blocks*(params->ith + 1)/params->nth);
    }
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    const int64_t groups = groups_of(op->src[0]), step = groups_at_once(groups, params->nth);
    const int64_t parts = (groups + step - 1)/step;
    for (int64_t part = params->ith; part < parts*w.n_jobs; part = ggml_threadpool_chunk_add(params->threadpool, 1)) {
        const job j = w.job_at(part/parts);
        if (j.n > 0) {
            const int64_t from = part % parts*step;
            product(w, j).groups(from, std::min(from + step, groups));
        }
    }
}

void set(ggml_tensor * weights, const void * data, size_t offset, size_t size) {
    const layout where = layout_of(weights);
    const size_t row_bytes = weights->nb[1];
    on_all_threads(all_groups(weights), size, [&](int64_t from, int64_t to) {
        std::vector<uint8_t> rows;
        for (int64_t i = from; i < to; ++i) {
            const place_of_group g(weights, where, i);
            const size_t begin = std::max(offset, g.file_offset), end = std::min(offset + size, g.file_offset + g.n_rows*row_bytes);
            if (begin >= end) {
                continue;
            }
            const uint8_t * source = (const uint8_t *) data + (begin - offset);
            if (end - begin < g.n_rows*row_bytes) { // a part of the group
                rows.resize(g.n_rows*row_bytes);
                unpack(where, g.group, rows.data(), row_bytes, g.n_rows);
                memcpy(rows.data() + (begin - g.file_offset), source, end - begin);
                source = rows.data();
            }
            pack(where, g.group, source, row_bytes, g.n_rows);
        }
    });
}

void get(const ggml_tensor * weights, void * data, size_t offset, size_t size) {
    const layout where = layout_of(weights);
    const size_t row_bytes = weights->nb[1];
    on_all_threads(all_groups(weights), size, [&](int64_t from, int64_t to) {
        std::vector<uint8_t> rows(GROUP*row_bytes);
        for (int64_t i = from; i < to; ++i) {
            const place_of_group g(weights, where, i);
            const size_t begin = std::max(offset, g.file_offset), end = std::min(offset + size, g.file_offset + g.n_rows*row_bytes);
            if (begin < end) {
                unpack(where, g.group, rows.data(), row_bytes, g.n_rows);
                memcpy((uint8_t *) data + (begin - offset), rows.data() + (begin - g.file_offset), end - begin);
            }
        }
    });
}

} // namespace rows
