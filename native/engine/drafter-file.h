// A drafter's GGUF file before llama.cpp reads it, which may abort the process on files that are damaged: is it one, and of
// which target? Each kind's file is a class of its own; here is what they share.
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
    // The class that the file's architecture asks for. Refuses one that is missing or no GGUF file.
    static std::unique_ptr<drafter_file> open(const std::string & path);

    // The kind of drafter that the file is, by its architecture and what it holds. Refuses as open() does.
    static std::string kind_of(const std::string & path);

    virtual ~drafter_file() = default;

    // Refuses a file that is truncated, damaged, or none of this kind.
    virtual void check() const = 0;

    // Why it can't draft for this target.
    virtual sentences misfits(llama_context * target) const = 0;

protected:
    // kind: how a sentence calls such a file, "DFlash drafter". arch: what general.architecture has to be, "" for any.
    drafter_file(const std::string & path, const std::string & kind, const std::string & arch);

    int64_t  find(const std::string & key, gguf_type type) const;
    uint32_t u32(const std::string & key, uint32_t min, uint32_t max) const;
    bool     has_key(const std::string & key) const;
    bool     has(const char * tensor) const;
    bool     shape(const std::string & name, int64_t & n_in, int64_t & n_out) const;
    void     check_shape(const std::string & name, int64_t n_in, int64_t n_out) const;
    int64_t  n_tokens() const;

    // The architecture, the transformer's sizes, its rotary embedding and its norm, tokens, tensors.
    void check_architecture() const;
    void check_transformer() const;
    void check_tensors() const;

    // The tokens are the target's, one by one: up to the shorter vocabulary's end.
    sentences token_misfits(const llama_model * target) const;

    // And there are as many of them.
    sentences vocabulary_misfits(const llama_model * target) const;

    // The layers that it reads are there.
    sentences layer_misfits(llama_context * target) const;

    const std::string path;
    const std::string kind;
    const std::string arch;

private:
    struct gguf_deleter { void operator()(gguf_context * g) const { gguf_free(g); } };
    struct ggml_deleter { void operator()(ggml_context * c) const; };

    std::string of_arch(const char * name) const { return arch + "." + name; }
    void check_rope() const;
    void check_rope_sections(uint32_t head_size) const;
    void check_norm() const;
    void check_reduced_vocabulary() const;

protected:
    std::unique_ptr<gguf_context, gguf_deleter> gguf;
    std::unique_ptr<ggml_context, ggml_deleter> tensors;
    size_t n_bytes = 0;
};
