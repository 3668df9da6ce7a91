#include "attention-parts-cpu.h"

#include "attention/rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(__GNUC__)
#    define PREFETCH(p) __builtin_prefetch(p)
#else
#    define PREFETCH(p) (void) (p)
#endif

namespace attention {

namespace {

constexpr int MAX_ROWS = 32;        // of a strip
constexpr int ROOM     = CELLS + 8; // for the scores of a part, in whole lanes

// The cells that a query sees in one part.
struct view {
    int     n = 0;
    bool    biased; // a mask value is not zero
    int32_t at[CELLS];

    // Cells from `from` on; returns the cell after the last.
    int64_t fill(const ggml_fp16_t * mask, int64_t from, int64_t n_cells) {
        constexpr ggml_fp16_t HIDDEN = 0xfc00; // minus infinity
        n      = 0;
        biased = false;
        while (from < n_cells && n < CELLS) {
            const int step = (int) std::min<int64_t>({16, n_cells - from, CELLS - n});
            int       hidden = 0, zero = 0;
            for (int i = 0; mask && i < step; ++i) {
                hidden += mask[from + i] == HIDDEN;
                zero += mask[from + i] == 0;
            }
            biased |= mask && hidden + zero < step;
            for (int i = 0; hidden < step && i < step; ++i) {
                at[n] = (int32_t) (from + i);
                n += !mask || mask[from + i] != HIDDEN;
            }
            from += step;
        }
        return from;
    }

    int first_at_or_after(int i, int64_t cell) const {
        while (i < n && at[i] < cell) {
            ++i;
        }
        return i;
    }
};

// Sums of parts, added in order.
struct running_sum {
    float   M = -INFINITY, S = 0;
    float * sum;
    int64_t n;

    void clear(float * memory, int64_t size, const float * sink) {
        sum = memory;
        n   = size;
        M   = sink ? *sink : -INFINITY;
        S   = sink ? 1.0f : 0.0f;
        std::fill(sum, sum + n, 0.0f);
    }

    void add(float largest, float weights, const float * values) {
        const float most = std::max(M, largest), before = S > 0 ? expf(M - most) : 0.0f, now = expf(largest - most);
        const lanes b = lanes::all(before), a = lanes::all(now), zero = lanes::zero();
        for (int64_t d = 0; d < n; d += 8) {
            lanes::multiply_add(lanes::load(values + d), a, lanes::multiply_add(lanes::load(sum + d), b, zero)).store(sum + d);
        }
        S = S*before + weights*now;
        M = most;
    }

    void write(float * out) const {
        const float inverse = S == 0.0f ? 0.0f : 1.0f/S;
        for (int64_t d = 0; d < n; ++d) {
            out[d] = sum[d]*inverse;
        }
    }
};

// What the op's tensors and parameters say.
struct op {
    const ggml_tensor *dst, *q, *k, *v, *mask, *sinks;
    const int64_t      queries, heads, kv_heads, sequences, cells, DK, DV;
    float              scale, max_bias, softcap;

    explicit op(const ggml_tensor * dst)
        : dst(dst), q(dst->src[0]), k(dst->src[1]), v(dst->src[2]), mask(dst->src[3]), sinks(dst->src[4]), queries(q->ne[1]),
          heads(q->ne[2]), kv_heads(k->ne[2]), sequences(q->ne[3]), cells(k->ne[1]), DK(k->ne[0]), DV(v->ne[0]) {
        const float * params = (const float *) dst->op_params;
        softcap  = params[2];
        max_bias = params[1];
        scale    = softcap != 0.0f ? params[0]/softcap : params[0];
    }

    int64_t group() const { return heads/kv_heads; } // heads that share one of K and V
    bool    one_query() const { return queries == 1 && sequences == 1 && (!mask || mask->ne[2] == 1); }
    int64_t most_parts() const { return (cells + CELLS - 1)/CELLS; }

    const ggml_fp16_t * mask_of(int64_t query, int64_t head, int64_t sequence) const {
        return mask ? (const ggml_fp16_t *) ((const char *) mask->data + query*mask->nb[1] + head % mask->ne[2]*mask->nb[2] +
                                             sequence % mask->ne[3]*mask->nb[3])
                    : nullptr;
    }

