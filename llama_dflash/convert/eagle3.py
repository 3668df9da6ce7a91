"""EAGLE-3 heads, as three packages publish them: SafeAILab's and specforge's flat configs (a class with one "midlayer"), and
speculators' nested one, whose first layer is of Llama or Qwen3. What a key means is what its package's class makes of it
(docs/drafters.md); plan() turns a checkpoint into what llama.cpp's architecture "eagle3" reads.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import numpy.typing as npt

from ..gguf_file import GgufFile
from .activation import activation
from .checkpoint import Checkpoint, Source, as_float32
from .config import QWEN3_DEFAULTS, DrafterConfig, check_not_quantised, check_objects, rope_settings
from .plan import Key, Plan, check_is_target, checked
from .rope import DEFAULT_THETA, Rotary, rotary
from .tensors import Tensor, plain_name, shared_with_target, some_names, token_ids

ARCH = "eagle3"
KIND = "EAGLE-3"
ARCHITECTURES = ("LlamaForCausalLMEagle3", "Eagle3LlamaForCausalLM", "Eagle3DraftModel", "Eagle3Speculator")
_MODEL_TYPES = ("llama", "qwen3")  # whose layers speculators builds heads from

# Settings of NVIDIA's and specforge's "eagle_config", with the values at which they change nothing here.
_EAGLE_CONFIG: Dict[str, Tuple[Any, ...]] = {
    "use_aux_hidden_state": (True,),
    "use_input_layernorm_in_first_layer": (True,),
    "use_last_layernorm": (True,),
    "use_mtp_layernorm": (False,),
    "next_layer_regular": (True,),
    "has_lm_head": (True, False),
    "parallel_draft_step": (0, 1),
    "parallel_draft_heads_num_layers": (0, 1),
}
# Settings beside the transformer's that would change what is drafted.
_UNKNOWN_TO_THE_GRAPH: Dict[str, Tuple[Any, ...]] = {
    "mlp_bias": (False,),
    "parallel_drafting": (False,),
    "num_eagle_features": (3,),
}

_NAMES = {
    "fc.weight": "fc.weight",
    "norm.weight": "output_norm.weight",
    "embed_tokens.weight": "token_embd.weight",
    "lm_head.weight": "output.weight",
    "input_norm.weight": "enc.output_norm.weight",
}
_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
    "hidden_norm.weight": "attn_norm_2.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_proj.bias": "attn_q.bias",
    "self_attn.k_proj.bias": "attn_k.bias",
    "self_attn.v_proj.bias": "attn_v.bias",
    "self_attn.o_proj.bias": "attn_output.bias",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
# llama.cpp rotates an eagle3 head's pairs (0, 1), (2, 3), …; the classes' are (0, d/2), (1, d/2 + 1), …
_ROTATED = (
    *("attn_q.weight", "attn_k.weight", "attn_q.bias", "attn_k.bias"),
    *("attn_q_norm.weight", "attn_k_norm.weight"),
)
_BIASES = tuple(f"self_attn.{name}_proj.bias" for name in "qkvo")
_OPTIONAL = ("embed_tokens.weight", "lm_head.weight", *_BIASES)


class Eagle3Config(DrafterConfig):
    """What a head's config says, in one schema: "flat" or "speculators"."""

    @property
    def n_layers(self) -> int:
        """SafeAILab's and specforge's class has one whatever the config says."""
        return super().n_layers if self.is_speculators else 1

    @property
    def n_heads_kv(self) -> int:
        return self.number("num_key_value_heads") if self.find("num_key_value_heads") else self.n_heads

    @property
    def is_speculators(self) -> bool:
        return self.schema == "speculators"

    @property
    def has_head_norms(self) -> bool:
        """Queries and keys are normalised head by head."""
        return self.is_speculators and self.values.get("model_type") == "qwen3"

    @property
    def n_embd_target(self) -> int:
        return self.number("target_hidden_size") if self.find("target_hidden_size") else self.n_embd

    @property
    def rotary(self) -> Rotary:
        rope = rope_settings(self)
        kind = rope.get("rope_type")
        if kind == "mrope":  # specforge's, of images' positions: those of text are all the same
            rope = {"rope_type": "default", "rope_theta": rope.get("rope_theta")}
        if kind == "linear" and self.values.get("architectures") == ["LlamaForCausalLM"]:
            rope["rope_theta"] = DEFAULT_THETA  # SafeAILab's class leaves the config's out here
        if kind == "yarn" and not self.is_speculators:
            rope = _yarn_of_specforge(rope)
        return rotary(rope, self.head_dim, self.max_positions)

    def layer_inputs(self, n_target_layers: int) -> List[int]:
        """The target's layers whose inputs are features; n_target_layers is the last one's output, before the norm."""
        ids = self.values.get("eagle_aux_hidden_state_layer_ids")
        if not ids:
            outputs = (self.values.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids")
            ids = [i + 1 for i in _ids(outputs)] if outputs else [2, n_target_layers // 2, n_target_layers - 3]
        return _ids(ids)

    def flag(self, name: str, otherwise: bool) -> bool:
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"config.json has {name} = {value!r}, expected true or false")
        return otherwise if value is None else value


def _ids(value: Any) -> List[int]:
    if not isinstance(value, list) or not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
        raise ValueError(
            f"config.json has eagle_aux_hidden_state_layer_ids = {value!r}, expected a list of layer numbers"
        )
    return value


def _yarn_of_specforge(rope: Dict[str, Any]) -> Dict[str, Any]:
    """Its class knows neither attention_factor nor truncate, and takes mscale and mscale_all_dim as they are, 0 too."""

    def mscale(name: str, otherwise: float) -> float:
        weight, factor = rope.get(name), rope.get("factor")
        weight = otherwise if weight is None else weight
        if not isinstance(weight, (int, float)) or not isinstance(factor, (int, float)):
            raise ValueError(f"config.json has {name} = {weight!r} and factor = {factor!r} for yarn, expected numbers")
        return 1.0 if factor <= 1 else 0.1 * weight * float(np.log(factor)) + 1.0

    rope = {name: value for name, value in rope.items() if name != "truncate"}
    return {**rope, "attention_factor": mscale("mscale", 1.0) / mscale("mscale_all_dim", 0.0)}


def is_eagle3(raw: Dict[str, Any]) -> bool:
    """Whether a config.json is that of an EAGLE-3 head. SafeAILab's are of architecture LlamaForCausalLM, as models are, but
    with a drafter's vocabulary."""
    if "speculators_model_type" in raw:
        return raw["speculators_model_type"] == "eagle3"
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    return name in ARCHITECTURES or (name == "LlamaForCausalLM" and "draft_vocab_size" in raw)


def read_eagle3(raw: Dict[str, Any]) -> Eagle3Config:
    """
    Raises:
        ValueError: If a setting would change what is drafted and is not among what heads here have.
    """
    check_not_quantised(raw)
    check_objects(raw)
    is_speculators = "speculators_model_type" in raw or "transformer_layer_config" in raw
    values = dict(raw)
    if is_speculators:
        layer = raw.get("transformer_layer_config") or {}
        values = {**raw, "model_type": layer.get("model_type", "qwen3"), **layer}
        check_objects(values)
        if values["model_type"] == "qwen3":
            values = {**QWEN3_DEFAULTS, **values}
    else:
        values.setdefault("rms_norm_eps", 1e-6)  # LlamaConfig's and EConfig's
    config = Eagle3Config(KIND, "speculators" if is_speculators else "flat", values, {}, False)
    _check_settings(config)
    return config


def _check_settings(config: Eagle3Config) -> None:
    values, eagle = config.values, config.values.get("eagle_config") or {}
    if config.is_speculators and values["model_type"] not in _MODEL_TYPES:
        raise ValueError(
            f"config.json has model_type = {values['model_type']!r} in transformer_layer_config, expected one of"
            f" {', '.join(_MODEL_TYPES)}: EAGLE-3 heads of other layers do not convert"
        )
    if not isinstance(eagle, dict):
        raise ValueError(f"config.json has eagle_config = {eagle!r}, expected an object")
    unknown = sorted(set(eagle) - set(_EAGLE_CONFIG) - {"eagle_aux_hidden_state_layer_ids"})
    if unknown:
        raise ValueError(
            f"config.json has {unknown[0]} = {eagle[unknown[0]]!r} in eagle_config, a setting that is not known here and"
            " may change what is drafted: where it does not, remove it from config.json"
        )
    for where, known in ((eagle, _EAGLE_CONFIG), (values, _UNKNOWN_TO_THE_GRAPH)):
        for name, nothing in known.items():
            if where.get(name) is not None and where[name] not in nothing:
                raise ValueError(
                    f"config.json has {name} = {where[name]!r}, which changes what the head computes: only heads with"
                    f" {' or '.join(map(repr, nothing))} convert"
                )
    if config.is_speculators and "sliding_attention" in (values.get("layer_types") or []):
        raise ValueError(
            "config.json has sliding_attention among its layer_types: EAGLE-3 heads that see a window do not convert"
        )
    if config.flag("norm_before_fc", False) and config.flag("fc_norm", False):
        raise ValueError("config.json has both norm_before_fc and fc_norm, expected one of them at most")


def plan(checkpoint: Checkpoint, target: GgufFile) -> Plan:
    """What a head's GGUF file holds.

    Raises:
        ValueError: If the checkpoint is incomplete or damaged, or was not made for the target.
    """
    config = read_eagle3(checkpoint.config)
    check_is_target(target)
    _check_target(config, target)
    found = _found(config, checkpoint.tensors, target)
    return Plan(
        ARCH,
        list(checked(_keys(config, target))),
        list(_tensors(config, found, target)),
        [source.dtype for source in found.values() if len(source.shape) > 1],
        None,
    )


def _check_target(config: Eagle3Config, target: GgufFile) -> None:
    other = "this head was made for another target"
    n_embd, n_layers = target.of_arch("embedding_length"), target.n_layers
    if config.n_embd_target != n_embd:
        raise ValueError(
            f"the head reads features of size {config.n_embd_target} (target_hidden_size, else hidden_size), the target"
            f" {target.path} has {n_embd}: {other}"
        )
    if config.n_vocab != target.n_vocab:
        raise ValueError(
            f"the head has a vocabulary of {config.n_vocab} tokens, the target {target.path} of {target.n_vocab}: {other}"
        )
    outside = [i for i in config.layer_inputs(n_layers) if not 0 <= i <= n_layers]
    if outside:
        raise ValueError(
            f"the head reads the input of the target's layer {outside[0]}, {target.path} has layers 0 to {n_layers - 1}"
            f" (and {n_layers}, the last one's output): {other}"
        )


def _plain_name(name: str) -> str:
    name = plain_name(name)
    return "layers.0." + name[len("midlayer.") :] if name.startswith("midlayer.") else name


def _found(config: Eagle3Config, sources: Dict[str, Source], target: GgufFile) -> Dict[str, Source]:
    """The tensors of a checkpoint by speculators' names."""
    ignored = ("t2d", "rotary_emb.inv_freq", "verifier_lm_head.weight", "verifier_norm.weight")
    found = {_plain_name(name): source for name, source in sources.items() if not name.endswith(ignored)}
    if config.n_draft_vocab == config.n_vocab and "d2t" in found:  # of the whole vocabulary: distances of 0
        if found.pop("d2t").read().any():
            raise ValueError("d2t moves tokens of a head that has the target's whole vocabulary: the checkpoint is damaged")
    shapes = _shapes(config, found, target)
    missing = [name for name in shapes if name not in found and not name.endswith(_OPTIONAL)]
    if config.n_draft_vocab < config.n_vocab and "lm_head.weight" not in found:
        missing.append("lm_head.weight")
    if config.n_embd != config.n_embd_target:
        missing += [name for name in ("embed_tokens.weight", "lm_head.weight") if name not in found]
    if missing:
        raise ValueError(
            f"the checkpoint lacks {some_names(missing)}, which an EAGLE-3 head of {config.n_layers} layers has: it is"
            " incomplete, or config.json is of another one"
        )
    if unknown := sorted(set(found) - set(shapes)):
        raise ValueError(
            f"the checkpoint has {some_names(unknown)}, which EAGLE-3 heads of this config do not have: it can't be"
            " converted"
        )
    for name, shape in shapes.items():
        if name in found and found[name].shape != shape:
            raise ValueError(
                f"tensor {name} has shape {list(found[name].shape)}, expected {list(shape)} by config.json: weights and"
                " config are of different heads"
            )
    return found


def _shapes(config: Eagle3Config, found: Dict[str, Source], target: GgufFile) -> Dict[str, Tuple[int, ...]]:
    """Every tensor that the head has or may have."""
    n_embd, n_in = config.n_embd, config.n_embd_target
    n_parts = len(config.layer_inputs(target.n_layers))
    shapes: Dict[str, Tuple[int, ...]] = {
        "fc.weight": (n_embd, n_parts * n_in),
        "norm.weight": (n_embd,),
        "embed_tokens.weight": (config.n_vocab, n_embd),
        "lm_head.weight": (config.n_draft_vocab, n_embd),
    }
    if config.n_draft_vocab < config.n_vocab:
        shapes["d2t"] = (config.n_draft_vocab,)
    if config.flag("norm_before_fc", False):
        shapes["input_norm.weight"] = (n_parts * n_in,)
    if config.flag("fc_norm", False):
        shapes.update({f"fc_norm.{i}.weight": (n_in,) for i in range(n_parts)})
    for i in range(config.n_layers):
        shapes.update({f"layers.{i}.{name}": shape for name, shape in _layer_shapes(config, i).items()})
    for name in (f"layers.{i}.{bias}" for i in range(config.n_layers) for bias in _BIASES):
        if name in found or (config.is_speculators and config.has_biases):
            shapes[name] = shapes[name.replace(".bias", ".weight")][:1]
    return shapes


def _layer_shapes(config: Eagle3Config, layer: int) -> Dict[str, Tuple[int, ...]]:
    n_embd, n_ff = config.n_embd, config.n_ff
    n_q, n_kv = config.n_heads * config.head_dim, config.n_heads_kv * config.head_dim
    n_in = 2 * n_embd if layer == 0 else n_embd  # the first one sees the token's embedding as well
    shapes: Dict[str, Tuple[int, ...]] = {
        "input_layernorm.weight": (n_embd,),
        "post_attention_layernorm.weight": (n_embd,),
        "self_attn.q_proj.weight": (n_q, n_in),
        "self_attn.k_proj.weight": (n_kv, n_in),
        "self_attn.v_proj.weight": (n_kv, n_in),
        "self_attn.o_proj.weight": (n_embd, n_q),
        "mlp.gate_proj.weight": (n_ff, n_embd),
        "mlp.up_proj.weight": (n_ff, n_embd),
        "mlp.down_proj.weight": (n_embd, n_ff),
    }
    if layer == 0:
        shapes["hidden_norm.weight"] = (n_embd,)
    if config.has_head_norms:
        shapes["self_attn.q_norm.weight"] = shapes["self_attn.k_norm.weight"] = (config.head_dim,)
    return shapes


def _keys(config: Eagle3Config, target: GgufFile) -> Iterator[Key]:
    """By the names of llama.cpp's converter and three more (native/libllama/llama-eagle3.h)."""
    rope = config.rotary
    yield "block_count", "uint32", config.n_layers
    yield "context_length", "uint32", config.max_positions or target.of_arch("context_length")
    yield "embedding_length", "uint32", config.n_embd
    yield "feed_forward_length", "uint32", config.n_ff
    yield "attention.head_count", "uint32", config.n_heads
    yield "attention.head_count_kv", "uint32", config.n_heads_kv
    yield "attention.key_length", "uint32", config.head_dim
    yield "attention.value_length", "uint32", config.head_dim
    yield "attention.layer_norm_rms_epsilon", "float32", config.values.get("rms_norm_eps")
    yield "rope.freq_base", "float32", rope.theta
    yield "rope.dimension_count", "uint32", config.head_dim
    if rope.attention_factor != 1.0:
        yield "rope.scaling.attn_factor", "float32", rope.attention_factor
    yield "vocab_size", "uint32", config.n_vocab
    yield "target_layers", "array", config.layer_inputs(target.n_layers)
    yield "target_hidden_size", "uint32", config.n_embd_target
    yield "norm_before_residual", "bool", config.flag("norm_before_residual", False)
    yield "norm_before_fc", "bool", config.flag("norm_before_fc", False) or config.flag("fc_norm", False)
    yield "hidden_activation", "string", activation(config.values)
    if config.is_speculators:
        yield "norm_output", "bool", config.flag("norm_output", False)
    elif not config.flag("norm_output", True):
        yield "norm_before_head", "bool", False


def _tensors(config: Eagle3Config, found: Dict[str, Source], target: GgufFile) -> Iterator[Tensor]:
    if (divisors := config.rotary.divisors) is not None:
        yield Tensor("rope_freqs.weight", divisors.shape, "F32", values=divisors)
    shared = shared_with_target(config, found, target) if config.n_embd == config.n_embd_target else []
    norms = [name for name in found if name.startswith("fc_norm.")]
    if norms:
        values = np.stack([_floats(found[f"fc_norm.{i}.weight"]) for i in range(len(norms))])
        yield Tensor("enc.output_norm.weight", values.shape, "F32", values=values)
    for name, source in found.items():
        if name not in ("d2t", *shared, *norms):
            yield _tensor(config, name, source)
    if "d2t" in found:
        ids = token_ids(found["d2t"], config.n_vocab)
        yield Tensor("d2t", ids.shape, "I64", values=ids)


def _tensor(config: Eagle3Config, name: str, source: Source) -> Tensor:
    if not name.startswith("layers."):
        return Tensor(_NAMES[name], source.shape, source.dtype, source)
    _, layer, rest = name.split(".", 2)
    new_name = f"blk.{layer}.{_LAYER[rest]}"
    if new_name.endswith(_ROTATED):
        return Tensor(new_name, source.shape, "F32", values=_side_by_side(_floats(source), config.head_dim))
    return Tensor(new_name, source.shape, source.dtype, source)


def _floats(source: Source) -> npt.NDArray[np.float32]:
    return as_float32(source.read(), source.dtype)


def _side_by_side(values: npt.NDArray[np.float32], head_dim: int) -> npt.NDArray[np.float32]:
    halves = values.reshape(-1, 2, head_dim // 2, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
