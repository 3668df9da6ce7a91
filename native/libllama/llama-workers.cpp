// See llama-workers.h.

#include "llama-workers.h"

#include "llama-context.h"

#include "ggml-backend.h"

#include <vector>

typedef void (*check_t)(ggml_backend_t);

static check_t check_of(ggml_backend_t backend) {
    const ggml_backend_dev_t dev = ggml_backend_get_device(backend);
    const ggml_backend_reg_t reg = dev ? ggml_backend_dev_backend_reg(dev) : nullptr;
    return reg ? (check_t) ggml_backend_reg_get_proc_address(reg, "llama_dflash_rpc_check") : nullptr;
}

void llama_check_workers(llama_context & ctx) {
    const ggml_backend_sched_t sched = ctx.get_sched();
    std::vector<ggml_backend_t> workers;
    for (int i = 0; sched && i < ggml_backend_sched_get_n_backends(sched); ++i) {
        const ggml_backend_t backend = ggml_backend_sched_get_backend(sched, i);
        if (check_of(backend)) {
            workers.push_back(backend);
        }
    }
    if (!workers.empty()) {
        ctx.synchronize();
    }
    for (const ggml_backend_t worker : workers) {
        check_of(worker)(worker);
    }
}

static void set_quiet(bool on) {
    const ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
    if (rpc) {
        typedef void (*quiet_t)(bool);
        ((quiet_t) ggml_backend_reg_get_proc_address(rpc, "llama_dflash_rpc_quiet"))(on);
    }
}

llama_quiet_workers::llama_quiet_workers() {
    set_quiet(true);
}

llama_quiet_workers::~llama_quiet_workers() {
    set_quiet(false);
}
