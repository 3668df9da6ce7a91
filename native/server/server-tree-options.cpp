#include "server-tree-options.h"

#include "../engine/llama-dflash.h"

#include <algorithm>
#include <stdexcept>

static const std::vector<std::string> kinds_without_file = { "mtp", "ngram" };
static const std::vector<std::string> kinds_of_a_file    = { "dflash", "eagle3", "model" };

static bool is_in(const std::vector<std::string> & words, const std::string & word) {
    return std::find(words.begin(), words.end(), word) != words.end();
}

[[noreturn]] static void refuse(const std::string & sentence) {
    throw std::runtime_error("--spec-type tree: " + sentence);
}

static server_drafter of_file(const std::string & path) {
    const char * kind = llama_dflash_kind_of(path.c_str());
    if (kind == nullptr) {
        refuse(llama_dflash_last_error());
    }
    return { kind, path };
}

std::vector<server_drafter> server_drafters(const common_params & params) {
    const std::string & model = params.speculative.draft.mparams.path; // --spec-draft-model
    std::vector<server_drafter> drafters;
    bool has_model = model.empty(); // it is in the list, or there is none
    for (const std::string & word : params.speculative.tree.drafters) {
        if (is_in(kinds_without_file, word)) {
            drafters.push_back({ word, "" });
        } else if (!is_in(kinds_of_a_file, word)) {
            drafters.push_back(of_file(word));
        } else if (model.empty()) {
            refuse("--spec-draft " + word + " needs the drafter's file too: give --spec-draft-model FILE, or the file in place of the word");
        } else {
            drafters.push_back({ word, model });
            has_model = true;
        }
    }
    if (!has_model) {
        drafters.insert(drafters.begin(), of_file(model));
    }
    if (drafters.empty()) {
        refuse("there is no drafter: give --spec-draft-model FILE, or --spec-draft with mtp, ngram or files, with commas");
    }
    return drafters;
}
