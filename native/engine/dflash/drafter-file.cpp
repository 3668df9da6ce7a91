#include "dflash/drafter-file.h"

#include "ggml.h"
#include "gguf.h"

#include <cstdint>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <vector>

namespace {
struct gguf_deleter { void operator()(gguf_context * g) const { gguf_free(g); } };
struct ggml_deleter { void operator()(ggml_context * c) const { ggml_free(c); } };

struct drafter_file {
    std::string path;
    std::unique_ptr<gguf_context, gguf_deleter> gguf;
    std::unique_ptr<ggml_context, ggml_deleter> tensors;
    size_t n_bytes = 0;

    explicit drafter_file(const std::string & path) : path(path) {
        std::ifstream in(path, std::ios::binary | std::ios::ate);
        if (!in) {
            refuse("no such draft model: " + path);
        }
        n_bytes = (size_t) in.tellg();

        ggml_context * meta = nullptr;
        gguf_init_params params = { /*.no_alloc =*/ true, /*.ctx =*/ &meta };
        gguf.reset(gguf_init_from_file(path.c_str(), params));
        tensors.reset(meta);
        if (!gguf) {
            refuse("the draft model " + path + " is no readable GGUF file (damaged or truncated?): fetch or convert it again");
        }
    }

    int64_t find(const std::string & key, gguf_type type) const {
        const int64_t id = gguf_find_key(gguf.get(), key.c_str());
        if (id < 0) {
            refuse("the draft model " + path + " has no key " + key + ": it is no DFlash drafter, or it is damaged");
        }
        if (gguf_get_kv_type(gguf.get(), id) != type) {
            refuse("the draft model " + path + " holds " + key + " as " + gguf_type_name(gguf_get_kv_type(gguf.get(), id)) +
                    ", expected " + gguf_type_name(type));
        }
        return id;
    }

    uint32_t u32(const std::string & key, uint32_t min, uint32_t max) const {
        const uint32_t value = gguf_get_val_u32(gguf.get(), find(key, GGUF_TYPE_UINT32));
        if (value < min || value > max) {
            refuse("the draft model " + path + " has " + key + " = " + std::to_string(value) +
                    ", expected " + std::to_string(min) + " to " + std::to_string(max));
        }
        return value;
    }

    bool has_key(const std::string & key) const {
        return gguf_find_key(gguf.get(), key.c_str()) >= 0;
    }

    bool has(const char * tensor) const {
        return gguf_find_tensor(gguf.get(), tensor) >= 0;
    }

    // The shape of a tensor, which may be missing.
    bool shape(const std::string & name, int64_t & n_in, int64_t & n_out) const {
        const ggml_tensor * tensor = ggml_get_tensor(tensors.get(), name.c_str());
        if (tensor) {
            n_in  = tensor->ne[0];
            n_out = tensor->ne[1];
        }
        return tensor != nullptr;
    }

    void check_shape(const std::string & name, int64_t n_in, int64_t n_out) const {
        int64_t in = 0, out = 0;
        if (!shape(name, in, out)) {
            refuse("the draft model " + path + " has no tensor " + name + ", which its head needs: it is damaged");
        }
        if (in != n_in || out != n_out) {
            refuse("the draft model " + path + " has tensor " + name + " of shape [" + std::to_string(in) + ", " + std::to_string(out) +
                    "], expected [" + std::to_string(n_in) + ", " + std::to_string(n_out) + "]: it is damaged");
        }
    }

