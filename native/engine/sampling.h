// The target's own choice at a row of its last decode.
#pragma once

#include "llama.h"

// With the sampler, which then knows of it. greedy: the sampler is a plain argmax, and need not see the whole row.
llama_token sample_at(llama_context * target, int32_t row, llama_sampler * sampler, bool greedy);
