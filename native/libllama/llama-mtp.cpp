// See llama-mtp.h.

#include "llama-mtp.h"

#include "llama-model.h"

bool llama_mtp_is_loaded(const llama_model * model) {
    const llama_hparams & hparams = model->hparams;
    return hparams.n_layer_nextn > 0 && hparams.n_layer() < model->layers.size() && model->layers[hparams.n_layer()].attn_norm != nullptr;
}