    const float * query_at(int64_t query, int64_t head, int64_t sequence) const {
        return (const float *) ((const char *) q->data + query*q->nb[1] + head*q->nb[2] + sequence*q->nb[3]);
    }

    const char * cell_of(const ggml_tensor * t, int64_t cell, int64_t head, int64_t sequence) const {
        return (const char *) t->data + cell*t->nb[1] + head/(heads/t->ne[2])*t->nb[2] + sequence/(sequences/t->ne[3])*t->nb[3];
    }

    float * result(int64_t query, int64_t head, int64_t sequence) const {
        return (float *) ((char *) dst->data + head*dst->nb[1] + query*dst->nb[2] + sequence*dst->nb[3]);
    }

    float slope(int64_t head) const { // of ALiBi, as upstream
        if (max_bias <= 0.0f) {
            return 1.0f;
        }
        const int64_t log2_heads = 1 << (int) floorf(log2f((float) heads));
        const float   m0 = powf(2.0f, -max_bias/log2_heads), m1 = powf(2.0f, -max_bias/2.0f/log2_heads);
        return head < log2_heads ? powf(m0, (float) (head + 1)) : powf(m1, (float) (2*(head - log2_heads) + 1));
    }

    const float * sink(int64_t head) const { return sinks ? (const float *) sinks->data + head : nullptr; }
};

// Memory of a thread.
struct scratch {
    float *tile, *scores, *values, *sums; // a tile of cells; rows of scores, of a part's sums, of sums of all parts
    view * views;

    static int64_t floats(const op & o) {
        return TILE*std::max(o.DK, o.DV) + MAX_ROWS*(ROOM + 2*o.DV) + MAX_ROWS*(int64_t) (sizeof(view)/sizeof(float)) + 16; // threads share no cache line
    }

    scratch(const op & o, float * memory) {
        tile   = memory;
        scores = tile + TILE*std::max(o.DK, o.DV);
        values = scores + MAX_ROWS*ROOM;
        sums   = values + MAX_ROWS*o.DV;
        views  = (view *) (sums + MAX_ROWS*o.DV);
    }
};

// Some queries and some of the heads that share one of K and V: what is converted serves all its rows.
class strip {
public:
    strip(const op & o, const scratch & s, int64_t sequence, int64_t first_head, int64_t n_heads, int64_t first_query, int64_t n_queries)
        : o(o), s(s), sequence(sequence), first_head(first_head), n_heads(n_heads), first_query(first_query), n_queries(n_queries) {
        for (int64_t h = 0; h < n_heads; ++h) {
            slopes[h] = o.slope(first_head + h);
        }
    }

    void of_all_parts() {
        running_sum sums[MAX_ROWS];
        int64_t     from[MAX_ROWS] = {};
        for (int64_t r = 0; r < n_queries*n_heads; ++r) {
            sums[r].clear(s.sums + r*o.DV, o.DV, o.sink(first_head + r % n_heads));
        }
        while (next_part(from)) {
            compute();
            for (int64_t r = 0; r < n_queries*n_heads; ++r) {
                if (s.views[r/n_heads].n > 0) {
                    sums[r].add(largest[r], weights[r], s.values + r*o.DV);
                }
            }
        }
        for (int64_t r = 0; r < n_queries*n_heads; ++r) {
            sums[r].write(o.result(first_query + r/n_heads, first_head + r % n_heads, sequence));
        }
    }

    // The part that is in the views. Its sums: s.values; what scales them: largest and weights, of query after query.
    void compute() {
        scores();
        for (int64_t r = 0; r < n_queries*n_heads; ++r) {
            const view & seen = s.views[r/n_heads];
            if (seen.n > 0) {
                finish(s.scores + r*ROOM, seen, r);
                weigh(s.scores + r*ROOM, seen.n, largest[r], weights[r]);
            }
        }
        values();
    }

    float largest[MAX_ROWS], weights[MAX_ROWS];

private:
    bool next_part(int64_t * from) {
        bool any = false;
        for (int64_t i = 0; i < n_queries; ++i) {
            from[i] = s.views[i].fill(o.mask_of(first_query + i, first_head, sequence), from[i], o.cells);
            any |= s.views[i].n > 0;
        }
        return any;
    }

