// A drafter's own context, in which every lane has its text and a beam of nodes that may follow it. A node is decoded once,
// when it is found, and stays until the beam is dropped.
//
// A path of the beam is a llama.cpp sequence of its own: the text's cells belong to all sequences of their lane, a node's to
// those of the paths through it. So any memory of attention layers holds a beam, of any model. Recurrent memories hold a
// chain: a copy of the text's state, which goes on.
#pragma once

#include "draft-model.h"
#include "tree/draft-tree.h"

#include "llama.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

class beam_context {
public:
    struct shape {
        int32_t n_lanes;
        int32_t n_context; // positions of a lane's text
        int32_t width;     // nodes of a depth, at most
        int32_t depth;     // of the deepest node that is decoded
        int32_t n_batch;   // tokens of a text that are decoded at once
        int32_t n_top;     // candidates of a row that are found where the logits are computed; 0: on the host
    };

    struct input {
        int32_t       lane;
        llama_token   token;
        llama_pos     pos;
        const float * state; // [n_embd] that goes with the token, or NULL
    };

    struct node : input {
        int32_t before; // its parent among the nodes of the last decode_nodes(); -1: the end of the lane's text
    };

    // `params`: types, threads and the like; the sizes are set here. Throws std::invalid_argument with a sentence for the user.
    beam_context(llama_model * model, llama_context_params params, const shape & shape);

    llama_context * get() const { return ctx.get(); }

    // how many nodes of a depth it really holds: 1 where the memory holds a chain, or where there are too many lanes
    int32_t width() const { return shape_.width; }

    size_t n_embd() const { return n_embd_; }

    // Append to lanes' texts: any number of tokens, those of a lane in their order, and then at most one last token for every
    // lane, whose output is wanted. Returns as llama_decode(); beams must have been dropped.
    int32_t decode_text(const std::vector<input> & tokens, const std::vector<input> & last);

    // Nodes of the next depth of all beams, at most width() of a lane. Their outputs are wanted. Returns as llama_decode().
    int32_t decode_nodes(const std::vector<node> & nodes);

    // Forget the nodes of all lanes.
    void drop_nodes();

    // Of the i-th output of the last decode: the k best tokens; and what an EAGLE-3 head or MTP layer leaves, [n_embd].
    position_candidates candidates(int32_t i, int32_t k) const;
    const float * state(int32_t i) const;

    // Forget a lane's text at positions >= pos, or at those before it. False if the memory can't be cut: nothing has changed.
    bool cut_text(int32_t lane, llama_pos pos);
    bool forget_before(int32_t lane, llama_pos pos);

    // Forget a lane, text and nodes.
    void clear(int32_t lane);

    // A lane's text as llama.cpp saves a sequence.
    size_t save_size(int32_t lane) const;
    void   save(int32_t lane, uint8_t * out, size_t size) const;
    bool   load(int32_t lane, const uint8_t * data, size_t size);

private:
    llama_seq_id text_of(int32_t lane) const { return lane*(1 + shape_.width); }
    bool         remove(int32_t lane, llama_pos from, llama_pos to);

    void    begin_batch();
    int32_t add(llama_seq_id sequence, const input & input, bool output);
    void    add_text(const input & input, bool output);
    int32_t decode();

    struct decoded_node {
        int32_t      lane;
        llama_seq_id path; // that ends with it
    };

    void         assign_paths(const std::vector<node> & added);
    decoded_node take_path(const node & node, const decoded_node * parent);
    void         leave_path(const decoded_node & end);
    void         free_paths(int32_t lane);

    struct beam {
        llama_pos                 begin = 0; // of its first nodes
        std::vector<llama_seq_id> free;      // paths without nodes
    };

    shape   shape_;
    size_t  n_embd_;
    int32_t n_vocab;
    bool    is_recurrent; // at least in part

    std::unique_ptr<llama_context,   context_deleter>   ctx;
    std::unique_ptr<llama_batch_ext, batch_ext_deleter> batch;

    std::vector<beam>         beams;   // [n_lanes]
    std::vector<decoded_node> nodes;   // of the last decode_nodes()
    std::vector<int32_t>      outputs; // indices in the batch of the last decode's outputs
};
