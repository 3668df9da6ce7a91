// A conversation that is being generated: a sequence of the target, and the walk through the tree of its last round.
#pragma once

#include "tree/merged-tree.h"

#include "llama.h"

#include <cstdint>
#include <vector>

struct round_request {
    int32_t     lane;
    llama_token root;   // the last sampled token, not in the target's memory
    llama_pos   n_past; // its position
    int32_t     n_max;  // tokens that the round may have
};

struct sampled_token {
    llama_token token;
    int32_t     node;  // that it was sampled at
    int32_t     child; // that carries it, where the next one is sampled; -1: the walk is over
};

class lane {
public:
    explicit lane(int32_t id) : id(id) {}

    // Forgets the round before. Its tree is the root. n_max: as the request says, or less.
    void begin(const round_request & request, int32_t n_max);

    bool is_walking() const { return node >= 0; }
    bool is_pending() const { return pending; }

    // What the drafters propose for it.
    void take(merged_tree proposed);

    // The tree was verified: the walk begins at its root. pending: its nodes wait to be committed or discarded.
    void verified(int32_t first_row, bool pending);

    // The node where the next token is to be sampled; and its row of the target's last decode.
    int32_t enter();
    int32_t row(int32_t node) const { return first_row + node; }

    // It was sampled at the node entered last. is_last: the walk ends here whatever the tree holds.
    sampled_token sampled(llama_token token, bool is_last);

    // Ends the walk where it is: the path so far, at least the root, is what is kept.
    void stop();

    void committed() { pending = false; }
    void abandoned();

    // of the accepted path
    llama_pos                n_after() const { return n_past + (llama_pos) path.size(); } // positions in memory once it is committed
    std::vector<llama_token> path_tokens() const;
    std::vector<int32_t>     path_rows() const;

    const int32_t id; // its sequence in the target's memory, and in the drafters'

    // the round that is going on, or the last one
    draft_tree               tree;
    std::vector<std::vector<node_offer>> offers; // what drafters said of the tree's nodes; there may be more
    std::vector<int32_t>     path;   // nodes on the accepted path, the root first
    std::vector<llama_token> tokens; // sampled at the nodes of the path
    llama_pos                n_past = 0;
    int32_t                  n_left = 0; // tokens that may come, says the caller
    int32_t                  n_max  = 0; // tokens that it may have

private:
    int32_t first_row = 0;     // of the root
    int32_t node      = -1;    // where the next token is sampled; -1: no walk is going on
    bool    pending   = false;
};
