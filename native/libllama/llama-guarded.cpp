// See llama-guarded.h.

#include "llama-guarded.h"
#include "llama-workers.h"

#include "llama-batch.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-memory.h"

#include <exception>
#include <vector>

static std::vector<llama_pos> last_positions(llama_context * ctx) {
    llama_memory_t mem = ctx->get_memory();
    std::vector<llama_pos> last(mem ? ctx->n_seq_max() : 0);
    for (size_t seq_id = 0; seq_id < last.size(); ++seq_id) {
        last[seq_id] = mem->seq_pos_max((llama_seq_id) seq_id);
    }
    return last;
}

static void cut_back(llama_context * ctx, const std::vector<llama_pos> & last) {
    llama_memory_t mem = ctx->get_memory();
    for (size_t i = 0; i < last.size(); ++i) {
        const auto seq_id = (llama_seq_id) i;
        if (mem->seq_pos_max(seq_id) > last[i] && !mem->seq_rm(seq_id, last[i] + 1, -1)) {
            mem->seq_rm(seq_id, -1, -1);
        }
    }
}

template<typename batch_type>
static int32_t guarded_decode(llama_context * ctx, const batch_type & batch) {
    std::vector<llama_pos> last;
    try {
        last = last_positions(ctx);
        const int32_t ret = ctx->decode(batch);
        llama_check_workers(*ctx);
        return ret;
    } catch (const std::exception & e) {
        LLAMA_LOG_ERROR("llama_decode: %s\n", e.what());
    }
    cut_back(ctx, last);
    return -2;
}

int32_t llama_guarded_decode(llama_context * ctx, const llama_batch & batch) {
    return guarded_decode(ctx, batch);
}

int32_t llama_guarded_decode(llama_context * ctx, const llama_batch_ext & batch) {
    return guarded_decode(ctx, batch);
}

int32_t llama_guarded_encode(llama_context * ctx, const llama_batch & batch) {
    try {
        const int32_t ret = ctx->encode(batch);
        llama_check_workers(*ctx);
        return ret;
    } catch (const std::exception & e) {
        LLAMA_LOG_ERROR("llama_encode: %s\n", e.what());
        return -2;
    }
}

size_t llama_unless_lost(llama_context * ctx, size_t n_bytes) {
    try {
        llama_check_workers(*ctx);
        return n_bytes;
    } catch (const std::exception & e) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, e.what());
        return 0;
    }
}
