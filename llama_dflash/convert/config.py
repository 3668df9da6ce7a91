"""What a drafter's config.json says, in one schema (keys.py makes the keys of the GGUF file of it).

Kinds and the schemas they are published in: DFlash, DFlash2, DSpark and Domino with their settings under "dflash_config"
(z-lab, specforge, NVIDIA), DSpark flat (DeepSpec; also for Gemma 4), the first three nested, with a
"transformer_layer_config" and "aux_hidden_state_layer_ids" (speculators). What a key means is what the class that its authors
publish makes of it (docs/drafters.md), not what llama.cpp's converter does: attention.py and rope.py say where the two differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from .attention import Attention, attention, layer_types
from .rope import Rotary, rotary

ARCHITECTURES = {
    "DFlashDraftModel": "DFlash",
    "DFlashSpeculator": "DFlash",
    "DFlash2DraftModel": "DFlash2",
    "DFlash2Speculator": "DFlash2",
    "Qwen3DSparkModel": "DSpark",
    "DSparkDraftModel": "DSpark",
    "DSparkSpeculator": "DSpark",
    "Lfm2DSparkDraftModel": "DSpark",
    "LingDSparkModel": "DSpark",
    "Gemma4DSparkModel": "Gemma4 DSpark",
    "DominoDraftModel": "Domino",
}
# What transformers' Qwen3Config, which llama.cpp's converter asks first, takes for what a config leaves out.
QWEN3_DEFAULTS = {"head_dim": 128, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768}
# What speculators' checkpoints say instead of an architecture.
SPECULATORS = {"dflash": "DFlash", "dflash2": "DFlash2", "dspark": "DSpark"}

# Settings of a drafter's own, in "dflash_config". What is not here might change what is computed.
_DFLASH_SETTINGS = frozenset(
    (
        *("mask_token_id", "target_layer_ids", "num_target_layers", "block_size", "sample_from_anchor"),
        *("use_swa", "swa_window_size", "causal", "attention_sink_bias", "attention_value_scale"),
        *("input_embedding_scale", "output_multiplier", "final_logit_softcapping"),
        *("conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k"),
        *("projector_type", "markov_rank", "markov_head_type", "enable_confidence_head", "confidence_head_with_markov"),
        *("emb_dim", "gru_hidden_dim", "pure_draft_prefix_len", "shift_label"),
        # of training, of a server, or of a shape that the tensors have
        *("confidence_head_alpha", "attention_mode", "num_anchors"),
        *("runtime_block_size", "draft_window_size", "block_size_policy", "dflash_initial_block_size"),
        *("prefer_requested_block_size",),
    )
)
# Settings that forks of the classes read and the graph here does not have, with the value at which they do nothing.
_UNKNOWN_TO_THE_GRAPH = {
    "log_snr_conditioning": False,
    "enable_qwen35_gated_q_proj": False,
    "mlp_bias": False,
}
MARKOV_HEADS = ("vanilla", "gated", "rnn")
DFLASH2_SETTINGS = ("conv_kernel_size", "conv_group_size", "selector_rank", "selector_top_k")


@dataclass(frozen=True)
class DrafterConfig:
    """What a config says, in one schema."""

    kind: str  # a value of ARCHITECTURES
    schema: str  # "dflash" (settings in dflash_config), "flat" (DeepSpec) or "speculators"
    values: Dict[str, Any]
    dflash: Dict[str, Any]  # "dflash_config", made from their own keys where the other schemas have none
    samples_from_anchor: bool  # the block's first position, where the root stands, predicts the token after it

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
        return whole(names[0], value)

    def find(self, *names: str) -> Any:
        return next((self.values[name] for name in names if self.values.get(name) is not None), None)

    def setting(self, name: str) -> Any:
        """One of the drafter's own settings, which are in "dflash_config" or beside it."""
        return self.dflash.get(name, self.values.get(name))

    def whole_setting(self, name: str) -> int:
        """A positive whole number under "dflash_config"."""
        return whole(name, self.dflash.get(name))

    @property
    def is_gemma(self) -> bool:
        return self.kind == "Gemma4 DSpark"

    @property
    def is_dspark(self) -> bool:
        return self.kind == "DSpark"

    @property
    def is_domino(self) -> bool:
        return self.kind == "Domino"

    @property
    def has_biases(self) -> bool:
        """Whether the four matrices of attention have biases."""
        return bool(self.values.get("attention_bias"))

    @property
    def markov_head(self) -> str:
        """One of MARKOV_HEADS."""
        return self.setting("markov_head_type") or MARKOV_HEADS[0]

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
    def attention(self) -> Attention:
        return attention(self)

    @property
    def layer_types(self) -> List[str]:
        """Of every layer: "full_attention" or "sliding_attention"."""
        return layer_types(self)

    @property
    def markov_rank(self) -> Optional[int]:
        """Of the Markov head; 0 for none, None if the config does not say."""
        rank = self.setting("markov_rank")
        if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < 2**20):
            raise ValueError(f"config.json has markov_rank = {rank!r}, expected a whole number, 0 for no Markov head")
        return rank

    @property
    def rotary(self) -> Rotary:
        return rotary(rope_settings(self), self.head_dim, self.max_positions)

    @property
    def max_positions(self) -> Optional[int]:
        names = ("max_position_embeddings", "n_ctx", "max_sequence_length", "model_max_length")
        return self.number(*names) if self.find(*names) is not None else None

    def target_layers(self, n_target_layers: int) -> List[int]:
        """The target's layers whose outputs are features; -1 is its embeddings.

        Args:
            n_target_layers: Of the target. Configs that name no layers are of the reference classes' own choice for it.
        """
        ids = self.setting("target_layer_ids")
        if ids is None and self.schema == "dflash":
            return default_target_layers(self.find("num_target_layers") or n_target_layers, self.n_layers)
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
        mask = self.setting("mask_token_id")
        if isinstance(mask, bool) or not isinstance(mask, int):
            raise ValueError(
                f"config.json has mask_token_id = {mask!r}, expected the number of the mask token, which drafts start"
                " from"
            )
        return mask


