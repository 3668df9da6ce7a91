// See feature-queue.h.

#include "dflash/feature-queue.h"

#include "llama-ext.h"
#include "llama-tree.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

int32_t feature_queue::inject(llama_context * drafter, llama_pos pos) {
    for (int32_t done = 0; done < size(); done += batch) {
        const int32_t ret = inject_some(drafter, pos + done, done, std::min(batch, size() - done));
        if (ret != 0) {
            return ret;
        }
    }
    return 0;
}

namespace {

class host_queue : public feature_queue {
public:
    host_queue(llama_context * target, const std::vector<int32_t> & layers, bool is_mrope) :
            target(target), layers(layers), is_mrope(is_mrope), n_embd(llama_model_n_embd(llama_get_model(target))) {}

    int32_t size() const override { return (int32_t) (waiting.size()/width()); }
    bool    full() const override { return size() >= batch; }

    void truncate(int32_t n) override { waiting.resize(n*width()); }

    void clear() override { waiting.clear(); }

    void push(const std::vector<int32_t> & rows) override {
        const size_t n_before = size();
        waiting.resize((n_before + rows.size())*width());
        for (size_t k = 0; k < layers.size(); ++k) {
            const float * inputs = llama_get_embeddings_layer_inp(target, layers[k]);
            for (size_t i = 0; i < rows.size(); ++i) {
                memcpy(&waiting[(n_before + i)*width() + k*n_embd], inputs + rows[i]*n_embd, n_embd*sizeof(float));
            }
        }
    }

private:
    size_t width() const { return layers.size()*n_embd; }

    int32_t inject_some(llama_context * drafter, llama_pos first, int32_t done, int32_t n) override {
        std::vector<llama_pos> pos((size_t) n*(is_mrope ? 4 : 1), 0); // M-RoPE: section after section, the last is 0
        for (int32_t section = 0; section < (is_mrope ? 3 : 1); ++section) {
            for (int32_t i = 0; i < n; ++i) {
                pos[section*n + i] = first + i;
            }
        }
        std::vector<int8_t> outputs(n, 0);

        llama_batch nodes = {};
        nodes.n_tokens = n;
        nodes.embd     = waiting.data() + done*width();
        nodes.pos      = pos.data();
        nodes.logits   = outputs.data();
        return llama_decode(drafter, nodes);
    }

    llama_context      * target;
    std::vector<int32_t> layers;
    bool                 is_mrope;
    size_t               n_embd;
    std::vector<float>   waiting; // [size, layers, n_embd]
};

// The target's decodes write into a store of rows, behind those that wait.
class device_queue : public feature_queue {
public:
    device_queue(llama_context * target, llama_context * drafter, const std::vector<int32_t> & layers, int32_t n_block) :
            target(target), drafter(drafter), n_batch((int32_t) llama_n_batch(target)), n_block(n_block) {
        if (llama_tree_keep_features(target, drafter, layers.data(), (int32_t) layers.size(), n_batch + batch) != 0) {
            throw std::runtime_error("no memory on the drafter's device to keep the features of " +
                    std::to_string(n_batch + batch) + " positions: use a smaller n_batch");
        }
    }

    ~device_queue() override { llama_tree_keep_features(target, drafter, nullptr, 0, 0); }

    int32_t size() const override { return (int32_t) waiting.size(); }
    bool    full() const override { return place > batch || size() >= batch; } // else the next batch might find no room

    // the rows of a decode that was not pushed yet stay where they are
    void truncate(int32_t n) override { waiting.resize(n); }

    void clear() override {
        waiting.clear();
        set_place(0);
    }

    void push(const std::vector<int32_t> & rows) override {
        if (rows.empty()) {
            return;
        }
        llama_synchronize(target); // nothing else makes the drafter wait for the copies into the store
        for (const int32_t row : rows) {
            waiting.push_back(place + row);
        }
        set_place(place + 1 + *std::max_element(rows.begin(), rows.end()));
    }

private:
    // A round accepts some other number of tokens each time. With rows that are removed again there are always as many, so
    // that a device replays the graph of the last time. They fit: until its forward the block's cells are free.
    int32_t inject_some(llama_context * drafter, llama_pos first, int32_t done, int32_t n) override {
        std::vector<int32_t> rows(waiting.begin() + done, waiting.begin() + done + n);
        rows.resize(std::max(n, n_block), rows.back());

        std::vector<llama_pos> positions(rows.size());
        std::iota(positions.begin(), positions.end(), first);

        int32_t ret = llama_tree_inject(drafter, rows.data(), positions.data(), (int32_t) rows.size());
        if (ret == 0 && n < n_block) {
            llama_memory_seq_rm(llama_get_memory(drafter), 0, first + n, -1);
        }
        return ret;
    }

    void set_place(int32_t row) {
        place = row;
        llama_tree_place_features(target, drafter, row);
    }

    llama_context      * target;
    llama_context      * drafter;
    int32_t              n_batch;
    int32_t              n_block;
    std::vector<int32_t> waiting;   // rows of the store
    int32_t              place = 0; // the row where a decode begins to write
};

}

std::unique_ptr<feature_queue> features_on_host(llama_context * target, const std::vector<int32_t> & layers, bool is_mrope) {
    return std::make_unique<host_queue>(target, layers, is_mrope);
}

std::unique_ptr<feature_queue> features_on_device(
        llama_context * target, llama_context * drafter, const std::vector<int32_t> & layers, int32_t n_block) {
    return std::make_unique<device_queue>(target, drafter, layers, n_block);
}