    // d2t maps rows of a reduced head to token ids; an id outside the vocabulary would be written out of bounds
    void check_reduced_vocabulary(int64_t n_vocab) const {
        const int64_t i = gguf_find_tensor(gguf.get(), "d2t");
        if (i < 0) {
            return;
        }
        if (!has("output.weight")) {
            refuse("the draft model " + path + " knows only some tokens (d2t) but has no head of its own (output.weight): it is damaged");
        }
        const ggml_tensor * meta = ggml_get_tensor(tensors.get(), "d2t");
        if (meta->type != GGML_TYPE_I64 || ggml_n_dims(meta) != 1) {
            refuse("the draft model " + path + " holds d2t as " + ggml_type_name(meta->type) + ", expected a row of i64");
        }
        std::vector<int64_t> ids(meta->ne[0]);
        std::ifstream in(path, std::ios::binary);
        in.seekg((std::streamoff) (gguf_get_data_offset(gguf.get()) + gguf_get_tensor_offset(gguf.get(), i)));
        in.read((char *) ids.data(), (std::streamsize) (ids.size()*sizeof(int64_t)));
        std::vector<bool> seen(n_vocab);
        for (const int64_t id : ids) {
            if (!in || id < 0 || id >= n_vocab) {
                refuse("the draft model " + path + " maps a row of its head to token " + std::to_string(id) +
                        ", outside the vocabulary of " + std::to_string(n_vocab));
            }
            if (seen[id]) {
                refuse("the draft model " + path + " maps two rows of its head to token " + std::to_string(id) +
                        ", expected one at most: its d2t is damaged");
            }
            seen[id] = true;
        }
    }
};

}

// llama.cpp takes these as they are, and aborts or hangs when it computes with bad ones

static void check_rope(const drafter_file & file) {
    const uint32_t head_size = file.has_key("dflash.attention.key_length")
        ? file.u32("dflash.attention.key_length", 1, 1 << 14)
        : file.u32("dflash.embedding_length", 1, 1 << 20)/file.u32("dflash.attention.head_count", 1, 1 << 14);
    if (file.has_key("dflash.rope.dimension_count") && file.u32("dflash.rope.dimension_count", 2, head_size) % 2 != 0) {
        refuse("the draft model " + file.path + " rotates an odd number of dimensions (dflash.rope.dimension_count)");
    }
    const int64_t sections = gguf_find_key(file.gguf.get(), "dflash.rope.dimension_sections");
    if (sections < 0) {
        return;
    }
    const gguf_type type = gguf_get_kv_type(file.gguf.get(), sections);
    const gguf_type item = type == GGUF_TYPE_ARRAY ? gguf_get_arr_type(file.gguf.get(), sections) : type;
    if (type != GGUF_TYPE_ARRAY || (item != GGUF_TYPE_INT32 && item != GGUF_TYPE_UINT32)) {
        refuse("the draft model " + file.path + " holds dflash.rope.dimension_sections as " + gguf_type_name(item) +
                ", expected an array of i32");
    }
    const auto * sizes = (const int32_t *) gguf_get_arr_data(file.gguf.get(), sections);
    int64_t sum = 0;
    for (size_t i = 0; i < gguf_get_arr_n(file.gguf.get(), sections); ++i) {
        sum = sizes[i] < 0 ? INT32_MAX : sum + sizes[i];
        if (sum > head_size) {
            refuse("the draft model " + file.path + " has rotary sections (dflash.rope.dimension_sections) that do not fit its heads of " +
                    std::to_string(head_size));
        }
    }
}

static void check_norm(const drafter_file & file) {
    const std::string key = "dflash.attention.layer_norm_rms_epsilon";
    const float eps = gguf_get_val_f32(file.gguf.get(), file.find(key, GGUF_TYPE_FLOAT32));
    if (!(eps >= 0.0f && eps <= 1.0f)) {
        refuse("the draft model " + file.path + " has " + key + " = " + std::to_string(eps) + ", expected 0 to 1");
    }
}

// What a gated or rnn Markov head has beside its tables, and a Domino head: llama-branch-head.h.
static void check_branch_head(const drafter_file & file, int64_t n_vocab) {
    const int64_t n_embd = file.u32("dflash.embedding_length", 1, 1 << 20);
    int64_t rank = 0, n_rows = 0, state = 0, inner = 0;
    const bool has_gate  = file.has("draft_head.gate.weight");
    const bool has_joint = file.has("draft_head.joint.weight");
    const bool has_gru   = file.has("draft_head.gru_input.weight");
    if (has_gate + has_joint + has_gru > 1) {
        refuse("the draft model " + file.path + " has tensors of several kinds of heads (draft_head.*), expected one of them");
    }
    if ((has_gate || has_joint) && !file.shape("markov_w1.weight", rank, n_rows)) {
        refuse("the draft model " + file.path + " has parts of a Markov head (draft_head.*) but no tensor markov_w1.weight: it is damaged");
    }
    if (has_gate) {
        file.check_shape("draft_head.gate.weight", n_embd + rank, rank);
        file.check_shape("draft_head.gate.bias", rank, 1);
    }
    if (has_joint) {
        file.check_shape("draft_head.joint.weight", n_embd + 2*rank, 3*rank);
        file.check_shape("draft_head.joint.bias", 3*rank, 1);
    }
    if (has_gru) {
        file.shape("draft_head.gru_state.weight", state, n_rows);
        file.shape("draft_head.inner.weight", n_rows, inner);
        file.check_shape("draft_head.gru_input.weight", n_embd, 3*state);
        file.check_shape("draft_head.gru_state.weight", state, 3*state);
        file.check_shape("draft_head.inner.weight", n_embd + state, inner);
        file.check_shape("draft_head.outer.weight", inner, n_vocab);
        if (file.has_key("dflash.domino_prefix")) {
            file.u32("dflash.domino_prefix", 0, 1024);
        }
    }
}

