// See feature-queue.h.

#include "dflash/feature-queue.h"

#include "draft-model.h"

#include "llama-ext.h"
#include "llama-tree.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

int32_t feature_queue::inject(llama_context * drafter, const std::vector<waiting_features> & lanes) {
    std::vector<row> rows;
    for (const waiting_features & waiting : lanes) {
        for (int32_t i = 0; i < size(waiting.lane); ++i) {
            rows.push_back({ waiting.lane, i, waiting.pos + i });
        }
    }
    for (size_t done = 0; done < rows.size(); done += batch) {
        const auto first = rows.begin() + done;
        const auto last  = rows.begin() + std::min(rows.size(), done + batch);
        const int32_t ret = inject_some(drafter, { first, last });
        if (ret != 0) {
            return ret;
        }
    }
    for (const waiting_features & waiting : lanes) {
        truncate(waiting.lane, 0);
    }
    return 0;
}

namespace {

class host_queue : public feature_queue {
public:
    host_queue(llama_context * target, const std::vector<int32_t> & layers, int32_t n_lanes, bool is_mrope) :
            target(target), layers(layers), is_mrope(is_mrope), n_embd(llama_model_n_embd(llama_get_model(target))), waiting(n_lanes) {}

    int32_t size(int32_t lane) const override { return (int32_t) (waiting[lane].size()/width()); }

    bool full() const override {
        return std::any_of(waiting.begin(), waiting.end(), [&](const auto & lane) { return lane.size() >= batch*width(); });
    }

    void target_decoded() override {}

    void truncate(int32_t lane, int32_t n) override { waiting[lane].resize(n*width()); }

    void push(int32_t lane, const std::vector<int32_t> & rows) override {
        const size_t n_before = size(lane);
        std::vector<float> & features = waiting[lane];
        features.resize((n_before + rows.size())*width());
        for (size_t k = 0; k < layers.size(); ++k) {
            const float * inputs = llama_get_embeddings_layer_inp(target, layers[k]);
            for (size_t i = 0; i < rows.size(); ++i) {
                memcpy(&features[(n_before + i)*width() + k*n_embd], inputs + rows[i]*n_embd, n_embd*sizeof(float));
            }
        }
    }

private:
    size_t width() const { return layers.size()*n_embd; }

    int32_t inject_some(llama_context * drafter, const std::vector<row> & rows) override {
        const int32_t n = (int32_t) rows.size();
        std::vector<llama_pos> pos((size_t) n*(is_mrope ? 4 : 1), 0); // M-RoPE: section after section, the last is 0
        for (int32_t section = 0; section < (is_mrope ? 3 : 1); ++section) {
            for (int32_t i = 0; i < n; ++i) {
                pos[section*n + i] = rows[i].pos;
            }
        }
        std::vector<float>          features((size_t) n*width());
        std::vector<llama_seq_id>   lanes(n);
        std::vector<llama_seq_id *> seq_ids(n);
        std::vector<int32_t>        n_seq_ids(n, 1);
        std::vector<int8_t>         outputs(n, 0);
        for (int32_t i = 0; i < n; ++i) {
            const float * from = waiting[rows[i].lane].data() + rows[i].index*width();
            std::copy(from, from + width(), features.data() + i*width());
            lanes[i]   = rows[i].lane;
            seq_ids[i] = &lanes[i];
        }
        llama_batch nodes = {};
        nodes.n_tokens = n;
        nodes.embd     = features.data();
        nodes.pos      = pos.data();
        nodes.n_seq_id = n_seq_ids.data();
        nodes.seq_id   = seq_ids.data();
        nodes.logits   = outputs.data();
        return llama_decode(drafter, nodes);
    }

    llama_context      * target;
    std::vector<int32_t> layers;
    bool                 is_mrope;
    size_t               n_embd;

