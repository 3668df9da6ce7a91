// Draft trees in llama.cpp's server: the engine (native/engine) at work for the server's context, a lane for every slot.
//
// Slots that generate are written in rounds: the drafters propose a tree for each, one forward pass verifies all of them, and
// every slot's own sampler walks its tree. Prompts and whatever else the server decodes stay its own; observe() tells the
// drafters of it. The patches to the server and to common/ are hooks that call this.
#pragma once

#include "server-tree-counts.h"

#include "common.h"
#include "json.h"
#include "sampling.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct llama_dflash;

// A slot's part in a round.
struct server_tree_request {
    int32_t     lane;   // the slot's id
    llama_token root;   // its last token, not in memory yet
    llama_pos   n_past; // the position of that
    int32_t     n_max;  // no more tokens than these are wanted
};

enum class server_tree_status { done, no_room };

class server_trees : public common_memory_follower {
public:
    // Loads the drafters that the options name. Throws std::runtime_error with a sentence for the user where one can't be
    // loaded or does not fit.
    server_trees(llama_context * target, const common_params & params);
    ~server_trees() override;

    server_trees(const server_trees &) = delete;

    // Why the options can't be followed, as far as files say that before the target is loaded; "" if nothing is known.
    static std::string misfits(const common_params & params);

    // What the drafters' weights take of the first device's memory.
    static size_t n_device_bytes(const common_params & params);

    // Rows of logits that a round may leave: of all slots, and of one.
    static int32_t most_outputs(const common_params & params);

    // A request begins to generate in this lane, with these settings of its sampler. with_probs: somebody wants to see
    // the probabilities of tokens.
    void begin(int32_t lane, const common_params_sampling & sampling, bool with_probs);

    // Begins a round: may take as long as a forward pass. no_room: not even the roots have room in memory, which is as before.
    // Throws std::runtime_error where the forward pass failed.
    server_tree_status round(const std::vector<server_tree_request> & requests);

    // Is the walk of this lane's round going on?
    bool is_walking(int32_t lane) const { return lanes.at(lane).walking; }

    // Samples the lane's next token with its sampler, which has accepted it then. After the last one of the round what was
    // accepted is in memory. Throws where the sampler or the memory failed: settle() must come next.
    llama_token next(int32_t lane, common_sampler * sampler);

    // The row of the logits that the last token was sampled from, for llama_get_logits_ith(). Valid until the next round.
    int32_t row(int32_t lane) const { return lanes.at(lane).row; }

    // Ends the lane's walk where it is: in memory are then the tokens before the one sampled last. Harmless where none goes on.
    void settle(int32_t lane);

    // The server has decoded this batch. n_after: of each lane, how many more tokens of its prompt follow.
    void observe(const common_batch & batch, const std::vector<int32_t> & n_after);

    // The memory of a lane is cut back or copied: so is what the drafters remember.
    void seq_rm (llama_seq_id lane, llama_pos p0, llama_pos p1) override;
    void seq_add(llama_seq_id lane, llama_pos p0, llama_pos p1, llama_pos delta) override;
    void seq_cp (llama_seq_id from, llama_seq_id to, llama_pos p0, llama_pos p1) override;

    // What the drafters remember of a lane, to travel with a saved state of the target. Where bytes are not such a state the
    // drafters begin anew.
    size_t               state_size(int32_t lane); // at most
    std::vector<uint8_t> state(int32_t lane);
    void                 set_state(int32_t lane, const std::vector<uint8_t> & data);

    // The same in a file beside that of a saved slot. The text that it is of is given as bytes: a file of another text, a
    // damaged one, or none at all, is as good as no state.
    void save_file(int32_t lane, const std::string & slot_file, const void * text, size_t n_bytes);
    void load_file(int32_t lane, const std::string & slot_file, const void * text, size_t n_bytes);

    // The lane's rounds since its last begin(), the one that goes on included.
    server_tree_counts counts(int32_t lane) const;

    // The same, with the tree of the last round, for /slots. Does not look at what a round that is going on in another
    // thread changes.
    common_json to_json(int32_t lane) const;

private:
    struct shown_node {
        llama_token id;
        int32_t     parent;
        float       p;
        bool        accepted;
    };

    struct lane {
        int32_t choice  = 0; // llama_dflash_choice: what its sampler has to see of a row
        bool    walking = false;
        int32_t row     = -1;

        // the tree of the round that is going on, and where its walk was
        std::vector<shown_node> tree;
        int32_t                 n_tokens = 0;

        // of what is over
        server_tree_counts      counts;
        std::vector<shown_node> last_tree;
        int64_t                 t_begin = 0; // microseconds
        int64_t                 t_last  = 0;
    };

    void        end_walk(lane & lane);
    llama_token sample(int32_t id, common_sampler * sampler);
    void        forget(int32_t lane, llama_pos n_past);
    void        tell_news();

    struct engine_deleter { void operator()(llama_dflash * engine) const; };

    llama_context * target;
    int32_t         n_drafters = 0;
    std::unique_ptr<llama_dflash, engine_deleter> engine;
    std::vector<lane> lanes;
};
