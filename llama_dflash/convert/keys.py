"""The keys of a drafter's GGUF file: from what its config says (config.py), by the names of llama.cpp's converter and a few
more (native/libllama/llama-drafter.h)."""

from __future__ import annotations

from typing import Iterator

from ..gguf_file import GgufFile
from .activation import activation
from .config import DFLASH2_SETTINGS, DrafterConfig
from .plan import Key, checked


def keys(config: DrafterConfig, target: GgufFile, has_confidence_head: bool) -> Iterator[Key]:
    """The keys of the GGUF file below "dflash.", with their types and values; those without a value are left out."""
    return checked(_all_keys(config, target, has_confidence_head))


def _all_keys(config: DrafterConfig, target: GgufFile, has_confidence_head: bool) -> Iterator[Key]:
    yield "block_count", "uint32", config.n_layers
    yield "context_length", "uint32", config.max_positions
    yield "embedding_length", "uint32", config.n_embd
    yield "feed_forward_length", "uint32", config.n_ff
    yield "attention.head_count", "uint32", config.n_heads
    yield "attention.head_count_kv", "uint32", config.n_heads_kv
    yield "attention.key_length", "uint32", config.head_dim if config.is_gemma else config.find("head_dim")
    yield "attention.value_length", "uint32", config.head_dim if config.is_gemma else config.find("head_dim")
    yield "attention.layer_norm_rms_epsilon", "float32", config.find("rms_norm_eps", "norm_eps")
    yield "attention.layer_norm_epsilon", "float32", config.find("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
    yield from _attention_keys(config)
    yield from _rope_keys(config, target)
    yield "block_size", "uint32", config.block_size
    layers = [i + 1 for i in config.target_layers(target.n_layers)]  # a layer's output is the next one's input
    yield "target_layers", "array", layers
    if target.n_layers in layers and config.schema != "speculators":
        yield "target_output_norm", "bool", True  # transformers' hidden_states end with the normalised output
    yield from _scale_keys(config)
    if "conv_kernel_size" in config.dflash:
        for name in DFLASH2_SETTINGS:
            yield name, "uint32", config.dflash.get(name)
    if config.is_domino:
        yield "domino_prefix", "uint32", config.dflash.get("pure_draft_prefix_len", 0)
    if config.is_dspark or config.is_gemma or config.is_domino or config.samples_from_anchor:
        yield "sample_from_anchor", "bool", config.samples_from_anchor
    if config.is_dspark or config.is_gemma:
        yield "has_confidence_head", "bool", has_confidence_head
    if config.is_gemma:
        yield "attention.scale", "float32", 1.0
        yield "hidden_activation", "string", "gelu_pytorch_tanh"
    else:
        yield "hidden_activation", "string", activation(config.values)


def _scale_keys(config: DrafterConfig) -> Iterator[Key]:
    """Of embeddings and logits. Only dflash's own classes read them: elsewhere they are the target's, left in the config."""
    if config.is_gemma:
        yield "final_logit_softcapping", "float32", config.values.get("final_logit_softcapping")
        yield "embedding_scale", "float32", config.n_embd**0.5
    elif config.schema == "dflash" and not config.is_dspark:
        yield "logit_scale", "float32", config.setting("output_multiplier")
        yield "final_logit_softcapping", "float32", config.setting("final_logit_softcapping") or None
        yield "embedding_scale", "float32", config.setting("input_embedding_scale")


def _attention_keys(config: DrafterConfig) -> Iterator[Key]:
    attention = config.attention
    yield "attention.causal", "bool", attention.causal
    yield "attention.value_scale", "float32", config.dflash.get("attention_value_scale")
    if attention.window is not None:
        yield "attention.sliding_window", "uint32", attention.window
        yield "attention.sliding_window_pattern", "array", list(attention.is_sliding)
        yield "attention.sliding_window_causal", "bool", attention.sliding_causal
        yield "attention.sliding_window_from_anchor", "bool", attention.from_anchor or None
        yield "attention.sliding_window_both_ways", "bool", attention.both_ways or None


def _rope_keys(config: DrafterConfig, target: GgufFile) -> Iterator[Key]:
    rope = config.rotary
    yield "rope.freq_base", "float32", rope.theta
    if config.is_gemma:
        yield "rope.dimension_count", "uint32", config.head_dim
    if rope.attention_factor != 1.0:
        yield "rope.scaling.attn_factor", "float32", rope.attention_factor
    if uses_mrope(target):  # the drafter's positions are those of text: one section of all dimensions
        yield "rope.dimension_sections", "array", [config.head_dim // 2, 0, 0, 0]


def uses_mrope(target: GgufFile) -> bool:
    """Whether a target takes positions in sections."""
    return f"{target.arch}.rope.dimension_sections" in target.values
