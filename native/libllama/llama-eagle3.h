// What an EAGLE-3 head computes beyond upstream's graph: the hooks of patch 0029 call these.
//
// The graph pairs the token at position p + 1 with a hidden state of position p: fused features of the target, or, for a
// drafted token, what the head itself left at its parent.
#pragma once

#include "llama-graph.h"

#include <cstdint>

struct ggml_tensor;
struct llama_model;
struct llama_model_loader;

// Keys of a file that upstream does not know:
//   eagle3.hidden_activation  text: of the feed-forward layer; absent: silu
//   eagle3.norm_output        bool: what goes on to the next token has passed the output norm (speculators, EAGLE 3.1).
//       Absent: it has not, as in SafeAILab's class.
//   eagle3.norm_before_head   bool: the output head sees what has passed the output norm. Absent: yes; specforge has a
//       setting that leaves it out.
// Throws for an activation that is not known.
llm_ffn_op_type llama_eagle3_activation(const llama_model_loader & ml);
bool llama_eagle3_goes_on_normed(const llama_model & model);
bool llama_eagle3_head_sees_normed(const llama_model & model);

// The norm of features before they are fused, "enc.output_norm.weight": one for all of them in a row, [n_parts*width], or one
// for each target layer, [width, n_parts].
int64_t       llama_eagle3_norm_parts(const ggml_tensor * norm);
ggml_tensor * llama_eagle3_norm_features(llm_graph_context & graph, const llama_model & model, ggml_tensor * features);