def whole(name: str, value: Any, most: int = 2**31 - 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"config.json has {name} = {value!r}, expected a whole number from 1 to {most}")
    return value


def _layers(value: Any) -> int:
    return whole("num_hidden_layers", value, 512)  # llama.cpp's limit


def _is_ids(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(i, int) and not isinstance(i, bool) for i in value)
    )


def default_target_layers(n_target_layers: int, n_layers: int) -> List[int]:
    """The layers that the reference classes read where a config names none (build_target_layer_ids of dflash and
    specforge)."""
    n_target_layers = whole("num_target_layers", n_target_layers)
    if n_layers == 1:
        return [n_target_layers // 2]
    span = n_target_layers - 4
    ids = [round(1 + i * span / (n_layers - 1)) for i in range(n_layers)]
    if min(ids) < 0:
        raise ValueError(
            f"config.json names no target layers (target_layer_ids), and {n_layers} of a target of {n_target_layers}"
            " layers can't be chosen: fetch the original config"
        )
    return ids


def read_config(raw: Dict[str, Any]) -> DrafterConfig:
    """What config.json holds, in one schema.

    Raises:
        ValueError: If it is no drafter's, one of a kind that does not convert, or has a setting that would change what is
            drafted and that drafters here do not have.
    """
    kind = _kind(raw)
    check_not_quantised(raw)
    check_objects(raw)
    schema = _schema(kind, raw)
    # a config made from that of a multimodal target holds it whole; the drafter's classes read the top level
    values = _as_transformers_reads_it({**(raw.get("text_config") or {}), **raw}, schema)
    if kind == "Gemma4 DSpark":
        _check_gemma(values)
    dflash = dict(values.get("dflash_config") or {}) if schema == "dflash" else _own_settings(values)
    _check_settings(kind, values, dflash)
    return DrafterConfig(kind, schema, values, dflash, _samples_from_anchor(kind, schema, values, dflash))


def _kind(raw: Dict[str, Any]) -> str:
    if (named := raw.get("speculators_model_type")) is not None:
        if not isinstance(named, str) or named not in SPECULATORS:
            raise ValueError(
                f"config.json is of speculators_model_type {named!r}, expected {', '.join(SPECULATORS)} or eagle3: other speculators"
                " do not convert"
            )
        return SPECULATORS[named]
    architectures = raw.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    if isinstance(architecture, str) and architecture.startswith(("Qwen35DSpark", "Qwen3_5DSpark")):
        raise ValueError(
            f"config.json is of architecture {architecture!r}: the gated attention of this class is not among what"
            " drafters here compute. Drafters of the class Qwen3DSparkModel serve Qwen3.5 targets, too"
        )
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ValueError(
            f"config.json is of architecture {architecture!r}, expected that of a drafter: {', '.join(ARCHITECTURES)}"
            " or, of EAGLE-3, LlamaForCausalLMEagle3. "
            "Targets and other models convert with llama.cpp's convert_hf_to_gguf.py"
        )
    return ARCHITECTURES[architecture]


def _schema(kind: str, raw: Dict[str, Any]) -> str:
    if any(name in raw for name in ("speculators_model_type", "transformer_layer_config", "aux_hidden_state_layer_ids")):
        return "speculators"
    return "flat" if kind in ("DSpark", "Gemma4 DSpark") and not raw.get("dflash_config") else "dflash"


def check_not_quantised(raw: Dict[str, Any]) -> None:
    if raw.get("quantization_config"):
        raise ValueError(
            "config.json says that the checkpoint is quantised (quantization_config): take the original one, in BF16"
            " or F16"
        )


def check_objects(values: Dict[str, Any]) -> None:
    names = ("dflash_config", "text_config", "transformer_layer_config", "speculators_config")
    for name in (*names, "rope_parameters", "rope_scaling"):
        if not isinstance(values.get(name), (dict, type(None))):
            raise ValueError(f"config.json has {name} = {values[name]!r}, expected an object")


def _as_transformers_reads_it(values: Dict[str, Any], schema: str) -> Dict[str, Any]:
    """The settings with those that Qwen3Config adds, which all classes but Gemma 4's are configured by."""
    if schema == "speculators":
        layer = values.get("transformer_layer_config") or {}
        values = {**values, "model_type": layer.get("model_type", "qwen3"), **layer}
        check_objects(values)
    return {**QWEN3_DEFAULTS, **values} if values.get("model_type") == "qwen3" else dict(values)


def _own_settings(values: Dict[str, Any]) -> Dict[str, Any]:
    """A "dflash_config" for the schemas that have none."""
    names = ("target_layer_ids", "mask_token_id", *DFLASH2_SETTINGS)
    own = {name: values[name] for name in names if name in values}
    if "aux_hidden_state_layer_ids" in values:  # counted as inputs of layers, not as outputs
        ids = values["aux_hidden_state_layer_ids"]
        if not _is_ids(ids):
            raise ValueError(f"config.json has aux_hidden_state_layer_ids = {ids!r}, expected a list of layer numbers")
        own["target_layer_ids"] = [i - 1 for i in ids]
    return own


def _samples_from_anchor(kind: str, schema: str, values: Dict[str, Any], dflash: Dict[str, Any]) -> bool:
    if kind == "Domino":
        return bool(dflash.get("shift_label"))
    said = dflash.get("sample_from_anchor", values.get("sample_from_anchor"))
    if said is None and schema == "speculators":  # older exports: as many tokens are proposed as there are positions
        return _proposed_tokens(values) == values.get("block_size")
    if said is None:  # DSpark drafters do; specforge's are trained so, too
        return kind in ("DSpark", "Gemma4 DSpark") and not values.get("dspark_bonus_anchor")
    if not isinstance(said, bool):
        raise ValueError(f"config.json has sample_from_anchor = {said!r}, expected true or false")
    return said


def _proposed_tokens(values: Dict[str, Any]) -> Any:
    """What a speculators config says of the number of tokens that a block proposes; None if nothing."""
    methods = (values.get("speculators_config") or {}).get("proposal_methods")
    first = methods[0] if isinstance(methods, list) and methods else None
    return first.get("speculative_tokens") if isinstance(first, dict) else None


def _check_settings(kind: str, values: Dict[str, Any], dflash: Dict[str, Any]) -> None:
    unknown = sorted(set(dflash) - _DFLASH_SETTINGS)
    if unknown:
        raise ValueError(
            f"config.json has {unknown[0]} = {dflash[unknown[0]]!r} in dflash_config, a setting that is not known here and"
            " may change what is drafted: where it does not, remove it from config.json"
        )
    for name, nothing in _UNKNOWN_TO_THE_GRAPH.items():
        if values.get(name) not in (None, nothing):
            raise ValueError(
                f"config.json has {name} = {values[name]!r}, which changes what the drafter computes and is not among"
                " what drafters here have"
            )
    head = dflash.get("markov_head_type", values.get("markov_head_type"))
    if head is not None and head not in MARKOV_HEADS:
        raise ValueError(f"config.json has markov_head_type = {head!r}, expected one of {', '.join(MARKOV_HEADS)}")
    projector = dflash.get("projector_type")
    if projector is not None and projector != "dflash" and projector != kind.lower():
        raise ValueError(
            f"config.json has projector_type = {projector!r} for a {kind} drafter: a head of this kind does not convert"
        )


def rope_settings(config: DrafterConfig) -> Dict[str, Any]:
    """Rotary settings, which are spread over the config in several ways, as transformers' classes find them.

    A partial_rotary_factor that comes from the target's config is of no consequence here: Qwen3's rotary embedding, which
    all drafters but Gemma 4's have, rotates whole heads (rope.py takes it for the kinds that use it).
    """
    values = config.values
    rope = dict(values.get("rope_scaling") or values.get("rope_parameters") or {})
    if config.is_gemma and not rope:
        rope = {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0}
    rope = dict(_of_layer_type(config, rope))
    rope.setdefault("rope_type", rope.get("type", "default"))
    for name in ("rope_theta", "partial_rotary_factor"):
        if values.get(name) is not None and rope.get(name) is None:
            rope[name] = values[name]
    if values.get("original_max_position_embeddings") is not None:
        rope["original_max_position_embeddings"] = values["original_max_position_embeddings"]
    return rope


def _of_layer_type(config: DrafterConfig, rope: Dict[str, Any]) -> Dict[str, Any]:
    """The settings of the drafter's layers, where each type of layer has its own."""
    nested = {name: entry for name, entry in rope.items() if name.endswith("_attention")}
    if not nested:
        return rope
    if wrong := [name for name, entry in nested.items() if not isinstance(entry, dict)]:
        raise ValueError(f"config.json has rotary settings for {wrong[0]} = {nested[wrong[0]]!r}, expected an object")
    if config.schema == "speculators" and "sliding_attention" in nested:
        return nested["sliding_attention"]  # for all layers (flatten_rope_parameters)
    used = ["full_attention"] if config.is_gemma else sorted(set(config.layer_types))
    if missing := [name for name in used if name not in nested]:
        raise ValueError(f"config.json has rotary settings for {', '.join(nested)}, but not for {missing[0]}")
    if any(nested[name] != nested[used[0]] for name in used):
        raise ValueError(
            f"config.json has different rotary settings for {' and '.join(used)} layers, of which drafters have one for all"
        )
    return nested[used[0]]


def _check_gemma(values: Dict[str, Any]) -> None:
    n_layers = _layers(values.get("num_hidden_layers"))
    if (softcap := values.get("final_logit_softcapping")) is not None and not (
        isinstance(softcap, (int, float)) and softcap > 0
    ):
        raise ValueError(f"config.json has final_logit_softcapping = {softcap!r}, expected a positive number or null")
    expected: List[Tuple[str, Any, Any]] = [
        ("attention_k_eq_v", bool(values.get("attention_k_eq_v")), True),
        ("layer_types", values.get("layer_types"), ["full_attention"] * n_layers),
        ("hidden_activation", values.get("hidden_activation", "gelu_pytorch_tanh"), "gelu_pytorch_tanh"),
        ("attention_bias", bool(values.get("attention_bias")), False),
        ("enable_moe_block", bool(values.get("enable_moe_block")), False),
        ("draft_vocab_size", values.get("draft_vocab_size") or values.get("vocab_size"), values.get("vocab_size")),
    ]
    for name, found, needed in expected:
        if found != needed:
            raise ValueError(
                f"config.json has {name} = {found!r}; of Gemma 4's DSpark drafters only those with {needed!r} convert"
            )