    std::vector<std::vector<float>> waiting; // [n_lanes] of [size, layers, n_embd]
};

// The target's decodes write into a store of rows, behind those that wait.
class device_queue : public feature_queue {
public:
    device_queue(llama_context * target, llama_context * drafter, const std::vector<int32_t> & layers, int32_t n_lanes, int32_t n_block) :
            target(target), drafter(drafter), n_batch((int32_t) llama_n_batch(target)), n_block(n_block), waiting(n_lanes) {
        if (llama_tree_keep_features(target, drafter, layers.data(), (int32_t) layers.size(), n_batch + batch) != 0) {
            throw std::runtime_error("no memory on the drafter's device to keep the features of " +
                    std::to_string(n_batch + batch) + " positions: use a smaller n_batch");
        }
    }

    ~device_queue() override { llama_tree_keep_features(target, drafter, nullptr, 0, 0); }

    int32_t size(int32_t lane) const override { return (int32_t) waiting[lane].size(); }

    bool full() const override { // else the next batch might find no room
        return place > batch || std::any_of(waiting.begin(), waiting.end(), [](const auto & lane) { return lane.size() >= batch; });
    }

    void target_decoded() override { decoded_at = place; }

    // the rows of a decode that was not pushed yet stay where they are
    void truncate(int32_t lane, int32_t n) override {
        const bool shorter = n < size(lane);
        waiting[lane].resize(n);
        if (shorter && std::all_of(waiting.begin(), waiting.end(), [](const auto & lane) { return lane.empty(); })) {
            set_place(0);
        }
    }

    void push(int32_t lane, const std::vector<int32_t> & rows) override {
        if (rows.empty()) {
            return;
        }
        llama_synchronize(target); // nothing else makes the drafter wait for the copies into the store
        for (const int32_t row : rows) {
            waiting[lane].push_back(decoded_at + row);
        }
        set_place(std::max(place, decoded_at + 1 + *std::max_element(rows.begin(), rows.end())));
    }

private:
    // A round accepts some other number of tokens each time. With rows that are removed again there are always as many, so
    // that a device replays the graph of the last time. They fit: until its forward the block's cells are free. RPC workers
    // keep graphs of several sizes, and rows cost bytes on the way: there it is a power of two.
    int32_t inject_some(llama_context * drafter, const std::vector<row> & given) override {
        std::vector<int32_t>      rows;
        std::vector<llama_pos>    positions;
        std::vector<llama_seq_id> lanes;
        for (const row & row : given) {
            rows     .push_back(waiting[row.lane][row.index]);
            positions.push_back(row.pos);
            lanes    .push_back(row.lane);
        }
        int32_t n_rows = n_block;
        while (is_on_workers(llama_get_model(target)) && n_rows/2 >= (int32_t) rows.size()) {
            n_rows /= 2;
        }
        while ((int32_t) rows.size() < n_rows) {
            rows     .push_back(rows.back());
            positions.push_back(positions.back() + 1);
            lanes    .push_back(lanes.back());
        }
        int32_t ret = llama_tree_inject(drafter, rows.data(), positions.data(), lanes.data(), (int32_t) rows.size());
        if (ret == 0 && rows.size() > given.size()) {
            llama_memory_seq_rm(llama_get_memory(drafter), given.back().lane, given.back().pos + 1, -1);
        }
        return ret;
    }

    void set_place(int32_t row) {
        place = row;
        llama_tree_place_features(target, drafter, row);
    }

    llama_context * target;
    llama_context * drafter;
    int32_t         n_batch;
    int32_t         n_block;

    std::vector<std::vector<int32_t>> waiting; // [n_lanes] of rows of the store
    int32_t place      = 0; // the row where the target's next decode begins to write
    int32_t decoded_at = 0; // and where its last one did
};

}

std::unique_ptr<feature_queue> features_on_host(
        llama_context * target, const std::vector<int32_t> & layers, int32_t n_lanes, bool is_mrope) {
    return std::make_unique<host_queue>(target, layers, n_lanes, is_mrope);
}

std::unique_ptr<feature_queue> features_on_device(
        llama_context * target, llama_context * drafter, const std::vector<int32_t> & layers, int32_t n_lanes, int32_t n_block) {
    return std::make_unique<device_queue>(target, drafter, layers, n_lanes, n_block);
}
