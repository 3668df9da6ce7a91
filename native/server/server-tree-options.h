// What the server's options say about drafters.
#pragma once

#include "common.h"

#include <string>
#include <vector>

// A drafter as the engine takes it.
struct server_drafter {
    std::string kind;
    std::string path; // "" where it needs no file
};

// The drafters that --spec-draft-model and --spec-draft name, in their order. Throws std::runtime_error with a sentence where
// they name none, or no drafter.
std::vector<server_drafter> server_drafters(const common_params & params);
