// See drafter-file.h.

#include "drafter-file.h"

#include "dflash/dflash-file.h"
#include "eagle3/eagle3-file.h"
#include "model/draft-model-file.h"
#include "model-file.h"
#include "mtp/mtp-file.h"

#include "ggml.h"
#include "llama-tree.h"

#include <algorithm>
#include <fstream>
#include <vector>

static const char * const key_tokens = "tokenizer.ggml.tokens";

std::unique_ptr<drafter_file> drafter_file::open(const std::string & path) {
    const std::string kind = kind_of(path);
    if (kind == "dflash") {
        return std::make_unique<dflash_file>(path);
    }
    if (kind == "eagle3") {
        return std::make_unique<eagle3_file>(path);
    }
    if (kind == "mtp") {
        return std::make_unique<mtp_file>(path);
    }
    return std::make_unique<draft_model_file>(path);
}

std::string drafter_file::kind_of(const std::string & path) {
    const std::string arch = draft_model_file(path).architecture();
    if (arch == "dflash" || arch == "eagle3") {
        return arch;
    }
    return mtp_file(path).is_alone() ? "mtp" : "model";
}

void drafter_file::ggml_deleter::operator()(ggml_context * c) const {
    ggml_free(c);
}

drafter_file::drafter_file(const std::string & path, const std::string & kind, const std::string & arch) : path(path), kind(kind), arch(arch) {
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

int64_t drafter_file::find(const std::string & key, gguf_type type) const {
    const int64_t id = gguf_find_key(gguf.get(), key.c_str());
    if (id < 0) {
        refuse("the draft model " + path + " has no key " + key + ": it is no " + kind + ", or it is damaged");
    }
    if (gguf_get_kv_type(gguf.get(), id) != type) {
        refuse("the draft model " + path + " holds " + key + " as " + gguf_type_name(gguf_get_kv_type(gguf.get(), id)) +
                ", expected " + gguf_type_name(type));
    }
    return id;
}

uint32_t drafter_file::u32(const std::string & key, uint32_t min, uint32_t max) const {
    const uint32_t value = gguf_get_val_u32(gguf.get(), find(key, GGUF_TYPE_UINT32));
    if (value < min || value > max) {
        refuse("the draft model " + path + " has " + key + " = " + std::to_string(value) +
                ", expected " + std::to_string(min) + " to " + std::to_string(max));
    }
    return value;
}

bool drafter_file::has_key(const std::string & key) const {
    return gguf_find_key(gguf.get(), key.c_str()) >= 0;
}

bool drafter_file::has(const char * tensor) const {
    return gguf_find_tensor(gguf.get(), tensor) >= 0;
}

// The shape of a tensor, which may be missing.
bool drafter_file::shape(const std::string & name, int64_t & n_in, int64_t & n_out) const {
    const ggml_tensor * tensor = ggml_get_tensor(tensors.get(), name.c_str());
    if (tensor) {
        n_in  = tensor->ne[0];
        n_out = tensor->ne[1];
    }
    return tensor != nullptr;
}

void drafter_file::check_shape(const std::string & name, int64_t n_in, int64_t n_out) const {
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
void drafter_file::check_reduced_vocabulary() const {
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
    const int64_t n_vocab = n_tokens();
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

int64_t drafter_file::n_tokens() const {
    return (int64_t) gguf_get_arr_n(gguf.get(), find(key_tokens, GGUF_TYPE_ARRAY));
}

void drafter_file::check_architecture() const {
    const std::string found = gguf_get_val_str(gguf.get(), find("general.architecture", GGUF_TYPE_STRING));
    if (!arch.empty() && found != arch) {
        refuse("the draft model " + path + " has architecture \"" + found + "\", expected \"" + arch + "\": "
                "draft_model takes " + (kind[0] == 'E' ? "an " : "a ") + kind + " made for this target");
    }
    if (gguf_get_arr_type(gguf.get(), find(key_tokens, GGUF_TYPE_ARRAY)) != GGUF_TYPE_STRING) {
        refuse("the draft model " + path + " has no list of token texts in " + key_tokens + ": it is damaged");
    }
}

void drafter_file::check_transformer() const {
    u32(of_arch("block_count"), 1, 512);
    u32(of_arch("embedding_length"), 1, 1 << 20);
    u32(of_arch("feed_forward_length"), 1, 1 << 24);
    u32(of_arch("attention.head_count"), 1, 1 << 14);
    u32(of_arch("attention.head_count_kv"), 1, 1 << 14);
    check_rope();
    check_norm();
}

// llama.cpp takes these as they are, and aborts or hangs when it computes with bad ones

void drafter_file::check_rope() const {
    const uint32_t head_size = has_key(of_arch("attention.key_length"))
        ? u32(of_arch("attention.key_length"), 1, 1 << 14)
        : u32(of_arch("embedding_length"), 1, 1 << 20)/u32(of_arch("attention.head_count"), 1, 1 << 14);
    const std::string rotated = of_arch("rope.dimension_count");
    if (has_key(rotated) && u32(rotated, 2, head_size) % 2 != 0) {
        refuse("the draft model " + path + " rotates an odd number of dimensions (" + rotated + ")");
    }
    check_rope_sections(head_size);
}

void drafter_file::check_rope_sections(uint32_t head_size) const {
    const std::string name = of_arch("rope.dimension_sections");
    const int64_t sections = gguf_find_key(gguf.get(), name.c_str());
    if (sections < 0) {
        return;
    }
    const gguf_type type = gguf_get_kv_type(gguf.get(), sections);
    const gguf_type item = type == GGUF_TYPE_ARRAY ? gguf_get_arr_type(gguf.get(), sections) : type;
    if (type != GGUF_TYPE_ARRAY || (item != GGUF_TYPE_INT32 && item != GGUF_TYPE_UINT32)) {
        refuse("the draft model " + path + " holds " + name + " as " + gguf_type_name(item) +
                ", expected an array of i32");
    }
    const auto * sizes = (const int32_t *) gguf_get_arr_data(gguf.get(), sections);
    int64_t sum = 0;
    for (size_t i = 0; i < gguf_get_arr_n(gguf.get(), sections); ++i) {
        sum = sizes[i] < 0 ? INT32_MAX : sum + sizes[i];
        if (sum > head_size) {
            refuse("the draft model " + path + " has rotary sections (" + name + ") that do not fit its heads of " +
                    std::to_string(head_size));
        }
    }
}

void drafter_file::check_norm() const {
    const std::string key = of_arch("attention.layer_norm_rms_epsilon");
    const float eps = gguf_get_val_f32(gguf.get(), find(key, GGUF_TYPE_FLOAT32));
    if (!(eps >= 0.0f && eps <= 1.0f)) {
        refuse("the draft model " + path + " has " + key + " = " + std::to_string(eps) + ", expected 0 to 1");
    }
}

void drafter_file::check_tensors() const {
    const std::string name = "the draft model " + path;
    check_tensor_data(gguf.get(), n_bytes, name);
    check_tensor_types(gguf.get(), tensors.get(), name, false);
    check_reduced_vocabulary();
}

//
// is it of this target?
//

sentences drafter_file::token_misfits(const llama_model * target) const {
    const llama_vocab * vocab  = llama_model_get_vocab(target);
    const llama_token   n      = (llama_token) std::min<int64_t>(n_tokens(), llama_vocab_n_tokens(vocab));
    const int64_t       tokens = find(key_tokens, GGUF_TYPE_ARRAY);
    for (llama_token t = 0; t < n; ++t) {
        const std::string ours   = gguf_get_arr_str(gguf.get(), tokens, t);
        const std::string theirs = llama_vocab_get_text(vocab, t);
        if (ours != theirs && !ours.empty()) { // llama.cpp gives empty ones a text
            return { "token " + std::to_string(t) + " is \"" + ours + "\" in the drafter and \"" + theirs + "\" in the target" };
        }
    }
    return {};
}

sentences drafter_file::vocabulary_misfits(const llama_model * target) const {
    const int32_t n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(target));
    if (n_tokens() != n_vocab) {
        return { "the drafter has a vocabulary of " + std::to_string(n_tokens()) + " tokens, the target of " + std::to_string(n_vocab) };
    }
    return token_misfits(target);
}

static std::string unreadable_layer(llama_context * target, int32_t il, int32_t n_layer) {
    char arch[64] = "?";
    llama_model_meta_val_str(llama_get_model(target), "general.architecture", arch, sizeof(arch));
    const bool is_output = il == n_layer && llama_tree_has_layer_inp(target, n_layer - 1);
    const std::string layer  = is_output ? "the output of the last layer" : "the input of layer " + std::to_string(il);
    const std::string reason = is_output ? "llama.cpp does not compute it for every token" :
        "between its layers passes more or something else than one hidden state a token, or llama.cpp's graph does not name it";
    return "the drafter reads " + layer + " of the target, which can't be had of architecture \"" + arch + "\": " + reason;
}

sentences drafter_file::layer_misfits(llama_context * target) const {
    const std::string name = of_arch("target_layers");
    const size_t n    = has_key(name) ? gguf_get_arr_n(gguf.get(), find(name, GGUF_TYPE_ARRAY)) : 0;
    if (n == 0) {
        return { "the drafter names no target layers (" + name + ")" };
    }
    const int64_t   key  = find(name, GGUF_TYPE_ARRAY);
    const gguf_type type = gguf_get_arr_type(gguf.get(), key);
    if (type != GGUF_TYPE_INT32 && type != GGUF_TYPE_UINT32) {
        return { "the drafter holds " + name + " as " + gguf_type_name(type) + ", expected an array of i32" };
    }
    const auto *  layers  = (const int32_t *) gguf_get_arr_data(gguf.get(), key);
    const int32_t n_layer = llama_model_n_layer(llama_get_model(target));
    for (size_t i = 0; i < n; ++i) {
        if (layers[i] < 0 || layers[i] > n_layer) {
            return { "the drafter reads the input of target layer " + std::to_string(layers[i]) + ", the target has layers 0 to " +
                    std::to_string(n_layer - 1) };
        }
        if (!llama_tree_has_layer_inp(target, layers[i])) {
            return { unreadable_layer(target, layers[i], n_layer) };
        }
    }
    return {};
}