static void check_heads(const drafter_file & file) {
    const bool has_selector = file.has("selector_hidden.weight");
    if (has_selector && file.has("markov_w1.weight")) {
        refuse("the draft model " + file.path + " has both a selector (DFlash2) and a Markov head (DSpark), expected one of them");
    }
    if (!has_selector && file.has_key("dflash.selector_top_k")) {
        refuse("the draft model " + file.path + " has dflash.selector_top_k but no tensor selector_hidden.weight: it is damaged");
    }
    if (has_selector) {
        file.u32("dflash.selector_top_k",    1, 1024);
        file.u32("dflash.selector_rank",     1, 1 << 20);
        file.u32("dflash.conv_kernel_size",  1, 1024);
        file.u32("dflash.conv_group_size",   1, 1 << 20);
    }
    if (file.has_key("dflash.hyper_connection_count") && file.u32("dflash.hyper_connection_count", 0, 1024) > 0) {
        refuse("the draft model " + file.path + " is the DSpark drafter of a DeepSeek V4 target (dflash.hyper_connection_count > 0), "
                "whose layers this version does not draft with: use draft_model=None with this target");
    }
}

void check_drafter_file(const std::string & path, const llama_model * target) {
    const drafter_file file(path);

    const std::string arch = gguf_get_val_str(file.gguf.get(), file.find("general.architecture", GGUF_TYPE_STRING));
    if (arch != "dflash") {
        refuse("the draft model " + path + " has architecture \"" + arch + "\", expected \"dflash\": "
                "draft_model takes a DFlash drafter made for this target");
    }
    file.u32("dflash.block_size", 2, 1024);
    file.u32("dflash.block_count", 1, 512);
    file.u32("dflash.embedding_length", 1, 1 << 20);
    file.u32("dflash.feed_forward_length", 1, 1 << 24);
    file.u32("dflash.attention.head_count", 1, 1 << 14);
    file.u32("dflash.attention.head_count_kv", 1, 1 << 14);
    file.find("dflash.target_layers", GGUF_TYPE_ARRAY);
    check_rope(file);
    check_norm(file);
    check_heads(file);

    const int32_t n_embd_target = llama_model_n_embd(target);
    const uint32_t n_embd_draft = file.u32("dflash.embedding_length", 1, 1 << 20);
    if ((int32_t) n_embd_draft != n_embd_target) {
        refuse("the draft model " + path + " has hidden size " + std::to_string(n_embd_draft) + ", the target " +
                std::to_string(n_embd_target) + ": this drafter was made for another target");
    }
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(target));
    const int64_t tokens  = file.find("tokenizer.ggml.tokens", GGUF_TYPE_ARRAY);
    if ((int64_t) gguf_get_arr_n(file.gguf.get(), tokens) != n_vocab) {
        refuse("the draft model " + path + " has a vocabulary of " + std::to_string(gguf_get_arr_n(file.gguf.get(), tokens)) +
                " tokens, the target of " + std::to_string(n_vocab) + ": this drafter was made for another target");
    }
    check_tensor_data(file.gguf.get(), file.n_bytes, "the draft model " + path);
    check_tensor_types(file.gguf.get(), file.tensors.get(), "the draft model " + path, false);
    file.check_reduced_vocabulary(n_vocab);
    check_branch_head(file, n_vocab);
}
