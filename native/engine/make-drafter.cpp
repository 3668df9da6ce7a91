#include "make-drafter.h"

#include "dflash/dflash-drafter.h"
#include "eagle3/eagle3-drafter.h"
#include "fit.h"
#include "model/model-drafter.h"
#include "model-file.h"
#include "speculation.h"

#include <string>

static drafter_params settings(
        const llama_context * target, const llama_dflash_drafter_params & drafter, const llama_dflash_params & params) {
    const bool    on_device = speculation::keeps_outputs_on_device(target, params);
    const int32_t n_threads = drafter.n_threads > 0 ? drafter.n_threads : llama_n_threads_batch(const_cast<llama_context *>(target));
    return {
        params.n_lanes, drafter.n_context, drafter.n_gpu_layers, drafter.type_k, drafter.type_v, n_threads,
        drafter.flash_attn != 0, drafter.short_block != 0, drafter.depth, drafter.width, on_device ? speculation::most_nodes(params) : 0,
    };
}

std::unique_ptr<drafter> make_drafter(
        llama_context * target, const llama_dflash_drafter_params & drafter, const llama_dflash_params & params) {
    if (drafter.n_context < 1) {
        refuse("the drafter's context is " + std::to_string(drafter.n_context) + ", expected at least 1 position");
    }
    if (drafter.depth < 1 || drafter.depth > 64 || drafter.width < 1 || drafter.width > 64) {
        refuse("the drafter's beam has depth " + std::to_string(drafter.depth) + " and width " + std::to_string(drafter.width) +
                ", expected 1 to 64");
    }
    refuse_misfits("a drafter", target_misfits(target));
    const std::string kind = drafter.kind;
    if (kind == "dflash") {
        return std::make_unique<dflash_drafter>(target, drafter.path, settings(target, drafter, params));
    }
    if (kind == "eagle3") {
        return std::make_unique<eagle3_drafter>(target, drafter.path, settings(target, drafter, params));
    }
    if (kind == "model") {
        return std::make_unique<model_drafter>(target, drafter.path, settings(target, drafter, params));
    }
    refuse("there is no kind of drafter \"" + kind + "\", expected \"dflash\", \"eagle3\" or \"model\"");
}
