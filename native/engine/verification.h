// The target's forward over the trees of all lanes, and what becomes of the nodes: llama-tree.h for the engine.
#pragma once

#include "lane.h"

#include <vector>

enum class round_status { done, no_room, aborted };

// One forward over the nodes of every lane's tree. Where there is no room for the trees, roots alone are tried. On `done`
// the lanes' walks have begun; otherwise the target's memory is as before. Throws std::runtime_error if the forward failed.
round_status verify(llama_context * target, const std::vector<lane *> & lanes, bool trees);

// The accepted path stays in the target's memory, other nodes go. Throws std::runtime_error.
void commit(llama_context * target, lane & lane);

// Every node goes, unless a failed commit has dropped the whole sequence.
void abandon(llama_context * target, lane & lane);
