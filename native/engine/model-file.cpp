// See model-file.h.

#include "model-file.h"

#include "ggml.h"
#include "ggml-backend.h"
#include "gguf.h"
#include "llama.h"

#include <cmath>
#include <cstdint>
#include <fstream>
#include <memory>
#include <stdexcept>

void refuse(const std::string & sentence) {
    throw std::invalid_argument(sentence);
}

//
// tensors
//

static bool ends_with(const std::string & text, const std::string & end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

static bool has_products(ggml_type type) {
    const bool of_activations = type == GGML_TYPE_Q8_1 || type == GGML_TYPE_Q8_K; // what weights are multiplied with
    return type == GGML_TYPE_F32 || type == GGML_TYPE_F16 || type == GGML_TYPE_BF16 || (ggml_is_quantized(type) && !of_activations);
}

// Tables of ids.
static bool is_integer_table(const std::string & name) {
    return name == "d2t" || name.find("tid2eid") != std::string::npos;
}

// Ops take these element by element, with activations in F32.
static bool is_elementwise(const std::string & name) {
    return ends_with(name, "norm.weight") || ends_with(name, ".bias") || ends_with(name, ".scale") || ends_with(name, "_conv_base") ||
        ends_with(name, "sinks.weight") || ends_with(name, "rope_freqs.weight") || ends_with(name, "layer_output_scale.weight") ||
        ends_with(name, "ssm_a") || ends_with(name, "ssm_d") || ends_with(name, "ssm_conv1d.weight");
}

static bool is_half(ggml_type type) {
    return type == GGML_TYPE_F16 || type == GGML_TYPE_BF16;
}

void check_tensor_types(const gguf_context * gguf, const ggml_context * tensors, const std::string & file, bool halves) {
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); ++i) {
        const std::string name = gguf_get_tensor_name(gguf, i);
        const ggml_type   type = gguf_get_tensor_type(gguf, i);
        const ggml_tensor * tensor = ggml_get_tensor(const_cast<ggml_context *>(tensors), name.c_str());
        const bool is_row = tensor != nullptr && ggml_n_dims(tensor) == 1;
        if (is_integer_table(name)) {
            continue;
        }
        if (is_elementwise(name) && type != GGML_TYPE_F32 && !(halves && is_half(type))) {
            refuse(file + " holds " + name + " as " + ggml_type_name(type) + ", expected f32: it is damaged, or was quantised by "
                    "something that did not know this tensor");
        }
        if (!has_products(type)) {
            refuse(file + " holds " + name + " as " + ggml_type_name(type) + ", expected " +
                    (is_row ? "f32" : "f32, f16, bf16 or a quantised type") + ": it is damaged");
        }
    }
}

void check_tensor_data(const gguf_context * gguf, size_t n_bytes, const std::string & file) {
    const size_t start = gguf_get_data_offset(gguf);
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); ++i) {
        const size_t offset = gguf_get_tensor_offset(gguf, i);
        const size_t size   = gguf_get_tensor_size(gguf, i);
        if (start > n_bytes || offset > n_bytes - start || size > n_bytes - start - offset) {
            refuse(file + " is truncated: tensor " + gguf_get_tensor_name(gguf, i) + " has " + std::to_string(size) + " bytes from byte " +
                    std::to_string(start + offset) + " on, the file has " + std::to_string(n_bytes));
        }
    }
}

//
// targets
//

namespace {
struct gguf_deleter { void operator()(gguf_context * g) const { gguf_free(g); } };
struct ggml_deleter { void operator()(ggml_context * c) const { ggml_free(c); } };

struct target_file {
    std::string file; // what a sentence calls it
    std::unique_ptr<gguf_context, gguf_deleter> gguf;
    std::unique_ptr<ggml_context, ggml_deleter> tensors;
    size_t n_bytes = 0;

    explicit target_file(const std::string & path) : file("the model " + path) {
        std::ifstream in(path, std::ios::binary | std::ios::ate);
        if (!in) {
            refuse(file + " can't be read");
        }
        n_bytes = (size_t) in.tellg();

        ggml_context * meta = nullptr;
        gguf.reset(gguf_init_from_file(path.c_str(), { /*.no_alloc =*/ true, /*.ctx =*/ &meta }));
        tensors.reset(meta);
        if (!gguf) {
            refuse(file + " is no readable GGUF file (damaged or truncated?): fetch or convert it again");
        }
    }

