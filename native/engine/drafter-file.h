// Checks of a drafter's GGUF file before llama.cpp reads it, which may abort the process on files that are damaged.
#pragma once

#include "llama.h"

#include <string>

// Throws std::invalid_argument with a sentence for the user.
[[noreturn]] void refuse(const std::string & sentence);

// Refuses a file that is missing, truncated, no DFlash drafter, or made for a target of other sizes.
void check_drafter_file(const std::string & path, const llama_model * target);
