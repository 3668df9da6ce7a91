// Contexts whose layers are on RPC workers (ggml's RPC backend). What is sent there is answered later, and a worker may be lost
// meanwhile: what was computed is then worth nothing.
#pragma once

struct llama_context;

// Waits for the context's RPC workers, if it has any. Throws std::runtime_error, a sentence, if one of them was lost.
void llama_check_workers(llama_context & ctx);

// While it exists, a worker that is lost makes no exception in this thread, and what was to come from it is zeros: for calls into
// upstream's code that do their work in destructors. llama_check_workers() comes after it.
class llama_quiet_workers {
public:
    llama_quiet_workers();
    ~llama_quiet_workers();

    llama_quiet_workers(const llama_quiet_workers &) = delete;
};
