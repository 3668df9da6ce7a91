// What upstream's API does not say about a model's layers for predicting further tokens (MTP, "NextN").
#pragma once

#include "llama.h"

#ifdef __cplusplus
extern "C" {
#endif

    // True if the model has such layers and they were loaded (llama_model_params.load_mtp): a context of type
    // LLAMA_CONTEXT_TYPE_MTP can then compute with them.
    LLAMA_API bool llama_mtp_is_loaded(const struct llama_model * model);

#ifdef __cplusplus
}
#endif
