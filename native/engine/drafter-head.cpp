#include "drafter-head.h"

std::unique_ptr<drafter_head> drafter_head::take(llama_model * model, const llama_model * target) {
    auto head = take_selector_head(model);
    return head ? std::move(head) : take_branch_head(model, target);
}
