// Checks of a drafter's GGUF file before llama.cpp reads it, which may abort the process on files that are damaged.
#pragma once

#include "llama.h"
#include "model-file.h"

#include <string>

// Refuses a file that is missing, truncated, no DFlash drafter, or made for a target of other sizes.
void check_drafter_file(const std::string & path, const llama_model * target);
