// llama_context::decode() and encode() for callers in C: upstream lets exceptions pass (there is no memory, a backend failed),
// and one that reaches Python through ctypes ends the process.
#pragma once

#include "llama.h"

#include <cstdint>

struct llama_batch_ext;

// As ctx->decode(); after an exception -2, and no sequence holds more than before. A recurrent one, which can't be cut back,
// then holds nothing.
int32_t llama_guarded_decode(llama_context * ctx, const llama_batch & batch);
int32_t llama_guarded_decode(llama_context * ctx, const llama_batch_ext & batch);

// As ctx->encode(); after an exception -2.
int32_t llama_guarded_encode(llama_context * ctx, const llama_batch & batch);
