// Features of the target that wait, lane by lane, to be written into the drafter's memory.
#pragma once

#include "llama.h"

#include <cstdint>
#include <memory>
#include <vector>

// Positions of a lane whose features are to be injected, all that wait.
struct waiting_features {
    int32_t   lane;
    llama_pos pos; // of the first
};

class feature_queue {
public:
    // how many positions are injected in one forward
    static constexpr int32_t batch = 512;

    virtual ~feature_queue() = default;

    // how many positions of the lane wait
    virtual int32_t size(int32_t lane) const = 0;

    // Must what waits be injected before the target's next decode?
    virtual bool full() const = 0;

    // The target has decoded another batch: rows are of it from now on.
    virtual void target_decoded() = 0;

    // Append the features of some rows of the target's last decode. Once for a decode and lane.
    virtual void push(int32_t lane, const std::vector<int32_t> & rows) = 0;

    // Keep the lane's first n.
    virtual void truncate(int32_t lane, int32_t n) = 0;

    // Decode what waits of these lanes on the drafter's context, which must be synchronized before the target decodes again.
    // Nothing waits then, unless it fails. Returns as llama_decode().
    int32_t inject(llama_context * drafter, const std::vector<waiting_features> & lanes);

protected:
    struct row {
        int32_t   lane;
        int32_t   index; // among those that wait of this lane
        llama_pos pos;
    };

private:
    // Decode these, at most `batch`.
    virtual int32_t inject_some(llama_context * drafter, const std::vector<row> & rows) = 0;
};

// They are copied to the host, and come to the drafter with its batch.
std::unique_ptr<feature_queue> features_on_host(
        llama_context * target, const std::vector<int32_t> & layers, int32_t n_lanes, bool is_mrope);

// They stay on the drafter's device (llama_tree_keep_features). The drafter's memory has room for a block of n_block
// positions beside the injected ones. Throws std::runtime_error if there is no memory.
std::unique_ptr<feature_queue> features_on_device(
        llama_context * target, llama_context * drafter, const std::vector<int32_t> & layers, int32_t n_lanes, int32_t n_block);
