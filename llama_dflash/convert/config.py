"""From a checkpoint's config.json to the keys of a drafter's GGUF file, as llama.cpp's own converter writes them.

Three kinds are known: DFlash and DFlash2 (settings under "dflash_config"), DSpark in two schemas (flat, or with a
"transformer_layer_config" and "aux_hidden_state_layer_ids"), and Gemma 4's DSpark.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

from ..gguf_file import GgufFile

ARCHITECTURES = {
    "DFlashDraftModel": "DFlash",
    "DFlash2DraftModel": "DFlash2",
    "Qwen3DSparkModel": "DSpark",
    "DSparkDraftModel": "DSpark",
    "DSparkSpeculator": "DSpark",
    "Lfm2DSparkDraftModel": "DSpark",
    "LingDSparkModel": "DSpark",
    "Gemma4DSparkModel": "Gemma4 DSpark",
}
# What transformers' Qwen3Config, which llama.cpp's converter asks first, takes for what a config leaves out.
QWEN3_DEFAULTS = {"head_dim": 128, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
QWEN3_ROPE_THETA = 10000.0

_CHECKS = {
    "uint32": lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32,
    "float32": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 3e38,
    "bool": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list) and len(value) > 0,
}
_EXPECTED = {
    "uint32": "a whole number",
    "float32": "a number",
    "bool": "true or false",
    "string": "text",
    "array": "a list with items",
}

Key = Tuple[str, str, Any]  # a name without "dflash.", the type by the name of GGUFWriter's method, the value


@dataclass(frozen=True)
class DrafterConfig:
    """What a config says, in one schema."""

    kind: str  # a value of ARCHITECTURES
    values: Dict[str, Any]
    dflash: Dict[str, Any]  # "dflash_config", where the DSpark schemas have none made from their own keys
    rope: Dict[str, Any]
    samples_from_anchor: bool  # DSpark: the block's first position predicts, too

    def number(self, *names: str) -> int:
        """The value of the first of these names that the config has.

        Raises:
            ValueError: If it has none of them, or no positive whole number.
        """
        value = self.find(*names)
        if value is None:
            raise ValueError(
                f"config.json has no {' or '.join(names)}, which a {self.kind} drafter needs: fetch the original config"
            )
        return _whole(names[0], value)

    def find(self, *names: str) -> Any:
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def setting(self, name: str) -> Any:
        """One of the drafter's own settings, which are in "dflash_config" or beside it."""
        return self.dflash.get(name, self.values.get(name))

    def whole_setting(self, name: str) -> int:
        """A positive whole number under "dflash_config"."""
        return _whole(name, self.dflash.get(name))

    @property
    def is_gemma(self) -> bool:
        return self.kind == "Gemma4 DSpark"

    @property
    def is_dspark(self) -> bool:
        return self.kind == "DSpark"

    @property
    def n_layers(self) -> int:
        return _layers(self.number("num_hidden_layers", "n_layers", "num_layers"))

    @property
    def n_embd(self) -> int:
        return self.number("hidden_size")

    @property
    def n_heads(self) -> int:
        return self.number("num_attention_heads")

    @property
    def n_heads_kv(self) -> int:
        return self.number("num_global_key_value_heads" if self.is_gemma else "num_key_value_heads")

    @property
    def head_dim(self) -> int:
        if self.is_gemma:
            return self.number("global_head_dim")
        return self.number("head_dim") if self.find("head_dim") else self.n_embd // self.n_heads

    @property
    def n_ff(self) -> int:
        return self.number("intermediate_size")

    @property
    def n_vocab(self) -> int:
        return self.number("vocab_size")

    @property
    def n_draft_vocab(self) -> int:
        """Rows of a DSpark drafter's own head, less than the vocabulary where it knows only some tokens."""
        return self.number("draft_vocab_size") if self.find("draft_vocab_size") else self.n_vocab

    @property
    def target_layer_ids(self) -> List[int]:
        """The target's layers whose outputs are features."""
        ids = self.setting("target_layer_ids")
        if not _is_ids(ids):
            raise ValueError(
                f"config.json names no target layers: target_layer_ids is {ids!r}, expected a list of layer numbers"
            )
        return ids

    @property
    def block_size(self) -> int:
        size = self.dflash.get("block_size", self.values.get("block_size", 16))
        if isinstance(size, bool) or not isinstance(size, int) or not 2 <= size <= 1024:
            raise ValueError(f"config.json has block_size = {size!r}, expected 2 to 1024 positions")
        return size

    @property
    def mask_token(self) -> int:
        mask = self.setting("mask_token_id") if self.is_gemma else self.dflash.get("mask_token_id")
        if isinstance(mask, bool) or not isinstance(mask, int):
            raise ValueError(
                f"config.json has mask_token_id = {mask!r}, expected the number of the mask token, which drafts start"
                " from"
            )
        return mask