    int64_t find(const std::string & key) const { return gguf_find_key(gguf.get(), key.c_str()); }

    gguf_type type(int64_t key) const { return gguf_get_kv_type(gguf.get(), key); }

    std::string text(const std::string & key) const {
        const int64_t id = find(key);
        return id >= 0 && type(id) == GGUF_TYPE_STRING ? gguf_get_val_str(gguf.get(), id) : "";
    }

    // how many items, if it is an array; -1 if there is no such key
    int64_t length(const std::string & key) const {
        const int64_t id = find(key);
        if (id < 0) {
            return -1;
        }
        if (type(id) != GGUF_TYPE_ARRAY) {
            refuse(file + " holds " + key + " as " + gguf_type_name(type(id)) + ", expected an array");
        }
        return (int64_t) gguf_get_arr_n(gguf.get(), id);
    }
};
}

static void check_number(const target_file & file, const std::string & key, uint32_t min, uint32_t max) {
    const int64_t id = file.find(key);
    if (id < 0 || file.type(id) != GGUF_TYPE_UINT32) {
        return; // llama.cpp says what is missing or of another type
    }
    const uint32_t value = gguf_get_val_u32(file.gguf.get(), id);
    if (value < min || value > max) {
        refuse(file.file + " has " + key + " = " + std::to_string(value) + ", expected " + std::to_string(min) + " to " +
                std::to_string(max) + ": it is damaged");
    }
}

// 0 where the file has no such number
static uint32_t number(const target_file & file, const std::string & key) {
    const int64_t id = file.find(key);
    return id >= 0 && file.type(id) == GGUF_TYPE_UINT32 ? gguf_get_val_u32(file.gguf.get(), id) : 0;
}

static void check_numbers(const target_file & file, const std::string & arch) {
    check_number(file, arch + ".block_count",              1, 1024);
    if (const uint32_t n_layer = number(file, arch + ".block_count"); n_layer > 0) {
        check_number(file, arch + ".nextn_predict_layers", 0, n_layer); // of these
    }
    check_number(file, arch + ".embedding_length",         1, 1 << 20);
    check_number(file, arch + ".feed_forward_length",      0, 1 << 24);
    check_number(file, arch + ".attention.head_count",     0, 1 << 14);
    check_number(file, arch + ".attention.head_count_kv",  0, 1 << 14);
    check_number(file, arch + ".attention.key_length",     1, 1 << 16);
    check_number(file, arch + ".attention.value_length",   1, 1 << 16);
    check_number(file, arch + ".rope.dimension_count",     0, 1 << 16);
    check_number(file, arch + ".expert_count",             0, 1 << 16);
    check_number(file, arch + ".ssm.conv_kernel",          0, 1024);
    check_number(file, arch + ".ssm.state_size",           0, 1 << 16);
    check_number(file, arch + ".ssm.group_count",          0, 1 << 16);
    check_number(file, arch + ".ssm.time_step_rank",       0, 1 << 20);
    check_number(file, arch + ".ssm.inner_size",           0, 1 << 24);
    check_number(file, arch + ".full_attention_interval",  1, 1024);
}

// What is rotated lies within a head.
static void check_rope(const target_file & file, const std::string & arch) {
    const uint32_t n_head    = number(file, arch + ".attention.head_count");
    const uint32_t given     = number(file, arch + ".attention.key_length");
    const uint32_t head_size = given > 0 ? given : n_head > 0 ? number(file, arch + ".embedding_length")/n_head : 0;
    const uint32_t rotated   = number(file, arch + ".rope.dimension_count");
    if (head_size > 0 && (rotated > head_size || rotated % 2 != 0)) {
        refuse(file.file + " has " + arch + ".rope.dimension_count = " + std::to_string(rotated) + ", expected an even number up to " +
                std::to_string(head_size) + ", the size of its heads: it is damaged");
    }
    const std::string key = arch + ".rope.dimension_sections";
    if (rotated == 0 && file.find(key) >= 0 && file.find(arch + ".rope.dimension_count") >= 0) { // it would loop forever
        refuse(file.file + " has " + key + ", but " + arch + ".rope.dimension_count = 0: it is damaged");
    }
    const int64_t n = file.length(key);
    if (n < 0 || gguf_get_arr_type(file.gguf.get(), file.find(key)) != GGUF_TYPE_INT32) {
        return;
    }
    const auto * sections = (const int32_t *) gguf_get_arr_data(file.gguf.get(), file.find(key));
    int64_t sum = 0;
    for (int64_t i = 0; i < n; ++i) {
        sum = sections[i] < 0 ? INT32_MAX : sum + sections[i];
        if (head_size > 0 && sum > head_size) {
            refuse(file.file + " has sections in " + key + " that do not fit its heads of " + std::to_string(head_size) + ": it is damaged");
        }
    }
}

