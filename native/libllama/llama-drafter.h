// What a DFlash drafter computes beyond upstream's graph: the hooks of patch 0015 call these.
#pragma once

#include <vector>

struct ggml_tensor;
struct llama_hparams;
struct llama_model;
struct llama_model_loader;
struct llm_graph_context;

// Keys of a drafter's file that upstream does not know:
//   dflash.attention.sliding_window_causal       bool: a position of the block does not see later ones in sliding layers.
//       Absent: as dflash.attention.causal says, and where that is absent too, true: the reference class (dflash 0.1.0)
//       makes sliding layers causal and the others bidirectional unless its config has is_causal.
//   dflash.attention.sliding_window_from_anchor  bool: the window is counted from the block's first position, and all of
//       the block sees the same context (speculators' training mask). Absent: from each position.
//   dflash.target_output_norm                    bool: features that name the target's last layer are its output after the
//       final norm, as transformers' hidden_states[-1] is. Absent: before it.
//   dflash.attention.sliding_window_both_ways    bool: where sliding layers are not causal, their windows hide later positions
//       as far away, too, as dflash's do. Absent: not, which is the same for windows of a block's length and more.
// Called after the file's windows have been read.
void llama_drafter_read_hparams(const llama_model_loader & ml, llama_hparams & hparams);

// What a file's tensors "draft_head.*" may be called after that: of a gated or rnn Markov head, or of a Domino head
// (llama-branch-head.h).
const std::vector<const char *> & llama_drafter_head_tensors();

// The features [n_layers*n_embd, n_tokens] as the drafter was trained on them: those of the target's last layer pass the
// target's output norm where the file says so.
ggml_tensor * llama_drafter_norm_features(llm_graph_context & graph, const llama_model & model, ggml_tensor * features);
