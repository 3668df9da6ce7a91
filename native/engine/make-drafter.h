// The drafters by their kind.
#pragma once

#include "drafter.h"
#include "llama-dflash.h"

#include <memory>

// `params` are those of the speculation. Throws std::invalid_argument with a sentence for the user.
std::unique_ptr<drafter> make_drafter(
        llama_context * target, const llama_dflash_drafter_params & drafter, const llama_dflash_params & params);