def _whole(name: str, value: Any, most: int = 2**31 - 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"config.json has {name} = {value!r}, expected a whole number from 1 to {most}")
    return value


def _layers(value: Any) -> int:
    return _whole("num_hidden_layers", value, 512)  # llama.cpp's limit


def _is_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(i, int) and not isinstance(i, bool) for i in value)
    )


def read_config(raw: Dict[str, Any]) -> DrafterConfig:
    """What config.json holds, in one schema.

    Raises:
        ValueError: If it is no drafter's, or one of a kind that does not convert.
    """
    architectures = raw.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ValueError(
            f"config.json is of architecture {architecture!r}, expected that of a drafter: {', '.join(ARCHITECTURES)}. "
            "Targets and other models convert with llama.cpp's convert_hf_to_gguf.py"
        )
    if raw.get("quantization_config"):
        raise ValueError(
            "config.json says that the checkpoint is quantised (quantization_config): take the original one, in BF16"
            " or F16"
        )
    _check_objects(raw)
    kind = ARCHITECTURES[architecture]
    values = _as_transformers_reads_it({**raw, **(raw.get("text_config") or {})})
    nested = "transformer_layer_config" in values
    if kind == "DSpark" and nested:
        values.update(values["transformer_layer_config"] or {})
        _check_objects(values)
    if kind == "Gemma4 DSpark":
        _check_gemma(values)
    dflash = values.get("dflash_config") or (_dspark_settings(values) if kind == "DSpark" else {})
    if (markov := dflash.get("markov_head_type", values.get("markov_head_type", "vanilla"))) != "vanilla":
        raise ValueError(f"config.json has markov_head_type = {markov!r}; only 'vanilla' ones convert")
    return DrafterConfig(
        kind,
        values,
        dflash,
        _rope_parameters(values, kind == "Gemma4 DSpark"),
        # exports with a bonus anchor name the features of the target by aux_hidden_state_layer_ids
        values.get("sample_from_anchor", kind != "DSpark" or not (nested or "aux_hidden_state_layer_ids" in values)),
    )


def _check_objects(values: Dict[str, Any]) -> None:
    for name in ("dflash_config", "text_config", "transformer_layer_config", "rope_parameters", "rope_scaling"):
        if not isinstance(values.get(name), (dict, type(None))):
            raise ValueError(f"config.json has {name} = {values[name]!r}, expected an object")


def _as_transformers_reads_it(values: Dict[str, Any]) -> Dict[str, Any]:
    if values.get("model_type") != "qwen3":
        return dict(values)
    values = {**QWEN3_DEFAULTS, **values}
    if not values.get("use_sliding_window"):
        values["sliding_window"] = None
    if values.get("layer_types") is None and values.get("sliding_window") is not None:
        n_full, n_layers = values.get("max_window_layers", 28), _layers(values.get("num_hidden_layers"))
        if not isinstance(n_full, int):
            raise ValueError(f"config.json has max_window_layers = {n_full!r}, expected a number of layers")
        values["layer_types"] = ["sliding_attention" if i >= n_full else "full_attention" for i in range(n_layers)]
    if not (values.get("rope_parameters") or {}).get("rope_theta"):
        values.setdefault("rope_theta", QWEN3_ROPE_THETA)
    return values


