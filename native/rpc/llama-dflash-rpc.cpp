// See llama-dflash-rpc.h.

#include "llama-dflash-rpc.h"

#include "identity.h"
#include "link.h"

#include "ggml-rpc.h"

#include <exception>
#include <string>

const char * llama_dflash_rpc_build(void) {
    return rpc_build();
}

void llama_dflash_rpc_set_timeout(double seconds) {
    rpc_set_answer_limit(seconds);
}

ggml_backend_reg_t llama_dflash_rpc_connect(const char * endpoint) {
    try {
        const ggml_backend_reg_t reg = ggml_backend_rpc_add_server(endpoint); // remembered: it may not have asked the worker
        size_t free, total;
        if (reg) {
            ggml_backend_dev_memory(ggml_backend_reg_dev_get(reg, 0), &free, &total);
        }
        return reg;
    } catch (const std::exception &) { // noted where it came from
        return nullptr;
    }
}

int64_t llama_dflash_rpc_n_lost(const char * endpoint) {
    return rpc_failures_of(endpoint).n_lost;
}

int64_t llama_dflash_rpc_n_refused(const char * endpoint) {
    return rpc_failures_of(endpoint).n_refused;
}

const char * llama_dflash_rpc_why(const char * endpoint) {
    static thread_local std::string why;
    why = rpc_failures_of(endpoint).why;
    return why.c_str();
}

int32_t llama_dflash_rpc_serve(
        const char * endpoint, const char * cache_dir, int32_t n_threads, int32_t n_devices, ggml_backend_dev_t * devices) {
    try {
        ggml_backend_rpc_start_server(endpoint, cache_dir, n_threads, n_devices, devices);
    } catch (const std::exception & e) {
        rpc_note_refused(endpoint, e.what());
    }
    return -1;
}
