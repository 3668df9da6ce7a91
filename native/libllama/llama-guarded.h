// llama_context::decode() and encode() for callers in C: upstream lets exceptions pass (there is no memory, a backend failed),
// and one that reaches Python through ctypes ends the process.
#pragma once

#include "llama.h"
#include "llama-workers.h"

#include <cstddef>
#include <cstdint>

struct llama_batch_ext;

// As ctx->decode(); after an exception -2, and no sequence holds more than before. A recurrent one, which can't be cut back,
// then holds nothing.
int32_t llama_guarded_decode(llama_context * ctx, const llama_batch & batch);
int32_t llama_guarded_decode(llama_context * ctx, const llama_batch_ext & batch);

// As ctx->encode(); after an exception -2.
int32_t llama_guarded_encode(llama_context * ctx, const llama_batch & batch);

// `n_bytes`; 0 if an RPC worker was lost. No exception leaves it.
size_t llama_unless_lost(llama_context * ctx, size_t n_bytes);

// What `body` returns, which saves or loads a state and says how many bytes that took; 0 if an RPC worker was lost meanwhile.
// Upstream moves the bytes in destructors, from which no exception may come. A template: a std::function may have to allocate.
template<typename F>
size_t llama_guarded_state(llama_context * ctx, const F & body) {
    size_t n_bytes = 0;
    {
        const llama_quiet_workers quiet;
        n_bytes = body();
    }
    return llama_unless_lost(ctx, n_bytes);
}
