// An EAGLE-3 head's GGUF file.
#pragma once

#include "drafter-file.h"

class eagle3_file : public drafter_file {
public:
    explicit eagle3_file(const std::string & path) : drafter_file(path, "EAGLE-3 head", "eagle3") {}

    void      check() const override;
    sentences misfits(llama_context * target) const override;

private:
    int64_t   n_embd() const { return u32("eagle3.embedding_length", 1, 1 << 20); }
    sentences table_misfits(const char * name, int64_t n_embd_target) const;
};
