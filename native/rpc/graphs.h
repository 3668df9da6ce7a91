// Which graphs a worker has. A graph is described in hundreds of bytes for every node, and the same few come again in every
// round: the target's over the tree, the drafter's two, a commit. A worker keeps the last RPC_KEPT_GRAPHS of each device by
// number, and the client, which chooses the numbers, sends a description that is there by its number only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

static constexpr uint32_t RPC_KEPT_GRAPHS = 32;

// The client's side, of one connection. Not for two threads at once: hold `mutex` until what it says is under way.
class rpc_sent_graphs {
public:
    std::mutex mutex;

    // The number of the graph that had this uid when it was sent or found, or -1.
    int32_t by_uid(uint32_t device, uint64_t uid);

    // The number of the graph with this description, which now has this uid, or -1.
    int32_t by_description(uint32_t device, uint64_t uid, const uint8_t * data, size_t size);

    // A number for a new one; whichever was used longest ago makes room.
    int32_t add(uint32_t device, uint64_t uid, const uint8_t * data, size_t size);

    // A buffer was freed, and with it all graphs there.
    void forget();

private:
    struct graph {
        uint32_t             device;
        uint32_t             number;
        uint64_t             uid;
        uint64_t             used; // when, in uses
        std::vector<uint8_t> description;
    };

    int32_t use(graph & graph, uint64_t uid);

    std::vector<graph> graphs;
    uint64_t           n_uses = 0;
};
