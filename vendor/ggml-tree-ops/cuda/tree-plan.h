// In which order a kernel visits the nodes of a tree, and where the states of branch points wait meanwhile. The threads of
// a warp work it out together: a plan is a row of steps over all nodes, in which no node reads what another one writes in
// the same step (counters that are added to apart). This header knows nothing of CUDA: tests run it on the host.
//
// The order is that of the CPU (cpu/tree-ops-cpu.cpp): depth first, each node's largest subtree last. A kernel keeps the
// state of the node that it visits in registers. Only a node with several children saves its state, in a slot of a small
// stack. What hangs on it beside its largest subtree uses the slots above, the largest subtree this slot again. A node that
// saves in slot s thus has 2^(s + 2) - 1 nodes or more at and below the one that starts its part of the tree.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define TREE_PLAN_FUNCTION static __device__ __forceinline__
#define TREE_PLAN_ANYWHERE static __host__ __device__ __forceinline__
#else
#define TREE_PLAN_FUNCTION static inline
#define TREE_PLAN_ANYWHERE static inline
#endif

// One visit, in 32 bits: the node, where its parent's state is found, the slot its own is saved in.
struct tree_visit {
    static constexpr int32_t START    = 254; // from: the state before the tree
    static constexpr int32_t PREVIOUS = 255; // from: the node visited before is the parent
    static constexpr int32_t NOWHERE  = 255; // to: nothing waits for it

    int32_t node, from, to;
};

static constexpr int32_t TREE_PLAN_MAX_NODES = 1024; // bounds the shared memory; a node's index has 16 bits in a visit

TREE_PLAN_ANYWHERE int32_t tree_visit_pack(tree_visit v) { return v.node | v.from << 16 | (int32_t) ((uint32_t) v.to << 24); }

TREE_PLAN_ANYWHERE tree_visit tree_visit_unpack(int32_t packed) {
    return { packed & 0xffff, packed >> 16 & 0xff, (int32_t) ((uint32_t) packed >> 24) };
}

// floor(log2(n_nodes + 1)) - 1, at least 0
TREE_PLAN_ANYWHERE int32_t tree_plan_n_slots(int32_t n_nodes) {
    int32_t n = 0;
    while ((int64_t(1) << (n + 2)) <= int64_t(n_nodes) + 1) {
        n++;
    }
    return n;
}

// int32 values that tree_plan needs beside the visits
TREE_PLAN_ANYWHERE int32_t tree_plan_scratch(int32_t n_nodes) { return 10*(n_nodes + 1); }

// A parent that is not in [0, node) makes a root.
TREE_PLAN_FUNCTION int32_t tree_plan_parent(const int32_t * parents, int32_t node, int32_t root_parent) {
    const int32_t parent = parents[node];
    return parent >= 0 && parent < node ? parent : root_parent;
}

// `threads` has each(n, f): f(i) for all i in [0, n), then a barrier; any(n, f): the same, whether f(i) was true for one;
// add(p, x): adds to a counter and returns what it was; maximum(p, x).
template <class Threads>
TREE_PLAN_FUNCTION void tree_plan(const Threads & threads, const int32_t * parents, int32_t n, int32_t * visits, int32_t * scratch) {
    // Node n stands above all roots. Lists are of n + 1, so that it has its place in each.
    int32_t * parent     = scratch;
    int32_t * n_children = scratch + 1*(n + 1);
    int32_t * largest    = scratch + 2*(n + 1); // child: (size << 16) | index
    int32_t * next       = scratch + 3*(n + 1); // where the next child but the largest goes, seen from its parent
    int32_t * size       = scratch + 4*(n + 1); // of the subtree
    int32_t * size_next  = scratch + 5*(n + 1);
    int32_t * up         = scratch + 6*(n + 1); // an ancestor, twice as far in each round
    int32_t * up_next    = scratch + 7*(n + 1);
    int32_t * way        = scratch + 8*(n + 1); // from `up` to the node: places in the low, slots in the high 16 bits
    int32_t * way_next   = scratch + 9*(n + 1);

    bool more = threads.any(n + 1, [=](int32_t i) {
        parent[i]     = i < n ? tree_plan_parent(parents, i, n) : n;
        n_children[i] = 0;
        largest[i]    = -1;
        next[i]       = i < n ? 1 : 0;
        size[i]       = 1;
        up[i]         = parent[i];
        return up[i] < n;
    });
    while (more) { // sizes: what is less than 1, 2, 4, … generations below
        threads.each(n + 1, [=](int32_t i) { size_next[i] = size[i]; });
        more = threads.any(n + 1, [=](int32_t i) {
            if (up[i] < n) {
                threads.add(&size_next[up[i]], size[i]);
            }
            up_next[i] = up[up[i]];
            return up_next[i] < n;
        });
        int32_t * t = size; size = size_next; size_next = t;
        t = up; up = up_next; up_next = t;
    }

    threads.each(n, [=](int32_t i) {
        threads.add(&n_children[parent[i]], 1);
        threads.maximum(&largest[parent[i]], size[i] << 16 | i);
    });
    more = threads.any(n + 1, [=](int32_t i) {
        const int32_t p = parent[i];
        up[i] = p;
        if (i == n) {
            way[i] = 0;
        } else if (p == n) {
            way[i] = threads.add(&next[n], size[i]);
        } else if (i == (largest[p] & 0xffff)) {
            way[i] = size[p] - size[i];
        } else {
            way[i] = threads.add(&next[p], size[i]) + (1 << 16);
        }
        return p < n;
    });
    while (more) {
        more = threads.any(n + 1, [=](int32_t i) {
            way_next[i] = way[i] + way[up[i]];
            up_next[i]  = up[up[i]];
            return up_next[i] < n;
        });
        int32_t * t = way; way = way_next; way_next = t;
        t = up; up = up_next; up_next = t;
    }

    threads.each(n, [=](int32_t i) {
        const int32_t p     = parent[i];
        const int32_t place = way[i] & 0xffff;
        const bool    first = p < n && place == (way[p] & 0xffff) + 1;
        tree_visit v;
        v.node = i;
        v.from = p == n ? tree_visit::START : first ? tree_visit::PREVIOUS : way[p] >> 16;
        v.to   = n_children[i] > 1 ? way[i] >> 16 : tree_visit::NOWHERE;
        visits[place] = tree_visit_pack(v);
    });
}

// What a convolution's taps go on with after a node: its parent, or, below 0, the entry of a root, -1 - the number of its
// sequence's state.
TREE_PLAN_FUNCTION int32_t tree_conv_parent(const int32_t * parents, int32_t node) {
    return parents[node] < node ? parents[node] : -1;
}
