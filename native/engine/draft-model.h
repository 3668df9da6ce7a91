// What drafters with a model of their own share: loading it, its context, and the layers of the target that it reads.
#pragma once

#include "drafter.h"

#include "llama.h"

#include <cstdint>
#include <string>
#include <vector>

struct model_deleter     { void operator()(llama_model     * m) const { llama_model_free(m); } };
struct context_deleter   { void operator()(llama_context   * c) const { llama_free(c); } };
struct batch_ext_deleter { void operator()(llama_batch_ext * b) const { llama_batch_ext_free(b); } };

// Its layers go where the target's output is, if that is on an RPC worker: a forward pass of a drafter is then one message and
// its answer, however many workers hold the target. Throws std::invalid_argument with a sentence for the user.
llama_model * load_draft_model(const llama_model * target, const std::string & path, int32_t n_gpu_layers, bool load_mtp = false);

// True if layers of the model are on RPC workers.
bool is_on_workers(const llama_model * model);

// Types, threads, flash attention; the sizes are the drafter's own.
llama_context_params context_params(const drafter_params & params);

// While it exists, the target's decodes leave the inputs of these layers.
class wanted_layers {
public:
    wanted_layers(llama_context * target, const std::vector<int32_t> & layers);
    ~wanted_layers();

    wanted_layers(const wanted_layers &) = delete;

private:
    llama_context      * target;
    std::vector<int32_t> ids;
};
