// Features of the target that wait to be written into the drafter's memory.
#pragma once

#include "llama.h"

#include <cstdint>
#include <memory>
#include <vector>

class feature_queue {
public:
    // how many positions are injected in one forward
    static constexpr int32_t batch = 512;

    virtual ~feature_queue() = default;

    virtual int32_t size() const = 0;

    // Must what waits be injected before the target's next decode?
    virtual bool full() const = 0;

    // Append the features of some rows of the target's last decode. Once for a decode.
    virtual void push(const std::vector<int32_t> & rows) = 0;

    // Keep the first n.
    virtual void truncate(int32_t n) = 0;

    // All have been injected.
    virtual void clear() = 0;

    // Decode all of them on the drafter's context, which must be synchronized before the target decodes again; they are of
    // positions pos, pos + 1, ... Returns as llama_decode().
    int32_t inject(llama_context * drafter, llama_pos pos);

private:
    // Decode n of them, from the one at index `done` on, whose position is `first`: at most `batch`.
    virtual int32_t inject_some(llama_context * drafter, llama_pos first, int32_t done, int32_t n) = 0;
};

// They are copied to the host, and come to the drafter with its batch.
std::unique_ptr<feature_queue> features_on_host(llama_context * target, const std::vector<int32_t> & layers, bool is_mrope);

// They stay on the drafter's device (llama_tree_keep_features). The drafter's memory has room for a block of n_block
// positions beside the injected ones. Throws std::runtime_error if there is no memory.
std::unique_ptr<feature_queue> features_on_device(
        llama_context * target, llama_context * drafter, const std::vector<int32_t> & layers, int32_t n_block);
