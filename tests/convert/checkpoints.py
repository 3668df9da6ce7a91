"""Writes small drafter checkpoints as they are published: a folder with config.json and safetensors files.

`CASES` are the kinds that llama.cpp's own converter takes. Weights come from a seed, so that make_reference.py, which
runs that converter, and the tests see the same ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

N_VOCAB = 320
HIDDEN, HEADS, HEADS_KV, HEAD_DIM, FF, LAYERS = 64, 4, 2, 32, 96, 2

CONFIG = {
    "architectures": ["DFlashDraftModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
    "block_size": 16,
    "bos_token_id": 319,
    "dflash_config": {"mask_token_id": 316, "target_layer_ids": [0, 2]},
    "dtype": "bfloat16",
    "eos_token_id": 318,
    "head_dim": HEAD_DIM,
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": FF,
    "layer_types": ["full_attention"] * LAYERS,
    "max_position_embeddings": 4096,
    "max_window_layers": LAYERS,
    "model_type": "qwen3",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": HEADS_KV,
    "num_target_layers": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": N_VOCAB,
}


def dflash_shapes(n_layers: int = LAYERS, n_features: int = 2) -> dict[str, tuple[int, ...]]:
    """The tensors of a DFlash checkpoint; matrices are [out, in] as in torch."""
    shapes: dict[str, tuple[int, ...]] = {
        "fc.weight": (HIDDEN, n_features * HIDDEN),
        "hidden_norm.weight": (HIDDEN,),
        "norm.weight": (HIDDEN,),
    }
    for i in range(n_layers):
        b = f"layers.{i}."
        shapes[b + "input_layernorm.weight"] = (HIDDEN,)
        shapes[b + "post_attention_layernorm.weight"] = (HIDDEN,)
        shapes[b + "self_attn.q_proj.weight"] = (HEADS * HEAD_DIM, HIDDEN)
        shapes[b + "self_attn.k_proj.weight"] = (HEADS_KV * HEAD_DIM, HIDDEN)
        shapes[b + "self_attn.v_proj.weight"] = (HEADS_KV * HEAD_DIM, HIDDEN)
        shapes[b + "self_attn.o_proj.weight"] = (HIDDEN, HEADS * HEAD_DIM)
        shapes[b + "self_attn.q_norm.weight"] = (HEAD_DIM,)
        shapes[b + "self_attn.k_norm.weight"] = (HEAD_DIM,)
        shapes[b + "mlp.gate_proj.weight"] = (FF, HIDDEN)
        shapes[b + "mlp.up_proj.weight"] = (FF, HIDDEN)
        shapes[b + "mlp.down_proj.weight"] = (HIDDEN, FF)
    return shapes


def dflash2_shapes() -> dict[str, tuple[int, ...]]:
    shapes = dflash_shapes()
    for name in ("predecessor_codebook", "successor_codebook"):
        shapes[f"candidate_selector.{name}"] = (N_VOCAB, 16)
    shapes["candidate_selector.hidden_projection.weight"] = (16, HIDDEN)
    for i in range(LAYERS):
        for conv in ("attention_conv", "mlp_conv"):
            shapes[f"layers.{i}.{conv}.base_kernel"] = (2, 3, HIDDEN)
            shapes[f"layers.{i}.{conv}.kernel_projection.weight"] = (2 * 3 * (HIDDEN // 16), HIDDEN)
    return shapes


def dspark_shapes(n_draft_vocab: int = N_VOCAB, rank: int = 32, confidence: bool = True) -> dict[str, tuple[int, ...]]:
    shapes = dflash_shapes()
    shapes["embed_tokens.weight"] = (N_VOCAB, HIDDEN)
    shapes["lm_head.weight"] = (n_draft_vocab, HIDDEN)
    shapes["markov_head.markov_w1.weight"] = (N_VOCAB, rank)
    shapes["markov_head.markov_w2.weight"] = (n_draft_vocab, rank)
    if confidence:
        shapes["confidence_head.proj.weight"] = (1, HIDDEN + rank)
        shapes["confidence_head.proj.bias"] = (1,)
    return shapes


def gemma4_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {name: shape for name, shape in dflash_shapes().items() if not name.endswith("v_proj.weight")}
    shapes["embed_tokens.weight"] = (N_VOCAB, HIDDEN)
    shapes["markov_head.markov_w1.weight"] = (N_VOCAB, 32)
    shapes["markov_head.markov_w2.weight"] = (N_VOCAB, 32)
    shapes["confidence_proj.weight"] = (1, HIDDEN + 32)
    for i in range(LAYERS):
        for name in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            shapes[f"layers.{i}.{name}.weight"] = (HIDDEN,)
        shapes[f"layers.{i}.layer_scalar"] = (1,)
    return shapes


def _without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


CARD = """---
license: mit
library_name: transformers
pipeline_tag: text-generation
tags:
- dflash
- speculative-decoding
base_model: example/Tiny-8B
language: en
---
# Tiny-8B-DFlash
"""
SPARK = {
    **_without(CONFIG, "dflash_config"),
    "architectures": ["Qwen3DSparkModel"],
    "mask_token_id": 316,
    "target_layer_ids": [1, 3],
}
CASES: dict[str, dict[str, Any]] = {
    # name: config; shapes; and what else differs from one bfloat16 file for a llama target
    "plain": dict(config=CONFIG, shapes=dflash_shapes(), card=CARD),
    "mrope": dict(config=CONFIG, shapes=dflash_shapes(), target="qwen35", shards=3),
    "window": dict(
        config={
            **CONFIG,
            "use_sliding_window": True,
            "sliding_window": 2048,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        shapes=dflash_shapes(),
        dtype="F16",
    ),
    "yarn": dict(
        config={
            **CONFIG,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 1024,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
            },
            "is_causal": False,
        },
        shapes={**dflash_shapes(), **{f"layers.{i}.self_attn.sinks": (HEADS,) for i in range(LAYERS)}},
        dtype="F32",
    ),
    "transformers5": dict(
        config={
            **_without(CONFIG, "rope_theta", "rope_scaling"),
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000000.0},
        },
        shapes=dflash_shapes(),
    ),
    "defaults": dict(  # what transformers' Qwen3Config adds
        config={
            **_without(
                CONFIG,
                "rms_norm_eps",
                "max_position_embeddings",
                "rope_theta",
                "rope_scaling",
                "layer_types",
                "num_target_layers",
            ),
            "use_sliding_window": True,
            "sliding_window": 128,
            "max_window_layers": 1,
        },
        shapes=dflash_shapes(),
    ),
    "own-head": dict(
        config={
            **_without(CONFIG, "model_type"),
            "rope_is_neox_style": False,
            "output_multiplier": 0.5,
            "dflash_config": {
                **CONFIG["dflash_config"],
                "final_logit_softcapping": 30.0,
                "input_embedding_scale": 8.0,
                "use_swa": True,
                "swa_window_size": 1024,
                "causal": False,
                "attention_value_scale": 0.7,
                "block_size": 8,
            },
            "partial_rotary_factor": 0.5,
        },
        shapes={**dflash_shapes(), "embed_tokens.weight": (N_VOCAB, HIDDEN), "lm_head.weight": (N_VOCAB, HIDDEN)},
    ),
    "dflash2": dict(
        config={
            **CONFIG,
            "architectures": ["DFlash2DraftModel"],
            "dflash_config": {
                **CONFIG["dflash_config"],
                "conv_kernel_size": 3,
                "conv_group_size": 16,
                "selector_rank": 16,
                "selector_top_k": 4,
            },
        },
        shapes=dflash2_shapes(),
    ),
    "dspark": dict(config=SPARK, shapes=dspark_shapes()),
    "dspark-reduced": dict(
        config={
            "architectures": ["DSparkSpeculator"],
            "transformer_layer_config": _without(
                CONFIG, "architectures", "dflash_config", "auto_map", "model_type", "block_size"
            ),
            "aux_hidden_state_layer_ids": [1, 3],
            "block_size": 7,
            "mask_token_id": 316,
            "draft_vocab_size": 40,
            "has_embed_tokens": False,
        },
        shapes={**dspark_shapes(40, confidence=False), "d2t": (40,), "t2d": (N_VOCAB,)},
    ),
    "dspark-gemma4": dict(
        config={
            **_without(
                CONFIG,
                "model_type",
                "dflash_config",
                "rope_theta",
                "rope_scaling",
                "num_key_value_heads",
                "head_dim",
                "hidden_act",
            ),
            "architectures": ["Gemma4DSparkModel"],
            "attention_k_eq_v": True,
            "tie_word_embeddings": True,
            "global_head_dim": HEAD_DIM,
            "num_global_key_value_heads": HEADS_KV,
            "num_key_value_heads": HEADS_KV,
            "hidden_activation": "gelu_pytorch_tanh",
            "mask_token_id": 316,
            "target_layer_ids": [0, 1, 3],
            "sliding_window": 512,
        },
        shapes={**gemma4_shapes(), "fc.weight": (HIDDEN, 3 * HIDDEN)},
    ),
}
TYPES = ("auto", "f32", "f16", "q8_0")  # what every case is converted to


def write_case(folder: Path, name: str, prefix: str = "", **changes: Any) -> Path:
    """Writes a case's checkpoint into folder/name-DFlash.

    Args:
        prefix: Of every tensor's name, "model." for instance.
        changes: Of the config.
    """
    case = CASES[name]
    checkpoint = folder / f"{name}-DFlash"
    checkpoint.mkdir(parents=True, exist_ok=True)
    (checkpoint / "config.json").write_text(json.dumps({**case["config"], **changes}, indent=1))
    tensors = {prefix + key: value for key, value in random_tensors(case["shapes"], case.get("dtype", "BF16")).items()}
    if "card" in case:
        (checkpoint / "README.md").write_text(case["card"])
    n_shards = case.get("shards", 1)
    if n_shards == 1:
        write_safetensors(checkpoint / "model.safetensors", tensors)
        return checkpoint
    names = sorted(tensors)
    weight_map = {}
    for i in range(n_shards):
        file = f"model-{i + 1:05}-of-{n_shards:05}.safetensors"
        part = {key: tensors[key] for key in names[i::n_shards]}
        write_safetensors(checkpoint / file, part)
        weight_map.update({key: file for key in part})
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return checkpoint


def random_tensors(
    shapes: dict[str, tuple[int, ...]], dtype: str, seed: int = 0, std: float = 0.1
) -> dict[str, tuple[str, np.ndarray]]:
    """For every tensor the name of its type in safetensors and its values, bfloat16 ones as uint16."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        if name == "d2t":  # offsets to the row's own number
            tensors[name] = "I64", np.sort(rng.choice(N_VOCAB, shape[0], replace=False)) - np.arange(shape[0])
        elif name == "t2d":
            tensors[name] = "BOOL", np.zeros(shape, dtype=np.bool_)
        else:
            values = (rng.standard_normal(shape) * std + ("norm" in name)).astype(np.float32)
            tensors[name] = dtype, as_dtype(values, dtype)
    return tensors


def as_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values as safetensors stores them; bfloat16 by cutting off the low bits."""
    if dtype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype({"F16": np.float16, "F32": np.float32}[dtype])


def write_safetensors(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, values) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, values in tensors.values():
            file.write(values.tobytes())
