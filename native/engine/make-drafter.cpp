#include "make-drafter.h"

#include "dflash/dflash-drafter.h"
#include "eagle3/eagle3-drafter.h"
#include "fit.h"
#include "model/model-drafter.h"
#include "model-file.h"
#include "mtp/mtp-drafter.h"
#include "ngram/ngram-drafter.h"
#include "speculation.h"

#include <map>
#include <string>
#include <vector>

static drafter_params settings(
        const llama_context * target, const llama_dflash_drafter_params & drafter, const llama_dflash_params & params) {
    const bool    on_device = speculation::keeps_outputs_on_device(target, params);
    const int32_t n_threads = drafter.n_threads > 0 ? drafter.n_threads : llama_n_threads_batch(const_cast<llama_context *>(target));
    return {
        params.n_lanes, drafter.n_context, drafter.n_gpu_layers, drafter.type_k, drafter.type_v, n_threads,
        drafter.flash_attn != 0, drafter.short_block != 0, drafter.depth, drafter.width, on_device ? speculation::most_nodes(params) : 0,
    };
}

static std::vector<std::vector<llama_token>> corpus_of(const llama_context * target, const llama_dflash_drafter_params & drafter) {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(target)));
    std::vector<std::vector<llama_token>> res;
    const llama_token * next = drafter.corpus;
    for (int32_t i = 0; i < drafter.n_corpus; ++i) {
        res.emplace_back(next, next + drafter.corpus_sizes[i]);
        next += drafter.corpus_sizes[i];
        for (const llama_token token : res.back()) {
            if (token < 0 || token >= n_vocab) {
                refuse("text " + std::to_string(i) + " of the n-gram drafter's corpus holds token " + std::to_string(token) +
                        ", the vocabulary has 0 to " + std::to_string(n_vocab - 1));
            }
        }
    }
    return res;
}

template<typename D>
static std::unique_ptr<drafter> of_a_file(
        llama_context * target, const llama_dflash_drafter_params & drafter, const llama_dflash_params & params) {
    return std::make_unique<D>(target, drafter.path, settings(target, drafter, params));
}

static std::unique_ptr<drafter> of_the_text(
        llama_context * target, const llama_dflash_drafter_params & drafter, const llama_dflash_params & params) {
    return std::make_unique<ngram_drafter>(params.n_lanes, corpus_of(target, drafter), drafter.n_remembered);
}

using maker = std::unique_ptr<drafter> (*)(llama_context *, const llama_dflash_drafter_params &, const llama_dflash_params &);

static const std::map<std::string, maker> kinds = {
    { "dflash", of_a_file<dflash_drafter> },
    { "eagle3", of_a_file<eagle3_drafter> },
    { "model",  of_a_file<model_drafter>  },
    { "mtp",    of_a_file<mtp_drafter>    },
    { "ngram",  of_the_text               },
};

static void check(const llama_dflash_drafter_params & drafter) {
    if (kinds.count(drafter.kind) == 0) {
        std::string known;
        for (const auto & kind : kinds) {
            known += (known.empty() ? "\"" : ", \"") + kind.first + "\"";
        }
        refuse("there is no kind of drafter \"" + std::string(drafter.kind) + "\", expected one of " + known);
    }
    if (drafter.n_context < 1) {
        refuse("the drafter's context is " + std::to_string(drafter.n_context) + ", expected at least 1 position");
    }
    if (drafter.depth < 1 || drafter.depth > 64 || drafter.width < 1 || drafter.width > 64) {
        refuse("the drafter's beam has depth " + std::to_string(drafter.depth) + " and width " + std::to_string(drafter.width) +
                ", expected 1 to 64");
    }
}

std::unique_ptr<drafter> make_drafter(
        llama_context * target, const llama_dflash_drafter_params & drafter, const llama_dflash_params & params) {
    check(drafter);
    for (const std::string & sentence : target_misfits(target)) {
        refuse("no drafter can draft for this target: " + sentence + ". Use draft_model=None with it");
    }
    return kinds.at(drafter.kind)(target, drafter, params);
}
