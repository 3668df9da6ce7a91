// Sampling from the best entries of a row of logits where that gives the token that the whole row would give, bit by bit: a row
// of a large vocabulary on a GPU is a megabyte to fetch and a quarter of a million candidates to look at.
#pragma once

#include "llama.h"

#include <cstdint>

// How many entries of a row are fetched to sample from: enough for the usual top_k of 20 to 64 after penalties.
static constexpr int32_t TOP_SAMPLING_ENTRIES = 128;

// The token that `chain` chooses, without telling it of it, from a row's n_top largest logits and their ids as ggml_top_logits() leaves
// them (logits [n_top], the largest first, then ids [n_top], as floats). The chain has to be one in which nothing before its
// top-k raises a logit; what the caller can't see from outside a sampler is looked at here.
//
// Returns -1 where the entries don't decide: the chain does not begin with (penalties, a grammar, biases and) a top-k, this one
// takes all entries or more, an entry that penalties left in may be beaten by one that wasn't fetched, or logits are equal, whose
// order in a whole row depends on how it is sorted. No sampler has moved then: sample from the whole row.
llama_token choose_from_top(llama_sampler * chain, const float * top, int32_t n_top);
