#include "dflash/drafter-head.h"

#include <cstring>

bool says(const llama_model * model, const char * key, bool otherwise) {
    char text[8];
    return llama_model_meta_val_str(model, key, text, sizeof(text)) >= 0 ? strcmp(text, "true") == 0 : otherwise;
}

std::unique_ptr<drafter_head> drafter_head::take(llama_model * model, const llama_model * target) {
    auto head = take_selector_head(model);
    return head ? std::move(head) : take_branch_head(model, target);
}