// The state of a Gated DeltaNet head is a square.
static void check_delta_net(const target_file & file, const std::string & arch) {
    if (arch != "qwen35" && arch != "qwen35moe" && arch != "qwen3next") {
        return;
    }
    const uint64_t inner = number(file, arch + ".ssm.inner_size");
    const uint64_t state = number(file, arch + ".ssm.state_size");
    const uint64_t heads = number(file, arch + ".ssm.time_step_rank");
    const uint64_t keys  = number(file, arch + ".ssm.group_count");
    if (inner != state*heads || keys == 0 || heads % keys != 0) {
        refuse(file.file + " has Gated DeltaNet layers of " + std::to_string(heads) + " value heads, " + std::to_string(keys) +
                " key heads and states of " + std::to_string(state) + ", and an inner size of " + std::to_string(inner) +
                ", expected the product of heads and states: it is damaged");
    }
}

// Of floats only what a norm divides by: others may be anything.
static void check_epsilons(const target_file & file) {
    for (int64_t id = 0; id < gguf_get_n_kv(file.gguf.get()); ++id) {
        const std::string key = gguf_get_key(file.gguf.get(), id);
        if (!ends_with(key, "epsilon") || file.type(id) != GGUF_TYPE_FLOAT32) {
            continue;
        }
        const float eps = gguf_get_val_f32(file.gguf.get(), id);
        if (!(eps >= 0.0f && eps <= 1.0f)) {
            refuse(file.file + " has " + key + " = " + std::to_string(eps) + ", expected 0 to 1: it is damaged");
        }
    }
}

static void check_vocabulary(const target_file & file) {
    const std::string tokens = "tokenizer.ggml.tokens";
    const int64_t n = file.length(tokens);
    if (n < 0) {
        return;
    }
    if (gguf_get_arr_type(file.gguf.get(), file.find(tokens)) != GGUF_TYPE_STRING || n == 0) {
        refuse(file.file + " has no list of token texts in " + tokens + ": it is damaged");
    }
    for (const char * key : { "tokenizer.ggml.scores", "tokenizer.ggml.token_type" }) { // llama.cpp reads as many as there are tokens
        const int64_t n_items = file.length(key);
        if (n_items >= 0 && n_items != n) {
            refuse(file.file + " has " + std::to_string(n_items) + " items in " + key + " and " + std::to_string(n) + " tokens: it is damaged");
        }
    }
    const ggml_tensor * embeddings = ggml_get_tensor(file.tensors.get(), "token_embd.weight");
    if (embeddings != nullptr && embeddings->ne[1] != n) {
        refuse(file.file + " has a vocabulary of " + std::to_string(n) + " tokens and embeddings of " + std::to_string(embeddings->ne[1]) +
                ": it is damaged");
    }
}

// (llama_supports_gpu_offload() is true of every build that can reach RPC workers.)
static bool has_gpu() {
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU) != nullptr || ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_IGPU) != nullptr;
}

void check_target_file(const std::string & path) {
    const target_file file(path);
    check_tensor_data(file.gguf.get(), file.n_bytes, file.file);
    check_tensor_types(file.gguf.get(), file.tensors.get(), file.file, has_gpu());
    const std::string arch = file.text("general.architecture");
    check_numbers(file, arch);
    check_rope(file, arch);
    check_delta_net(file, arch);
    check_epsilons(file);
    check_vocabulary(file);
}
