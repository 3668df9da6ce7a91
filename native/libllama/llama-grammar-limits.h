// Bounds of what a grammar may cost, and what is said of one that costs more or is wrong: nothing that a client sends as a
// grammar ends the process, overflows its stack, fills its memory or keeps a token waiting for more than moments.
//
// The hooks are in llama-grammar.cpp and llama-sampler.cpp (patches/0020-grammars-are-bounded.patch). They throw, and the
// grammar's sampler catches: it notes the error for its thread and constrains nothing from then on. Whoever sampled asks
// llama_grammar_take_error() before it believes a token.
#pragma once

#include "llama-grammar.h"

#include <cstddef>
#include <cstdint>

#ifdef __cplusplus
extern "C" {
#endif

    // What was wrong with a grammar that this thread made a sampler of, or sampled with, since the last call; NULL if
    // nothing was. The text is valid until the thread's next error.
    LLAMA_API const char * llama_grammar_take_error(void);

#ifdef __cplusplus
}
#endif

// Keeps an error for the thread. The first one counts, the others follow from it.
void llama_grammar_note_error(const char * what);

// Parsing: what a parser begins with, a guard for every level of parentheses, and the elements that a repetition will add.
// The latter two throw.
void llama_grammar_begin_parsing();
struct llama_grammar_nesting {
    llama_grammar_nesting();
    ~llama_grammar_nesting();
};
void llama_grammar_check_growth(size_t n_elements, uint64_t n_times);

// Throws if a rule refers to itself before it has consumed anything, also where rules that may be empty stand in between,
// or if there are more elements in all than fit.
void llama_grammar_check_rules(const llama_grammar_rules & rules);

// Work of one token: what its mask, or its acceptance, may cost. Begin, then count; counting throws.
void llama_grammar_begin_work(size_t n_candidates);
void llama_grammar_count_work(size_t n);

// Throw if there are more stacks, or more elements on all of them, than rules may wait to be replaced; more stacks than one
// place in a text may have.
void llama_grammar_check_waiting(size_t n_stacks, size_t n_elements);
void llama_grammar_check_stacks(size_t n_stacks);

// Makes stacks on `from` stacks on `to`, which is a copy of it.
void llama_grammar_redirect(const llama_grammar_rules & from, const llama_grammar_rules & to, llama_grammar_stacks & stacks);
