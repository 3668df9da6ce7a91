// The GGUF file of an MTP layer alone: it has the architecture of its target, whose layers it lacks.
#pragma once

#include "drafter-file.h"

class mtp_file : public drafter_file {
public:
    explicit mtp_file(const std::string & path) : drafter_file(path, "MTP layer", "") {}

    // Is it such a file?
    bool is_alone() const;

    void      check() const override;
    sentences misfits(llama_context * target) const override;

private:
    std::string architecture() const;
    uint32_t    number(const std::string & key) const; // below the architecture's name; 0 where the file has none
};

// Why a model's MTP layers, which may be in a file of their own, can't draft here.
sentences mtp_misfits(const llama_model * model);