    // f(first cell, cells, for each query the first and the end of what it sees there), for tiles that someone sees
    template <class F> void tiles(F && f) const {
        int64_t first = o.cells, end = 0;
        int     from[MAX_ROWS] = {}, to[MAX_ROWS];
        for (int64_t i = 0; i < n_queries; ++i) {
            if (s.views[i].n > 0) {
                first = std::min<int64_t>(first, s.views[i].at[0]);
                end   = std::max<int64_t>(end, s.views[i].at[s.views[i].n - 1] + 1);
            }
        }
        for (int64_t cell = first; cell < end; cell += TILE) {
            bool seen = false;
            for (int64_t i = 0; i < n_queries; ++i) {
                to[i] = s.views[i].first_at_or_after(from[i], cell + TILE);
                seen |= to[i] > from[i];
            }
            if (seen) {
                f(cell, (int) std::min<int64_t>(TILE, end - cell), from, to);
            }
            std::copy(to, to + n_queries, from);
        }
    }

    // The cells of the tile after this one are fetched meanwhile: they are too far apart for the hardware to do so.
    void convert_tile(const ggml_tensor * t, int64_t first, int n, int64_t size) const {
        const char *  from  = o.cell_of(t, first, first_head, sequence);
        const int64_t after = std::min<int64_t>(TILE, o.cells - first - n);
        const size_t  bytes = size*t->nb[0];
        for (int i = 0; i < n; ++i, from += t->nb[1]) {
            for (size_t b = 0; i < after && b < bytes; b += 64) {
                PREFETCH(from + n*t->nb[1] + b);
            }
            convert(t->type == GGML_TYPE_F16, from, s.tile + i*size, size);
        }
    }

    void scores() const {
        tiles([&](int64_t first, int n, const int * from, const int * to) {
            convert_tile(o.k, first, n, o.DK);
            for (int64_t i = 0; i < n_queries; ++i) {
                const view & seen = s.views[i];
                if (from[i] == to[i]) {
                    continue;
                }
                const int begin = (int) (seen.at[from[i]] - first), last = (int) (seen.at[to[i] - 1] - first);
                for (int64_t h = 0; h < n_heads; ++h) {
                    float products[TILE];
                    for (int c = begin/8*8; c <= last; c += 8) {
                        eight_products(o.query_at(first_query + i, first_head + h, sequence), s.tile + c*o.DK, o.DK, products + c);
                    }
                    float * scores = s.scores + (i*n_heads + h)*ROOM;
                    if (last - begin == to[i] - 1 - from[i]) { // all cells between them
                        std::copy(products + begin, products + last + 1, scores + from[i]);
                    } else {
                        for (int j = from[i]; j < to[i]; ++j) {
                            scores[j] = products[seen.at[j] - first];
                        }
                    }
                }
            }
        });
    }

    // Products to scores: scale, cap, mask.
    void finish(float * scores, const view & seen, int64_t r) const {
        for (int i = 0; i < seen.n; ++i) {
            scores[i] *= o.scale;
        }
        for (int i = 0; o.softcap != 0.0f && i < seen.n; ++i) {
            scores[i] = o.softcap*tanhf(scores[i]);
        }
        if (seen.biased) {
            const ggml_fp16_t * mask = o.mask_of(first_query + r/n_heads, first_head + r % n_heads, sequence);
            for (int i = 0; i < seen.n; ++i) {
                scores[i] += slopes[r % n_heads]*GGML_CPU_FP16_TO_FP32(mask[seen.at[i]]);
            }
        }
    }

    void values() const {
        std::fill(s.values, s.values + n_queries*n_heads*o.DV, 0.0f);
        tiles([&](int64_t first, int n, const int * from, const int * to) {
            convert_tile(o.v, first, n, o.DV);
            for (int64_t r = 0; r < n_queries*n_heads; ++r) {
                const int64_t i = r/n_heads;
                add_cells(s.scores + r*ROOM, s.views[i].at, from[i], to[i], s.tile, first, o.DV, s.values + r*o.DV);
            }
        });
    }

    const op &      o;
    const scratch & s;
    const int64_t   sequence, first_head, n_heads, first_query, n_queries;
    float           slopes[MAX_ROWS];
};

// An op over its threads.
class work {
public:
    work(const ggml_compute_params * params, const ggml_tensor * dst)
        : o(dst), ith(params->ith), nth(params->nth), threadpool(params->threadpool),
          s(o, (float *) params->wdata + params->ith*scratch::floats(o)), partials((float *) params->wdata + nth*scratch::floats(o)),
          heads(std::min<int64_t>(o.group(), MAX_ROWS)) {}

