"""Small random targets of many architectures, each a few lines: its metadata and the pieces that its layers are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping

import gguf
import numpy as np
from models import HYBRIDS, N_VOCAB, add_vocab, write_file, write_hybrid

N_LAYER, WINDOW = 4, 12

# What shapes are made of. E: hidden size; Q, K: all heads of queries, of keys and values; D: head size; H: heads of queries;
# F: feed-forward size; X: experts
SIZES = dict(E=128, Q=128, K=64, D=32, H=4, F=96, X=2)

# Tensors of a layer by piece; a shape is as numpy has it (gguf's reversed). A number is itself, "2F" twice F.
PIECES: dict[str, dict[str, tuple]] = {
    "norms": {"attn_norm.weight": ("E",), "ffn_norm.weight": ("E",)},
    "attn_norm": {"attn_norm.weight": ("E",)},
    "falcon_h1_norms": {"attn_norm.weight": ("E",), "ffn_norm": ("E",)},
    "attn_norm_bias": {"attn_norm.bias": ("E",)},
    "norm_biases": {"attn_norm.bias": ("E",), "ffn_norm.bias": ("E",)},
    "post_norms": {"post_attention_norm.weight": ("E",), "post_ffw_norm.weight": ("E",)},
    "post_attn_norm": {"post_attention_norm.weight": ("E",)},
    "qkv": {"attn_q.weight": ("Q", "E"), "attn_k.weight": ("K", "E"), "attn_v.weight": ("K", "E")},
    "qkv_bias": {"attn_q.bias": ("Q",), "attn_k.bias": ("K",), "attn_v.bias": ("K",)},
    "fused_qkv": {"attn_qkv.weight": ("4K", "E")},  # Q + 2K
    "fused_qkv_bias": {"attn_qkv.bias": ("4K",)},
    "o": {"attn_output.weight": ("E", "Q")},
    "o_bias": {"attn_output.bias": ("E",)},
    "head_norms": {"attn_q_norm.weight": ("D",), "attn_k_norm.weight": ("D",)},
    "wide_norms": {"attn_q_norm.weight": ("Q",), "attn_k_norm.weight": ("K",)},
    "gate": {"attn_gate.weight": ("H", "E")},
    "wide_gate": {"attn_gate.weight": ("Q", "E")},
    "sinks": {"attn_sinks.weight": ("H",)},
    "mla": {
        "attn_q_a.weight": (32, "E"),
        "attn_q_a_norm.weight": (32,),
        "attn_q_b.weight": (4 * 48, 32),
        "attn_kv_a_mqa.weight": (32 + 16, "E"),
        "attn_kv_a_norm.weight": (32,),
        "attn_k_b.weight": (4, 32, 32),
        "attn_v_b.weight": (4, 32, 32),
        "attn_output.weight": ("E", 4 * 32),
    },
    "mla_index": {
        "indexer.k_norm.weight": (64,),
        "indexer.k_norm.bias": (64,),
        "indexer.proj.weight": (2, "E"),
        "indexer.attn_k.weight": (64, "E"),
        "indexer.attn_q_b.weight": (2 * 64, 32),
    },
    "block_index": {
        "indexer.q_proj.weight": (2 * 32, "E"),
        "indexer.k_proj.weight": (32, "E"),
        "indexer.q_norm.weight": (32,),
        "indexer.k_norm.weight": (32,),
    },
    "ffn": {"ffn_gate.weight": ("F", "E"), "ffn_up.weight": ("F", "E"), "ffn_down.weight": ("E", "F")},
    "plain_ffn": {"ffn_up.weight": ("F", "E"), "ffn_down.weight": ("E", "F")},
    "plain_ffn_bias": {"ffn_up.bias": ("F",), "ffn_down.bias": ("E",)},
    "fused_ffn": {"ffn_up.weight": ("2F", "E"), "ffn_down.weight": ("E", "F")},
    "experts": {
        "ffn_gate_inp.weight": ("X", "E"),
        "ffn_gate_exps.weight": ("X", "F", "E"),
        "ffn_up_exps.weight": ("X", "F", "E"),
        "ffn_down_exps.weight": ("X", "E", "F"),
    },
    "expert_biases": {
        "ffn_gate_inp.bias": ("X",),
        "ffn_gate_exps.bias": ("X", "F"),
        "ffn_up_exps.bias": ("X", "F"),
        "ffn_down_exps.bias": ("X", "E"),
    },
    "choice_bias": {"exp_probs_b.bias": ("X",)},
    "shared_expert": {
        "ffn_gate_shexp.weight": ("F", "E"),
        "ffn_up_shexp.weight": ("F", "E"),
        "ffn_down_shexp.weight": ("E", "F"),
    },
    "mamba2": {
        "ssm_in.weight": (2 * 256 + 2 * 16 + 8, "E"),
        "ssm_conv1d.weight": (256 + 2 * 16, 4),
        "ssm_conv1d.bias": (256 + 2 * 16,),
        "ssm_dt.bias": (8,),
        "ssm_a": (8, 1),
        "ssm_d": (8, 1),
        "ssm_norm.weight": (1, 256),
        "ssm_out.weight": ("E", 256),
    },
    "mamba": {
        "ssm_in.weight": (2 * 256, "E"),
        "ssm_conv1d.weight": (256, 4),
        "ssm_conv1d.bias": (256,),
        "ssm_x.weight": (8 + 2 * 16, 256),
        "ssm_dt_norm.weight": (8,),
        "ssm_dt.weight": (256, 8),
        "ssm_dt.bias": (256,),
        "ssm_b_norm.weight": (16,),
        "ssm_c_norm.weight": (16,),
        "ssm_a": (256, 16),
        "ssm_d": (256,),
        "ssm_out.weight": ("E", 256),
    },
    "short_conv": {
        "shortconv.conv.weight": ("E", 3),
        "shortconv.in_proj.weight": ("3E", "E"),
        "shortconv.out_proj.weight": ("E", "E"),
    },
    "shared_expert_gate": {"ffn_gate_inp_shexp.weight": ("E",)},
    "per_layer_input": {"inp_gate.weight": (16, "E"), "proj.weight": ("E", 16), "post_norm.weight": ("E",)},
    "out_scale": {"layer_output_scale.weight": (1,)},
    "altup": {
        "inp_gate.weight": (256, "E"),
        "proj.weight": ("E", 256),
        "post_norm.weight": ("E",),
        "altup_correct_coef.weight": (4, 4),
        "altup_correct_scale.weight": ("E",),
        "altup_predict_coef.weight": (16, 4),
        "altup_router.weight": (4, "E"),
        "altup_router_norm.weight": ("E",),
        "laurel_l.weight": (64, "E"),
        "laurel_r.weight": ("E", 64),
        "laurel_post_norm.weight": ("E",),
    },
}

LLAMA = "norms qkv o ffn"
WINDOWED = {"attention.sliding_window": WINDOW}
# of two experts both are used: rounding can't choose another
EXPERTS = {"expert_count": 2, "expert_used_count": 2, "expert_feed_forward_length": 96}
SHARED = {**EXPERTS, "expert_shared_count": 1, "leading_dense_block_count": 1, "expert_weights_scale": 1.0}
MLA = {
    **SHARED,
    "attention.head_count_kv": 1,
    "attention.q_lora_rank": 32,
    "attention.kv_lora_rank": 32,
    "attention.key_length": 48,
    "attention.value_length": 32,
    "attention.key_length_mla": 48,
    "attention.value_length_mla": 32,
    "rope.dimension_count": 16,
}
MAMBA = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 256,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 8,
    "ssm.group_count": 1,
}
MROPE = {"rope.dimension_sections": [6, 5, 5, 0]}


@dataclass(frozen=True)
class Architecture:
    """keys: further metadata, or what differs from the usual ones (None: left out).
    layer: the names of PIECES that a layer has; layers: those of some layers, by index, where they differ.
    top: further tensors of the model, and `None` for usual ones that it lacks."""

    layer: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[int, str] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_tied(self) -> bool:
        return self.top.get("output.weight", 0) is None


TIED = {"output.weight": None}

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(LLAMA),
    "qwen2": Architecture(LLAMA + " qkv_bias"),
    "qwen2moe": Architecture(
        "norms qkv qkv_bias o experts shared_expert shared_expert_gate",
        {**EXPERTS, "expert_shared_feed_forward_length": 96},
    ),
    "qwen3": Architecture(LLAMA + " head_norms"),
    "qwen3moe": Architecture("norms qkv o head_norms experts", EXPERTS),
    "qwen3vl": Architecture(LLAMA + " head_norms", {**MROPE, "n_deepstack_layers": 3}),
    "gemma": Architecture(LLAMA, top=TIED),
    "gemma2": Architecture(
        LLAMA + " post_norms",
        {**WINDOWED, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        top=TIED,
    ),
    "gemma3": Architecture(LLAMA + " post_norms head_norms", {**WINDOWED, "attention.sliding_window_pattern": 2}),
    "gemma4": Architecture(
        LLAMA + " post_norms head_norms per_layer_input out_scale",
        {
            **WINDOWED,
            "attention.sliding_window_pattern": [True, False, True, False],
            "attention.key_length_swa": 32,
            "attention.value_length_swa": 32,
            "embedding_length_per_layer_input": 16,
        },
        top={
            "per_layer_token_embd.weight": (N_VOCAB, 16 * N_LAYER),
            "per_layer_model_proj.weight": (16 * N_LAYER, "E"),
            "per_layer_proj_norm.weight": (16,),
            "rope_freqs.weight": (16,),
        },
    ),
    "phi3": Architecture("norms fused_qkv o fused_ffn"),
    "mistral3": Architecture(LLAMA),
    "granite": Architecture(
        LLAMA, {"logit_scale": 4.0, "residual_scale": 0.4, "embedding_scale": 6.0, "attention.scale": 0.1}
    ),
    "granitemoe": Architecture(
        "norms qkv o experts",
        {**EXPERTS, "feed_forward_length": 96, "logit_scale": 4.0, "residual_scale": 0.4, "embedding_scale": 6.0},
    ),
    "glm4": Architecture("norms qkv o post_norms fused_ffn", {"rope.dimension_count": 16}),
    "glm4moe": Architecture(
        "attn_norm qkv o post_attn_norm experts choice_bias shared_expert",
        {**SHARED, "expert_weights_norm": True},
        layers={0: "attn_norm qkv o post_attn_norm ffn"},
    ),
    "deepseek2": Architecture("norms mla experts choice_bias shared_expert", MLA, layers={0: "norms mla ffn"}),
    "gpt-oss": Architecture(
        "attn_norm post_attn_norm qkv qkv_bias o o_bias sinks experts expert_biases", {**WINDOWED, **EXPERTS}
    ),
    "seed_oss": Architecture("attn_norm post_attn_norm qkv qkv_bias o ffn"),
    "laguna": Architecture(
        "norms qkv o head_norms gate experts choice_bias shared_expert",
        {**WINDOWED, **SHARED},
        layers={0: "norms qkv o head_norms gate ffn"},
    ),
    "cohere2": Architecture(
        "attn_norm qkv o ffn", {**WINDOWED, "logit_scale": 2.0, "attention.layer_norm_epsilon": 1e-5}, top=TIED
    ),
    "olmo2": Architecture("qkv o wide_norms post_norms ffn", WINDOWED),
    "exaone4": Architecture("qkv o head_norms post_norms ffn"),
    "minimax-m2": Architecture(
        "norms qkv o wide_norms experts choice_bias", {**EXPERTS, "feed_forward_length": 96, "expert_gating_func": 2}
    ),
    "ernie4_5": Architecture(LLAMA),
    "mimo2": Architecture(
        "norms qkv o sinks experts choice_bias",
        {**WINDOWED, **EXPERTS, "attention.sliding_window_pattern": [False, True, True, True]},
        layers={0: LLAMA},
    ),
    "step35": Architecture(
        "norms qkv o head_norms gate experts choice_bias shared_expert",
        {
            **WINDOWED,
            **EXPERTS,
            "expert_shared_feed_forward_length": 96,
            "attention.sliding_window_pattern": [False, True, True, True],
        },
        layers={0: "norms qkv o head_norms gate ffn"},
    ),
    "bailingmoe2": Architecture(
        "norms fused_qkv o head_norms experts choice_bias shared_expert",
        {**SHARED, "expert_gating_func": 2},
        layers={0: "norms fused_qkv o head_norms ffn"},
    ),
    "llama4": Architecture(
        "norms qkv o experts shared_expert", {**EXPERTS, "interleave_moe_layer_step": 2}, layers={i: LLAMA for i in (0, 2)}
    ),
    "smollm3": Architecture(LLAMA),
    "falcon": Architecture(
        "attn_norm attn_norm_bias fused_qkv o plain_ffn",
        {"attention.layer_norm_epsilon": 1e-5},
        top={"output_norm.bias": ("E",)},
    ),
    "bloom": Architecture(
        "norms norm_biases fused_qkv fused_qkv_bias o o_bias plain_ffn plain_ffn_bias",
        {"attention.layer_norm_epsilon": 1e-5},
        top={"token_embd_norm.weight": ("E",), "token_embd_norm.bias": ("E",), "output_norm.bias": ("E",)},
    ),
    "gpt2": Architecture(
        "norms norm_biases fused_qkv fused_qkv_bias o o_bias plain_ffn plain_ffn_bias",
        {"attention.layer_norm_epsilon": 1e-5},
        top={"position_embd.weight": (4096, "E"), "output_norm.bias": ("E",)},
    ),
    "deci": Architecture(  # layer 2 does nothing
        LLAMA,
        {
            "attention.head_count": [4, 4, 0, 4],
            "attention.head_count_kv": [2, 2, 0, 2],
            "feed_forward_length": [96, 96, 0, 96],
        },
        layers={2: ""},
    ),
    # an index beside the cache: no memory for trees
    "deepseek32": Architecture(
        "norms mla mla_index experts choice_bias shared_expert",
        {
            **MLA,
            "expert_gating_func": 2,
            "attention.indexer.head_count": 2,
            "attention.indexer.key_length": 64,
            "attention.indexer.top_k": 16,
        },
        layers={0: "norms mla mla_index ffn"},
    ),
    "minimax-m3": Architecture(
        "norms qkv o head_norms block_index experts choice_bias shared_expert",
        {
            **SHARED,
            "expert_gating_func": 2,
            "attention.indexer.head_count": 2,
            "attention.indexer.key_length": 32,
            "attention.indexer.top_k": 4,
            "attention.indexer.block_size": 8,
            "attention.indexer.local_blocks": 1,
        },
        layers={0: LLAMA + " head_norms"},
    ),
    # recurrent layers that can't compute trees
    "lfm2": Architecture(
        "norms short_conv ffn",
        {"attention.head_count_kv": [0, 2, 0, 2], "shortconv.l_cache": 3},
        layers={i: "norms qkv o head_norms ffn" for i in (1, 3)},
        top={"output_norm.weight": None, "token_embd_norm.weight": ("E",)},
    ),
    "nemotron_h": Architecture(
        "attn_norm mamba2",
        {
            **MAMBA,
            "attention.head_count_kv": [0, 2, 0, 0],
            "feed_forward_length": [0, 0, 96, 0],
            "attention.layer_norm_epsilon": 1e-5,
        },
        layers={1: "attn_norm qkv o", 2: "attn_norm plain_ffn"},
    ),
    "granitehybrid": Architecture(
        "norms mamba2 ffn", {**MAMBA, "attention.head_count_kv": [0, 2, 0, 2]}, layers={i: LLAMA for i in (1, 3)}
    ),
    "falcon-h1": Architecture("falcon_h1_norms mamba2 qkv o ffn", MAMBA),
    "mamba2": Architecture("attn_norm mamba2", {**MAMBA, "attention.head_count": 0, "attention.head_count_kv": 0}),
    "jamba": Architecture(
        "norms mamba ffn", {**MAMBA, "attention.head_count_kv": [0, 2, 0, 2]}, layers={i: LLAMA for i in (1, 3)}
    ),
    # no hidden state between layers
    "gemma3n": Architecture(
        LLAMA + " post_norms head_norms altup",
        WINDOWED,
        top={
            "altup_proj.weight": (3, "E", "E"),
            "altup_unembd_proj.weight": (3, "E", "E"),
            "per_layer_token_embd.weight": (N_VOCAB, 256 * N_LAYER),
            "per_layer_model_proj.weight": (256 * N_LAYER, "E"),
            "per_layer_proj_norm.weight": (256,),
        },
    ),
    "hrm_text": Architecture(
        "qkv wide_gate o ffn",
        {"hrm.layers_per_stack": 1, "hrm.h_cycles": 2, "hrm.l_cycles": 1},
        layers={2: "", 3: ""},
        top={"output_norm.weight": None, "hrm.z_l_init": ("E",)},
    ),
}

WITHOUT_LAYER_INPUTS = ("gemma3n", "hrm_text")  # no hidden state passes from layer to layer there
WITH_LAYER_INPUTS = [*(name for name in ARCHITECTURES if name not in WITHOUT_LAYER_INPUTS), *HYBRIDS]

RECURRENT = ("lfm2", "nemotron_h", "granitehybrid", "falcon-h1", "mamba2", "jamba")  # their layers can't compute trees
INDEXED = ("deepseek32", "minimax-m3")  # chains are verified
WITH_TREES = [name for name in WITH_LAYER_INPUTS if name not in (*RECURRENT, *INDEXED)]


def write_architecture(path: Path, name: str, seed: int = 0) -> Path:
    """A random target of N_LAYER layers, with a sliding window of WINDOW tokens where the architecture has one."""
    if name in HYBRIDS:
        return write_hybrid(path, name, n_layer=N_LAYER, n_expert=2, seed=seed)
    arch = ARCHITECTURES[name]
    w = gguf.GGUFWriter(str(path), name)
    _write_keys(w, name, arch)
    add_vocab(w)
    rng = np.random.default_rng(seed)
    top = {"token_embd.weight": (N_VOCAB, "E"), "output.weight": (N_VOCAB, "E"), "output_norm.weight": ("E",), **arch.top}
    for tensor, shape in top.items():
        if shape is not None:
            w.add_tensor(tensor, _values(rng, tensor, shape))
    for i in range(N_LAYER):
        for piece in arch.layers.get(i, arch.layer).split():
            for tensor, shape in PIECES[piece].items():
                w.add_tensor(f"blk.{i}.{tensor}", _values(rng, tensor, shape))
    return write_file(w, path)


def _write_keys(w: gguf.GGUFWriter, name: str, arch: Architecture) -> None:
    usual = {
        "context_length": 4096,
        "embedding_length": SIZES["E"],
        "block_count": N_LAYER,
        "feed_forward_length": SIZES["F"],
        "attention.head_count": SIZES["H"],
        "attention.head_count_kv": SIZES["K"] // SIZES["D"],
        "attention.key_length": SIZES["D"],
        "attention.value_length": SIZES["D"],
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": SIZES["D"],
        "rope.freq_base": 10000.0,
        "vocab_size": N_VOCAB,
    }
    for key, value in {**usual, **arch.keys}.items():
        key = f"{name}.{key}"
        if isinstance(value, bool):
            w.add_bool(key, value)
        elif isinstance(value, list):
            w.add_array(key, value)
        elif isinstance(value, float):
            w.add_float32(key, value)
        elif value is not None:
            w.add_uint32(key, value)


def _size(size: int | str) -> int:
    if isinstance(size, int):
        return size
    return int(size[:-1] or 1) * SIZES[size[-1]]


def _values(rng: np.random.Generator, name: str, shape: tuple) -> np.ndarray:
    shape = tuple(_size(size) for size in shape)
    noise = rng.standard_normal(shape)
    if name == "ssm_a":
        values = -np.exp(noise - 3)
    elif "norm" in name and not name.endswith("bias") or "scale" in name or "rope_freqs" in name:
        values = 1 + 0.1 * noise
    elif len(shape) == 1 or name.endswith("bias"):
        values = 0.1 * noise
    elif name == "token_embd.weight":
        values = noise
    else:
        values = noise * {"attn_q.weight": 2.0, "output.weight": 3.0}.get(name, 1.0) * shape[-1] ** -0.5
    return values.astype(np.float32)
