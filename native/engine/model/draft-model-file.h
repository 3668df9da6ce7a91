// The GGUF file of an ordinary model that drafts.
#pragma once

#include "drafter-file.h"

class draft_model_file : public drafter_file {
public:
    explicit draft_model_file(const std::string & path) : drafter_file(path, "language model", "") {}

    std::string architecture() const { return gguf_get_val_str(gguf.get(), find("general.architecture", GGUF_TYPE_STRING)); }

    void check() const override;

    // Vocabularies may differ in length, as those of one family do that are padded to different sizes, if what only one of them
    // has is unused.
    sentences misfits(llama_context * target) const override;

private:
    bool is_unused(int64_t token) const;
};
