// Prompts that no longer fit in the server's memory, in files: the states of target and drafters, with checkpoints. A
// conversation comes back from there when a prompt that begins like it does is asked for, also after a restart.
#pragma once

#include "common.h"

#include <cstdint>
#include <list>
#include <optional>
#include <string>

struct server_prompt_cache_state;
struct server_tokens;

class server_prompt_files {
public:
    // Files of the params' slot_save_path that were written for the same model, and room for more.
    explicit server_prompt_files(const common_params & params);
    ~server_prompt_files();

    // Why the options can't be followed; "" if they can.
    static std::string misfits(const common_params & params);

    // Writes a file. The oldest ones go where there is no room for it.
    void put(const server_prompt_cache_state & state);

    // The prompt that begins most like `tokens`, if it shares a larger part of itself than f_keep, and of `tokens` than f_sim.
    // Its file is removed.
    std::optional<server_prompt_cache_state> take(const server_tokens & tokens, float f_keep, float f_sim);

private:
    struct file;

    void find_files();
    void make_room(size_t n_bytes);

    const std::string folder;
    const size_t      limit; // bytes
    const uint64_t    model; // a hash of what states depend on
    const bool        has_mtmd;

    std::list<file> files; // the oldest first
};
