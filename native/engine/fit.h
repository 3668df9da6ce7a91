// What fits what: the rules by which a target is fit for drafts at all, and a drafter for a target, as sentences for the user.
// The engine refuses by them, and `llama-dflash info` asks for them, without weights.
#pragma once

#include "llama.h"

#include <string>
#include <vector>

using sentences = std::vector<std::string>; // why something does not fit: none if it does

// A target whose memory can be neither a tree's nor be cut back to a chain's accepted tokens.
sentences target_misfits(llama_context * target);

// Refuses if there are any, with all of them in one sentence. `what`: how it calls what does not fit.
void refuse_misfits(const std::string & what, const sentences & found);

// Both, and the drafter's own, for files (an empty name: of a drafter without a file): reads what they say about themselves, never their weights.
sentences file_misfits(const std::string & target, const std::string & drafter);
