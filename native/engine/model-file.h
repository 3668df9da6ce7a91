// Checks of GGUF files, of drafters and of targets, before llama.cpp reads them: on some that are damaged it aborts.
#pragma once

#include <string>

struct gguf_context;
struct ggml_context;

// Throws std::invalid_argument with a sentence for the user.
[[noreturn]] void refuse(const std::string & sentence);

// Refuses a tensor that no op can compute with as it is: a norm that is not F32 (or, with `halves`, F16 or BF16, which some
// GPUs add and multiply by), a matrix of a type without products. `tensors` are the file's, `file` is how a sentence calls it.
void check_tensor_types(const gguf_context * gguf, const ggml_context * tensors, const std::string & file, bool halves);

// Refuses a tensor that ends after the file's last byte.
void check_tensor_data(const gguf_context * gguf, size_t n_bytes, const std::string & file);

// A target: a file that is no GGUF or truncated, tensors of types that nothing computes with, numbers that no model has, a
// vocabulary whose parts do not fit together. Throws std::invalid_argument.
void check_target_file(const std::string & path);
