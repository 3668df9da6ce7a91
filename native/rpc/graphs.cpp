// See graphs.h.

#include "graphs.h"

#include <algorithm>
#include <cstring>

int32_t rpc_sent_graphs::use(graph & graph, uint64_t uid) {
    graph.uid  = uid;
    graph.used = ++n_uses;
    return (int32_t) graph.number;
}

int32_t rpc_sent_graphs::by_uid(uint32_t device, uint64_t uid) {
    for (graph & graph : graphs) {
        if (uid != 0 && graph.device == device && graph.uid == uid) {
            return use(graph, uid);
        }
    }
    return -1;
}

int32_t rpc_sent_graphs::by_description(uint32_t device, uint64_t uid, const uint8_t * data, size_t size) {
    for (graph & graph : graphs) {
        const std::vector<uint8_t> & known = graph.description;
        if (graph.device == device && known.size() == size && memcmp(known.data(), data, size) == 0) {
            return use(graph, uid);
        }
    }
    return -1;
}

int32_t rpc_sent_graphs::add(uint32_t device, uint64_t uid, const uint8_t * data, size_t size) {
    uint32_t n = 0;
    graph *  oldest = nullptr;
    for (graph & graph : graphs) {
        if (graph.device == device) {
            n += 1;
            oldest = oldest == nullptr || graph.used < oldest->used ? &graph : oldest;
        }
    }
    if (n < RPC_KEPT_GRAPHS) {
        graphs.push_back({ device, n, 0, 0, {} });
        oldest = &graphs.back();
    }
    oldest->description.assign(data, data + size);
    return use(*oldest, uid);
}

void rpc_sent_graphs::forget() {
    graphs.clear();
}
