#include "drafter-head.h"

std::unique_ptr<drafter_head> drafter_head::take(llama_model * model) {
    auto head = take_selector_head(model);
    return head ? std::move(head) : take_markov_head(model);
}
