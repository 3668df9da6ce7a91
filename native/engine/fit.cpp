// See fit.h.

#include "fit.h"

#include "abort-guard.h"
#include "draft-model.h"
#include "drafter-file.h"
#include "model-file.h"

#include "llama-tree.h"

#include <memory>
#include <stdexcept>

void refuse_misfits(const std::string & what, const sentences & found) {
    if (found.empty()) {
        return;
    }
    std::string all;
    for (const std::string & sentence : found) {
        all += (all.empty() ? "" : "; ") + sentence;
    }
    refuse(what + " does not fit this target: " + all + ". Use a drafter that was made for it, or draft_model=None");
}

sentences target_misfits(llama_context * target) {
    const llama_model * model = llama_get_model(target);
    if ((!llama_model_is_recurrent(model) && !llama_model_is_hybrid(model)) || llama_tree_supported(target)) {
        return {};
    }
    char arch[64] = "?";
    llama_model_meta_val_str(model, "general.architecture", arch, sizeof(arch));
    return { std::string("the recurrent layers of ") + arch + " targets can't compute draft trees (only Gated DeltaNet layers can), nor be "
            "cut back to a chain's accepted tokens" };
}

namespace {
// A target without its weights, and a context of it, to ask what its graph and its memory are.
struct weightless_target {
    std::unique_ptr<llama_model,   model_deleter>   model;
    std::unique_ptr<llama_context, context_deleter> ctx;

    explicit weightless_target(const std::string & path) {
        llama_model_params mparams = llama_model_default_params();
        mparams.n_gpu_layers = 0;
        mparams.no_alloc     = true;
        mparams.load_mode    = LLAMA_LOAD_MODE_NONE;
        model.reset(llama_model_load_from_file(path.c_str(), mparams));
        if (!model) {
            refuse("llama.cpp can't load the target " + path + ": it is damaged, or of an architecture that llama.cpp does not know");
        }
        llama_context_params cparams = llama_context_default_params();
        cparams.n_ctx    = 256;
        cparams.n_batch  = 32;
        cparams.n_ubatch = 32;
        ctx.reset(llama_init_from_model(model.get(), cparams));
        if (!ctx) {
            refuse("llama.cpp can't make a context of the target " + path + ": it holds no language model");
        }
    }
};
}

sentences file_misfits(const std::string & target, const std::string & drafter) {
    const abort_guard guard;
    try {
        check_target_file(target);
        if (drafter.empty()) {
            return target_misfits(weightless_target(target).ctx.get());
        }
        const auto file = drafter_file::open(drafter);
        file->check();
        const weightless_target loaded(target);
        sentences found = target_misfits(loaded.ctx.get());
        for (const std::string & sentence : file->misfits(loaded.ctx.get())) {
            found.push_back(sentence);
        }
        return found;
    } catch (const std::invalid_argument & e) { // a damaged file fits nothing
        return { e.what() };
    }
}
