// The C ABI of our part of ggml's RPC backend, for the Python package. No exception leaves it.
#pragma once

#include "ggml-backend.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

    // Which build this is; client and worker have to be the same.
    GGML_BACKEND_API const char * llama_dflash_rpc_build(void);

    // Seconds to wait for an answer of workers that are connected from then on: at least as long as the longest forward pass.
    GGML_BACKEND_API void llama_dflash_rpc_set_timeout(double seconds);

    // The devices of the worker at "host:port", connected if it is not; NULL if it can't be.
    GGML_BACKEND_API ggml_backend_reg_t llama_dflash_rpc_connect(const char * endpoint);

    // How many connections to this worker were lost so far, and how many could not be made; and why the last of these, a
    // sentence that is valid until the thread's next call.
    GGML_BACKEND_API int64_t      llama_dflash_rpc_n_lost   (const char * endpoint);
    GGML_BACKEND_API int64_t      llama_dflash_rpc_n_refused(const char * endpoint);
    GGML_BACKEND_API const char * llama_dflash_rpc_why      (const char * endpoint);

    // Serves clients, one at a time, until the process ends. Returns only where the port can't be used: -1.
    GGML_BACKEND_API int32_t llama_dflash_rpc_serve(
            const char * endpoint, const char * cache_dir, int32_t n_threads, int32_t n_devices, ggml_backend_dev_t * devices);

#ifdef __cplusplus
}
#endif
