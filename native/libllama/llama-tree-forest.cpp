// Forests: the trees that a batch and its parents make, what is pending of them, and the errors that tell of both.

#include "llama-tree.h"
#include "llama-tree-impl.h"

#include "llama-batch.h"
#include "llama-context.h"
#include "llama-impl.h"
#include "llama-memory.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <new>
#include <string>

//
// errors
//

static thread_local std::string last_error;

int32_t llama_tree_fail(const char * format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);

    try {
        last_error = text;
    } catch (const std::bad_alloc &) { // the code that is returned has to do
        last_error.clear();
    }
    LLAMA_LOG_ERROR("llama_tree: %s\n", text);
    return -1;
}

const char * llama_tree_last_error(void) {
    return last_error.c_str();
}

//
// a tree
//

void llama_tree::add(int32_t node, int32_t parent) {
    const int32_t place = place_of(parent);
    nodes.push_back(node);
    parents.push_back(place);
    depth.push_back(place < 0 ? 0 : depth[place] + 1);
}

int32_t llama_tree::place_of(int32_t node) const {
    const auto found = std::lower_bound(nodes.begin(), nodes.end(), node);
    return found != nodes.end() && *found == node ? (int32_t) (found - nodes.begin()) : -1;
}

void llama_tree::finish() {
    const size_t n = nodes.size();
    visible.assign(n*n, false);
    for (size_t i = 0; i < n; ++i) {
        if (const int32_t p = parents[i]; p >= 0) {
            std::copy_n(visible.begin() + p*n, p + 1, visible.begin() + i*n);
        }
        visible[i*n + i] = true;
    }
}

//
// what is pending
//

void llama_forest_enter(llama_memory_i & mem, const llama_forest_ptr & forest) {
    mem.forest = forest;
    for (const auto & tree : forest->trees) {
        mem.pending[tree->seq_id] = tree;
    }
}

void llama_forest_leave(llama_memory_i & mem, bool decoded) {
    for (const auto & tree : mem.forest->trees) {
        if (!decoded) {
            mem.pending.erase(tree->seq_id);
        }
    }
    mem.forest.reset();
}

static bool refuse(const llama_tree & tree, const char * func) {
    llama_tree_fail("%s: a draft tree of %d nodes is pending on sequence %d: call llama_tree_commit or llama_tree_discard first",
            func, tree.n_nodes(), tree.seq_id);
    return true;
}

bool llama_tree_refuses(const llama_memory_i * mem, const char * func) {
    return mem && !mem->pending.empty() && refuse(*mem->pending.begin()->second, func);
}

bool llama_tree_refuses(const llama_memory_i * mem, llama_seq_id seq_id, const char * func) {
    if (!mem || seq_id < 0) {
        return llama_tree_refuses(mem, func);
    }
    const auto found = mem->pending.find(seq_id);
    return found != mem->pending.end() && refuse(*found->second, func);
}

bool llama_tree_refuses(const llama_memory_i * mem, const llama_batch_ext & batch, const char * func) {
    if (!mem || mem->pending.empty() || batch.tree) { // a forest's own decode
        return false;
    }
    for (const auto & token : batch.tokens) {
        for (const llama_seq_id seq_id : token.seq_ids) {
            if (llama_tree_refuses(mem, seq_id, func)) {
                return true;
            }
        }
    }
    return false;
}

//
// from a batch
//

static llama_seq_id sequence_of(const llama_batch & batch, int32_t node) {
    return batch.seq_id ? batch.seq_id[node][0] : 0;
}

static int32_t check_batch(const llama_context & ctx, const llama_batch & batch, const int32_t * parents) {
    const int32_t n_max = (int32_t) std::min(ctx.n_ubatch(), ctx.n_batch());
    if (batch.n_tokens < 1 || batch.n_tokens > n_max) {
        return llama_tree_fail("the forest has %d nodes, expected 1 to n_ubatch = %d", batch.n_tokens, n_max);
    }
    if (batch.token == nullptr || batch.embd != nullptr) {
        return llama_tree_fail("the batch holds embeddings, expected token ids");
    }
    if (parents == nullptr) {
        return llama_tree_fail("parents is NULL, expected an array of %d node indices", batch.n_tokens);
    }
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        if (batch.n_seq_id && batch.n_seq_id[i] != 1) {
            return llama_tree_fail("node %d belongs to %d sequences, expected 1", i, batch.n_seq_id[i]);
        }
        const llama_seq_id seq_id = sequence_of(batch, i);
        if (seq_id < 0 || seq_id >= (llama_seq_id) ctx.n_seq_max()) {
            return llama_tree_fail("node %d is of sequence %d, expected 0 to n_seq_max - 1 = %u", i, seq_id, ctx.n_seq_max() - 1);
        }
    }
    return 0;
}

// `is_first`: no node of its sequence came before.
static int32_t check_parent(const llama_batch & batch, const int32_t * parents, int32_t i, bool is_first) {
    const int32_t p = parents[i];
    const llama_seq_id seq_id = sequence_of(batch, i);
    if (is_first && p != -1) {
        return llama_tree_fail("parents[%d] = %d, expected -1: the first node of sequence %d is its root", i, p, seq_id);
    }
    if (!is_first && p == -1) {
        return llama_tree_fail("parents[%d] = -1, but sequence %d has a root already: one tree a sequence", i, seq_id);
    }
    if (p < -1 || p >= i) {
        return llama_tree_fail("parents[%d] = %d, expected 0 to %d: every node comes after its parent", i, p, i - 1);
    }
    if (p >= 0 && sequence_of(batch, p) != seq_id) {
        return llama_tree_fail("node %d is of sequence %d, its parent %d of sequence %d: a tree is of one sequence",
                i, seq_id, p, sequence_of(batch, p));
    }
    return 0;
}

static int32_t check_position(const llama_batch & batch, const llama_tree & tree, int32_t i) {
    const int32_t depth = tree.depth.back();
    if (batch.pos && batch.pos[i] != tree.n_past + depth) {
        return llama_tree_fail("node %d has position %d, expected n_past + depth = %d + %d", i, batch.pos[i], tree.n_past, depth);
    }
    return 0;
}

llama_forest_ptr llama_forest_of(llama_context & ctx, const llama_batch & batch, const int32_t * parents) {
    if (check_batch(ctx, batch, parents) != 0) {
        return nullptr;
    }
    const llama_memory_t mem = ctx.get_memory();
    std::map<llama_seq_id, std::shared_ptr<llama_tree>> trees;
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        const llama_seq_id seq_id = sequence_of(batch, i);
        auto & tree = trees[seq_id];
        if (check_parent(batch, parents, i, tree == nullptr) != 0) {
            return nullptr;
        }
        if (!tree) {
            if (llama_tree_refuses(mem, seq_id, "llama_tree_decode")) {
                return nullptr;
            }
            tree = std::make_shared<llama_tree>(seq_id, mem->seq_pos_max(seq_id) + 1);
        }
        tree->add(i, parents[i]);
        if (check_position(batch, *tree, i) != 0) {
            return nullptr;
        }
    }
    auto forest = std::make_shared<llama_forest>();
    forest->parents.assign(parents, parents + batch.n_tokens);
    for (auto & [_, tree] : trees) {
        tree->finish();
        forest->trees.push_back(tree);
    }
    return forest;
}
