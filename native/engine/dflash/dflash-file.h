// A DFlash drafter's GGUF file: of DFlash2 and DSpark drafters, too.
#pragma once

#include "drafter-file.h"

class dflash_file : public drafter_file {
public:
    explicit dflash_file(const std::string & path) : drafter_file(path, "DFlash drafter", "dflash") {}

    void      check() const override;
    sentences misfits(llama_context * target) const override;

private:
    void      check_branch_head() const;
    void      check_heads() const;
    sentences mask_misfits(const llama_model * target) const;
};
