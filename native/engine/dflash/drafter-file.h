// A drafter's GGUF file before llama.cpp reads it, which may abort the process on files that are damaged: is it one, and of
// which target?
#pragma once

#include "fit.h"

#include "gguf.h"
#include "llama.h"

#include <cstdint>
#include <memory>
#include <string>

struct ggml_context;

class drafter_file {
public:
    // Reads what the file says about itself. Refuses one that is missing or no GGUF file.
    explicit drafter_file(const std::string & path);

    // Refuses a file that is truncated, damaged, or no DFlash drafter.
    void check() const;

    // Why it can't draft for this target.
    sentences misfits(llama_context * target) const;

private:
    struct gguf_deleter { void operator()(gguf_context * g) const { gguf_free(g); } };
    struct ggml_deleter { void operator()(ggml_context * c) const; };

    int64_t  find(const std::string & key, gguf_type type) const;
    uint32_t u32(const std::string & key, uint32_t min, uint32_t max) const;
    bool     has_key(const std::string & key) const;
    bool     has(const char * tensor) const;
    bool     shape(const std::string & name, int64_t & n_in, int64_t & n_out) const;
    void     check_shape(const std::string & name, int64_t n_in, int64_t n_out) const;
    int64_t  n_tokens() const;

    void check_reduced_vocabulary() const;
    void check_rope() const;
    void check_norm() const;
    void check_branch_head() const;
    void check_heads() const;

    sentences vocabulary_misfits(const llama_model * target) const;
    sentences layer_misfits(llama_context * target) const;

    std::string path;
    std::unique_ptr<gguf_context, gguf_deleter> gguf;
    std::unique_ptr<ggml_context, ggml_deleter> tensors;
    size_t n_bytes = 0;
};