    void compute() { o.one_query() ? of_one_query() : of_strips(); }

private:
    // Parts of all heads in turn over the threads, then the heads.
    void of_one_query() {
        const int64_t size = o.DV + 2, stride = o.most_parts()*size;
        const auto *  mask = o.mask_of(0, 0, 0);
        int64_t       parts = 0, item = 0;
        for (int64_t from = 0; from < o.cells;) {
            from = s.views[0].fill(mask, from, o.cells);
            if (s.views[0].n == 0) {
                continue;
            }
            for (int64_t head = 0; head < o.heads; head += heads_from(head), ++item) {
                if (item % nth != ith) {
                    continue;
                }
                strip part(o, s, 0, head, heads_from(head), 0, 1);
                part.compute();
                for (int64_t h = 0; h < heads_from(head); ++h) {
                    float * partial = partials + (head + h)*stride + parts*size;
                    partial[0] = part.largest[h];
                    partial[1] = part.weights[h];
                    memcpy(partial + 2, s.values + h*o.DV, o.DV*sizeof(float));
                }
            }
            ++parts;
        }
        ggml_barrier(threadpool);
        for (int64_t head = ith; head < o.heads; head += nth) {
            running_sum sum;
            sum.clear(s.sums, o.DV, o.sink(head));
            for (const float * p = partials + head*stride; p < partials + head*stride + parts*size; p += size) {
                sum.add(p[0], p[1], p + 2);
            }
            sum.write(o.result(0, head, 0));
        }
    }

    void of_strips() {
        // as many queries as there are rows for, but some strips for every thread
        const int64_t others  = o.sequences*o.heads/heads;
        const int64_t wanted  = std::max<int64_t>(1, (4*nth + others - 1)/others);
        const int64_t masks   = o.mask ? o.mask->ne[2] : 1; // with a mask for each head, a strip has one head
        const int64_t n_heads = masks > 1 ? 1 : heads;
        const int64_t queries = std::max<int64_t>(1, std::min<int64_t>(MAX_ROWS/n_heads, (o.queries + wanted - 1)/wanted));
        int64_t       item    = 0;
        for (int64_t sequence = 0; sequence < o.sequences; ++sequence) {
            for (int64_t head = 0; head < o.heads; head += masks > 1 ? 1 : heads_from(head)) {
                for (int64_t query = 0; query < o.queries; query += queries, ++item) {
                    if (item % nth == ith) {
                        strip(o, s, sequence, head, masks > 1 ? 1 : heads_from(head), query, std::min(queries, o.queries - query)).of_all_parts();
                    }
                }
            }
        }
    }

    // heads from this one on that share one of K and V, MAX_ROWS at most
    int64_t heads_from(int64_t head) const { return std::min(heads, o.group() - head % o.group()); }

    const op           o;
    const int          ith, nth;
    ggml_threadpool *  threadpool;
    const scratch      s;
    float *            partials; // of one query: [head][part][largest, weights, sums]
    const int64_t      heads;
};

bool is_float(const ggml_tensor * t) { return (t->type == GGML_TYPE_F32 || t->type == GGML_TYPE_F16) && t->nb[0] == ggml_type_size(t->type); }

} // namespace

} // namespace attention

size_t ggml_attention_parts_work_size(const ggml_tensor * dst, int n_tasks) {
    const attention::op o(dst);
    const int64_t       stored = o.one_query() ? o.heads*o.most_parts()*(o.DV + 2) : 0;
    return sizeof(float)*(n_tasks*attention::scratch::floats(o) + stored);
}

bool ggml_attention_in_parts(const ggml_compute_params * params, ggml_tensor * dst, int n_tile) {
    const attention::op o(dst);
    const bool can = o.q->type == GGML_TYPE_F32 && o.q->nb[0] == sizeof(float) && attention::is_float(o.k) && attention::is_float(o.v) &&
                     o.DK % 8 == 0 && o.DV % 8 == 0 && o.k->ne[2] == o.v->ne[2] && o.k->ne[3] == o.v->ne[3];
    if (params->use_ref || !can || (o.queries >= n_tile && !ggml_cpu_batch_invariant)) {
        return false;
    }
    attention::work(params, dst).compute();
    return true;
}