def _dspark_settings(values: Dict[str, Any]) -> Dict[str, Any]:
    if "aux_hidden_state_layer_ids" in values:  # counted as inputs of layers, not as outputs
        ids = values["aux_hidden_state_layer_ids"]
        if not _is_ids(ids):
            raise ValueError(f"config.json has aux_hidden_state_layer_ids = {ids!r}, expected a list of layer numbers")
        return {"mask_token_id": values.get("mask_token_id"), "target_layer_ids": [i - 1 for i in ids]}
    return {name: values[name] for name in ("target_layer_ids", "mask_token_id") if name in values}


def _rope_parameters(values: Dict[str, Any], is_gemma: bool) -> Dict[str, Any]:
    """Rotary settings, which are spread over the config in several ways."""
    rope = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    if is_gemma and not values.get("rope_parameters"):
        rope = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}
    rope = dict(rope["full_attention"]) if isinstance(rope.get("full_attention"), dict) else rope
    if "type" in rope:
        rope.setdefault("rope_type", rope["type"])
    for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if values.get(name) is not None:
            rope.setdefault(name, values[name])
    part = rope.get("partial_rotary_factor")
    if part is not None and not (isinstance(part, (int, float)) and 0 < part <= 1):
        raise ValueError(f"config.json has partial_rotary_factor = {part!r}, expected a number up to 1")
    return rope


def _check_gemma(values: Dict[str, Any]) -> None:
    n_layers = _layers(values.get("num_hidden_layers"))
    expected: List[Tuple[str, Any, Any]] = [
        ("attention_k_eq_v", bool(values.get("attention_k_eq_v")), True),
        ("layer_types", values.get("layer_types"), ["full_attention"] * n_layers),
        ("hidden_activation", values.get("hidden_activation", "gelu_pytorch_tanh"), "gelu_pytorch_tanh"),
        ("attention_bias", bool(values.get("attention_bias")), False),
        ("enable_moe_block", bool(values.get("enable_moe_block")), False),
        ("draft_vocab_size", values.get("draft_vocab_size") or values.get("vocab_size"), values.get("vocab_size")),
        ("final_logit_softcapping", values.get("final_logit_softcapping") or None, None),
    ]
    for name, found, needed in expected:
        if found != needed:
            raise ValueError(
                f"config.json has {name} = {found!r}; of Gemma 4's DSpark drafters only those with {needed!r} convert"
            )


def keys(config: DrafterConfig, target: GgufFile, has_confidence_head: bool) -> Iterator[Key]:
    """The keys of the GGUF file below "dflash.", with their types and values; those without a value are left out."""
    for name, kind, value in _all_keys(config, target, has_confidence_head):
        if value is None:
            continue
        if not _CHECKS[kind](value):
            raise ValueError(f"config.json gives {name} (by the name in GGUF) as {value!r}, expected {_EXPECTED[kind]}")
        yield name, kind, value


