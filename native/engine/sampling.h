// The target's own choice at a row of its last decode.
#pragma once

#include "llama-dflash.h"

// What the sampler chooses there, if it need not see the whole row; it has not accepted it. -1 where it must: it has not moved then.
llama_token decided_at(llama_context * target, int32_t row, int32_t n_top, llama_sampler * sampler, llama_dflash_choice choice);

// With the sampler, which then knows of it. n_top: entries of every row that the decode left as llama_tree_set_top_logits() or,
// for one, llama_tree_set_top() asks for; 0 where it left whole rows.
llama_token sample_at(llama_context * target, int32_t row, int32_t n_top, llama_sampler * sampler, llama_dflash_choice choice);
