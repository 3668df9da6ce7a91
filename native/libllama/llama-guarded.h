// llama_context::decode() and encode() for callers in C: upstream lets exceptions pass (there is no memory, a backend failed),
// and one that reaches Python through ctypes ends the process.
#pragma once

#include "llama.h"

#include <cstddef>
#include <cstdint>
#include <functional>

struct llama_batch_ext;

// As ctx->decode(); after an exception -2, and no sequence holds more than before. A recurrent one, which can't be cut back,
// then holds nothing.
int32_t llama_guarded_decode(llama_context * ctx, const llama_batch & batch);
int32_t llama_guarded_decode(llama_context * ctx, const llama_batch_ext & batch);

// As ctx->encode(); after an exception -2.
int32_t llama_guarded_encode(llama_context * ctx, const llama_batch & batch);

// What `body` returns, which saves or loads a state and says how many bytes that took; 0 if an RPC worker was lost meanwhile.
// Upstream moves the bytes in destructors, from which no exception may come.
size_t llama_guarded_state(llama_context * ctx, const std::function<size_t()> & body);