def _all_keys(config: DrafterConfig, target: GgufFile, has_confidence_head: bool) -> Iterator[Key]:
    yield "block_count", "uint32", config.n_layers
    yield (
        "context_length",
        "uint32",
        config.find("max_position_embeddings", "n_ctx", "max_sequence_length", "model_max_length"),
    )
    yield "embedding_length", "uint32", config.n_embd
    yield "feed_forward_length", "uint32", config.n_ff
    yield "attention.head_count", "uint32", config.n_heads
    yield "attention.head_count_kv", "uint32", config.n_heads_kv
    yield "attention.key_length", "uint32", config.head_dim if config.is_gemma else config.find("head_dim")
    yield "attention.value_length", "uint32", config.head_dim if config.is_gemma else config.find("head_dim")
    yield "attention.layer_norm_rms_epsilon", "float32", config.find("rms_norm_eps", "norm_eps")
    yield "attention.layer_norm_epsilon", "float32", config.find("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
    yield "attention.causal", "bool", _flag(config.values.get("is_causal"), config.dflash.get("causal"))
    yield "attention.value_scale", "float32", config.dflash.get("attention_value_scale")
    yield from _rope_keys(config, target)
    yield from _window_keys(config)
    yield "block_size", "uint32", config.block_size
    yield "target_layers", "array", [i + 1 for i in config.target_layer_ids]  # a layer's output is the next one's input
    yield "logit_scale", "float32", config.setting("output_multiplier")
    yield "final_logit_softcapping", "float32", config.setting("final_logit_softcapping") or None
    yield (
        "embedding_scale",
        "float32",
        config.n_embd**0.5 if config.is_gemma else config.setting("input_embedding_scale"),
    )
    if "conv_kernel_size" in config.dflash:
        for name in ("conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k"):
            yield name, "uint32", config.dflash.get(name)
    if config.is_dspark or config.is_gemma:
        yield "sample_from_anchor", "bool", config.samples_from_anchor
        yield "has_confidence_head", "bool", has_confidence_head
    if config.is_gemma:
        yield "attention.scale", "float32", 1.0
        yield "hidden_activation", "string", "gelu_pytorch_tanh"


def _flag(*values: Union[bool, None]) -> Optional[bool]:
    return next((bool(value) for value in values if value is not None), None)


def _rope_keys(config: DrafterConfig, target: GgufFile) -> Iterator[Key]:
    rope, factor = config.rope, config.rope.get("factor")
    kind = rope.get("rope_type")
    yield "rope.freq_base", "float32", rope.get("rope_theta")
    if config.is_gemma:
        yield "rope.dimension_count", "uint32", config.head_dim
    elif rope.get("partial_rotary_factor") is not None:
        yield "rope.dimension_count", "uint32", int(config.head_dim * rope["partial_rotary_factor"])
    if kind in ("linear", "yarn") and factor is not None:
        yield "rope.scaling.type", "string", kind
        yield "rope.scaling.factor", "float32", factor
    if kind == "yarn" and factor is not None:
        original = rope.get("original_max_position_embeddings")
        if original is None:
            raise ValueError(
                "config.json scales positions by yarn without original_max_position_embeddings: fetch the original"
                " config"
            )
        yield "rope.scaling.original_context_length", "uint32", original
        yield "rope.scaling.yarn_ext_factor", "float32", rope.get("extrapolation_factor")
        yield "rope.scaling.yarn_attn_factor", "float32", rope.get("attention_factor", rope.get("attn_factor"))
        yield "rope.scaling.yarn_beta_fast", "float32", rope.get("beta_fast")
        yield "rope.scaling.yarn_beta_slow", "float32", rope.get("beta_slow")
    if kind in ("su", "longrope"):
        yield "rope.scaling.type", "string", "longrope"
    if uses_mrope(target):  # the drafter's positions are those of text: one section of all dimensions
        yield "rope.dimension_sections", "array", [config.head_dim // 2, 0, 0, 0]


def _window_keys(config: DrafterConfig) -> Iterator[Key]:
    always = bool(config.dflash.get("use_swa", False))
    window = config.dflash.get("swa_window_size") or config.values.get("sliding_window")
    if (always or config.values.get("use_sliding_window")) and window:
        types = config.values.get("layer_types")
        types = ["sliding_attention"] * config.n_layers if always else types if isinstance(types, list) else []
        yield "attention.sliding_window", "uint32", window
        yield "attention.sliding_window_pattern", "array", [t == "sliding_attention" for t in types]


def uses_mrope(target: GgufFile) -> bool:
    """Whether a target takes positions in sections."""
    return f"{target.arch}.rope.dimension_sections" in target.values
