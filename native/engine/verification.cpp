#include "verification.h"

#include "llama-tree.h"

#include <stdexcept>
#include <string>

namespace {
// Every node of the lanes' trees, a lane after the other.
class node_batch {
public:
    explicit node_batch(const std::vector<lane *> & lanes) {
        for (const lane * lane : lanes) {
            const int32_t first = size();
            first_rows.push_back(first);
            for (int32_t i = 0; i < lane->tree.n_nodes(); ++i) {
                const int32_t parent = lane->tree.parents[i];
                tokens .push_back(lane->tree.tokens[i]);
                parents.push_back(parent < 0 ? -1 : first + parent);
                pos    .push_back(lane->n_past + lane->tree.depth[i]);
                lane_ids.push_back(lane->id);
            }
        }
        for (int32_t & id : lane_ids) {
            seq_ids.push_back(&id);
        }
        n_seq_ids.assign(tokens.size(), 1);
        outputs  .assign(tokens.size(), 1);
    }

    int32_t size() const { return (int32_t) tokens.size(); }

    int32_t decode(llama_context * target, bool as_trees) {
        llama_batch batch = {};
        batch.n_tokens = size();
        batch.token    = tokens.data();
        batch.pos      = pos.data();
        batch.n_seq_id = n_seq_ids.data();
        batch.seq_id   = seq_ids.data();
        batch.logits   = outputs.data();

        const int32_t ret = as_trees ? llama_tree_decode(target, batch, parents.data()) : llama_decode(target, batch);
        if (ret == 0) {
            llama_synchronize(target); // so that the phases' times are their own
        }
        return ret;
    }

    std::vector<int32_t> first_rows; // [lanes]

private:
    std::vector<llama_token>    tokens;
    std::vector<int32_t>        parents;
    std::vector<llama_pos>      pos;
    std::vector<int32_t>        lane_ids;
    std::vector<llama_seq_id *> seq_ids;
    std::vector<int32_t>        n_seq_ids;
    std::vector<int8_t>         outputs;
};
}

static int32_t n_drafted(const std::vector<lane *> & lanes) {
    int32_t n = 0;
    for (const lane * lane : lanes) {
        n += lane->tree.n_nodes() - 1;
    }
    return n;
}

// Roots without drafts are on every path: they need not wait.
static int32_t decode_trees(llama_context * target, const std::vector<lane *> & lanes, bool trees) {
    const bool wait = trees && n_drafted(lanes) > 0;
    node_batch batch(lanes);
    const int32_t ret = batch.decode(target, wait);
    for (size_t i = 0; ret == 0 && i < lanes.size(); ++i) {
        lanes[i]->verified(batch.first_rows[i], wait);
    }
    return ret;
}

round_status verify(llama_context * target, const std::vector<lane *> & lanes, bool trees) {
    int32_t ret = decode_trees(target, lanes, trees);
    if (ret == 1 && n_drafted(lanes) > 0) {
        for (lane * lane : lanes) {
            lane->tree.truncate(0);
        }
        ret = decode_trees(target, lanes, trees);
    }
    if (ret == 1) {
        return round_status::no_room;
    }
    if (ret == 2) {
        return round_status::aborted;
    }
    if (ret != 0) {
        throw std::runtime_error("the target's forward over " + std::to_string(lanes.size() + n_drafted(lanes)) +
                " nodes failed with " + std::to_string(ret));
    }
    return round_status::done;
}

void commit(llama_context * target, lane & lane) {
    if (lane.is_pending()) {
        const std::vector<int32_t> rows = lane.path_rows();
        if (llama_tree_commit(target, lane.id, rows.data(), (int32_t) rows.size()) != 0) {
            throw std::runtime_error(llama_tree_last_error());
        }
        lane.committed();
    } else {
        llama_memory_seq_rm(llama_get_memory(target), lane.id, lane.n_after(), -1);
    }
}

void abandon(llama_context * target, lane & lane) {
    if (llama_tree_pending(target, lane.id)) {
        llama_tree_discard(target, lane.id);
    } else {
        llama_memory_seq_rm(llama_get_memory(target), lane.id, lane.n_past, -1);
    }
    lane.abandoned();
}
