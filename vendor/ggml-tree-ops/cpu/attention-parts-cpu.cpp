#include "attention-parts-cpu.h"

#include "ops.h"
#include "vec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace {

constexpr int64_t CELLS = 256; // that a query sees in a part

int64_t most_parts(const ggml_tensor * dst) { return (dst->src[1]->ne[1] + CELLS - 1)/CELLS; }
int64_t partial_size(const ggml_tensor * dst) { return 2 + dst->src[2]->ne[0]; } // M, S, sum of V

// upstream's scratch of a thread, in floats
int64_t chunk_scratch(const ggml_tensor * dst) { return dst->src[1]->ne[0] + 2*dst->src[2]->ne[0] + CACHE_LINE_SIZE_F32; }
int64_t own_scratch(const ggml_tensor * dst) { return 2*partial_size(dst) + CACHE_LINE_SIZE_F32; }

bool one_query(const ggml_tensor * dst) {
    const ggml_tensor * q = dst->src[0], * mask = dst->src[3];
    return q->ne[1] == 1 && q->ne[3] == 1 && (!mask || mask->ne[2] == 1);
}

const ggml_fp16_t * mask_of(const ggml_tensor * dst, int64_t query, int64_t head, int64_t sequence) {
    const ggml_tensor * m = dst->src[3];
    return m ? (const ggml_fp16_t *) ((const char *) m->data + query*m->nb[1] + head % m->ne[2]*m->nb[2] + sequence % m->ne[3]*m->nb[3])
             : nullptr;
}

// The cell after the part that begins at cell `from`.
int64_t end_of_part(const ggml_fp16_t * mask, int64_t from, int64_t n_cells) {
    constexpr ggml_fp16_t HIDDEN = 0xfc00; // minus infinity
    int64_t               seen   = 0;
    while (from < n_cells && seen < CELLS) {
        // no more than are missing, so that a part never has too many
        const int64_t step = std::min(n_cells - from, CELLS - seen);
        int           here = 0;
        for (int64_t i = 0; mask && i < step; ++i) {
            here += mask[from + i] != HIDDEN;
        }
        seen += mask ? here : step;
        from += step;
    }
    return from;
}

// Sums of parts, added in order.
struct running_sum {
    float   M = -INFINITY, S = 0;
    float * sum;
    int64_t n;

    running_sum(float * memory, int64_t n) : sum(memory), n(n) { memset(sum, 0, n*sizeof(float)); }

    void add(const float * partial) {
        if (partial[1] == 0.0f) {
            return; // sees nothing
        }
        const float most = fmaxf(M, partial[0]), before = expf(M - most), now = expf(partial[0] - most);
        for (int64_t d = 0; d < n; ++d) {
            sum[d] = sum[d]*before + partial[2 + d]*now;
        }
        S = S*before + partial[1]*now;
        M = most;
    }

    void write(void * out) {
        ggml_vec_scale_f32((int) n, sum, S == 0.0f ? 0.0f : 1.0f/S);
        memcpy(out, sum, n*sizeof(float));
    }
};

class attention {
public:
    attention(const ggml_compute_params * params, ggml_tensor * dst, ggml_attention_chunk_t chunk)
        : params(params), dst(dst), chunk(chunk), queries(dst->src[0]->ne[1]), heads(dst->src[0]->ne[2]), cells(dst->src[1]->ne[1]),
          size(partial_size(dst)) {
        float * memory = (float *) params->wdata + params->nth*chunk_scratch(dst);
        scratch  = memory + params->ith*own_scratch(dst);
        partials = memory + params->nth*own_scratch(dst);
    }

    // Parts of all heads in turn over the threads, then the heads.
    void of_one_query() {
        const ggml_fp16_t * mask   = mask_of(dst, 0, 0, 0);
        const int64_t       stride = most_parts(dst)*size;
        int64_t             parts  = 0;
        for (int64_t from = 0; from < cells; ++parts) {
            const int64_t to = end_of_part(mask, from, cells);
            for (int64_t head = 0; head < heads; ++head) {
                if ((parts*heads + head) % params->nth == params->ith) {
                    chunk(params, dst, (int) head, (int) head + 1, from, to, partials + parts*size, stride);
                }
            }
            from = to;
        }
        ggml_barrier(params->threadpool);
        for (int64_t head = params->ith; head < heads; head += params->nth) {
            running_sum sum(scratch, size - 2);
            for (int64_t part = 0; part < parts; ++part) {
                sum.add(partials + head*stride + part*size);
            }
            sum.write(result(0, head, 0));
        }
    }

    void of_rows() {
        const int64_t rows = queries*heads*dst->src[0]->ne[3];
        for (int64_t row = rows*params->ith/params->nth; row < rows*(params->ith + 1)/params->nth; ++row) {
            of_row(row);
        }
    }

private:
    void of_row(int64_t row) {
        const int64_t       query = row % queries, head = row/queries % heads, sequence = row/queries/heads;
        const ggml_fp16_t * mask = mask_of(dst, query, head, sequence);
        running_sum         sum(scratch, size - 2);
        float *             partial = scratch + size;
        for (int64_t from = 0; from < cells;) {
            const int64_t to = end_of_part(mask, from, cells);
            chunk(params, dst, (int) row, (int) row + 1, from, to, partial, 0);
            sum.add(partial);
            from = to;
        }
        sum.write(result(query, head, sequence));
    }

    void * result(int64_t query, int64_t head, int64_t sequence) const {
        return (char *) dst->data + head*dst->nb[1] + query*dst->nb[2] + sequence*dst->nb[3];
    }

    const ggml_compute_params * params;
    ggml_tensor *               dst;
    ggml_attention_chunk_t      chunk;
    const int64_t               queries, heads, cells, size;
    float *                     scratch;
    float *                     partials;
};

} // namespace

size_t ggml_attention_parts_work_size(const ggml_tensor * dst, int n_tasks) {
    const int64_t stored = one_query(dst) ? dst->src[0]->ne[2]*most_parts(dst)*partial_size(dst) : 0;
    return sizeof(float)*(n_tasks*(chunk_scratch(dst) + own_scratch(dst)) + stored);
}

bool ggml_attention_in_parts(const ggml_compute_params * params, ggml_tensor * dst, int n_tile, ggml_attention_chunk_t chunk) {
    const ggml_tensor * q = dst->src[0], * k = dst->src[1], * v = dst->src[2];
    const bool floats = q->type == GGML_TYPE_F32 && (k->type == GGML_TYPE_F32 || k->type == GGML_TYPE_F16) && k->type == v->type;
    if (params->use_ref || !floats || q->ne[1] >= n_tile || k->ne[1] <= CELLS) {
        return false;
    }
    attention a(params, dst, chunk);
    one_query(dst) ? a.of_one_query() : a.of_rows();
    return true;
}
