"""A drafter's tensors: their names in a checkpoint and in GGUF, the shapes they must have, and their values as ggml
wants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import numpy.typing as npt

from ..gguf_file import GgufFile
from .checkpoint import Source, as_float32
from .copies import is_copy
from .config import DrafterConfig

# name in the checkpoint: name in GGUF. {i}: the layer
_BASE = {
    "fc.weight": "fc.weight",
    "hidden_norm.weight": "enc.output_norm.weight",
    "norm.weight": "output_norm.weight",
    "embed_tokens.weight": "token_embd.weight",
    "lm_head.weight": "output.weight",
    "markov_head.markov_w1.weight": "markov_w1.weight",
    "markov_head.markov_w2.weight": "markov_w2.weight",
    "markov_head.gate_proj.weight": "draft_head.gate.weight",
    "markov_head.gate_proj.bias": "draft_head.gate.bias",
    "markov_head.joint_proj.weight": "draft_head.joint.weight",
    "markov_head.joint_proj.bias": "draft_head.joint.bias",
    "prefix_gru.weight_ih_l0": "draft_head.gru_input.weight",
    "prefix_gru.weight_hh_l0": "draft_head.gru_state.weight",
    "embed_proj.0.weight": "draft_head.inner.weight",
    "embed_proj.2.weight": "draft_head.outer.weight",
    "confidence_head.proj.weight": "conf_proj.weight",
    "confidence_head.proj.bias": "conf_proj.bias",
    "candidate_selector.predecessor_codebook": "selector_predecessor.weight",
    "candidate_selector.successor_codebook": "selector_successor.weight",
    "candidate_selector.hidden_projection.weight": "selector_hidden.weight",
    "d2t": "d2t",
}
_LAYER = {
    "input_layernorm.weight": "attn_norm.weight",
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
    "self_attn.sinks": "attn_sinks.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "attention_conv.base_kernel": "attn_conv_base",
    "attention_conv.kernel_projection.weight": "attn_conv_proj.weight",
    "mlp_conv.base_kernel": "ffn_conv_base",
    "mlp_conv.kernel_projection.weight": "ffn_conv_proj.weight",
}
_GEMMA_LAYER = {
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    "layer_scalar": "layer_output_scale.weight",
}
# other spellings, by how a name ends
_SPELLINGS = {
    "self_attn.sinks.weight": "self_attn.sinks",
    "self_attn.attention_sink_bias": "self_attn.sinks",
    "self_attn.learnable_sink_param": "self_attn.sinks",
    "confidence_proj.weight": "confidence_head.proj.weight",
    "confidence_proj.bias": "confidence_head.proj.bias",
    "candidate_selector.predecessor_codebook.weight": "candidate_selector.predecessor_codebook",
    "candidate_selector.successor_codebook.weight": "candidate_selector.successor_codebook",
    "layer_scalar.weight": "layer_scalar",
}
_OPTIONAL = (
    "embed_tokens.weight",
    "lm_head.weight",
    "confidence_head.proj.weight",
    "confidence_head.proj.bias",
    "self_attn.sinks",
)
# nothing that drafts reads them; speculators' older checkpoints hold a copy of the target's head and norm
_IGNORED = (
    *("t2d", "rotary_emb.inv_freq", "attention.bias", "attention.masked_bias"),
    *("verifier_lm_head.weight", "verifier_norm.weight"),
)
_INTERLEAVED = (
    *("attn_q.weight", "attn_k.weight", "attn_q.bias", "attn_k.bias"),
    *("attn_q_norm.weight", "attn_k_norm.weight"),
)


@dataclass(frozen=True)
class Tensor:
    """One tensor to write: from a checkpoint, or made here (`values`)."""

    name: str  # in GGUF
    shape: Tuple[int, ...]  # as numpy has it: the row's length last
    dtype: str  # of what `chunks` yields, by safetensors' names
    source: Optional[Source] = None
    values: Optional[npt.NDArray[Any]] = None

    def chunks(self) -> Iterator[npt.NDArray[Any]]:
        """Its rows, some at a time."""
        if self.values is not None:
            yield self.values.reshape(-1, self.shape[-1])
        else:
            yield from self.source.chunks()


def check_tensors(config: DrafterConfig, sources: Dict[str, Source], n_target_layers: int) -> Dict[str, Source]:
    """The tensors of a checkpoint by the names used here.

    Raises:
        ValueError: If one is missing, unknown, or of a shape that does not go with the config.
    """
    found = {plain_name(name): source for name, source in sources.items()}
    found = {name: source for name, source in found.items() if not name.endswith(_IGNORED)}
    found = _without_idle_heads(config, found)
    expected = _expected_shapes(config, found, n_target_layers)
    optional = [
        name for name in expected if name.endswith(_OPTIONAL) and not (name == "lm_head.weight" and _needs_head(config))
    ]
    missing = [name for name in expected if name not in found and name not in optional]
    if missing:
        raise ValueError(
            f"the checkpoint lacks {some_names(missing)}, which a {config.kind} drafter of {config.n_layers} layers has: it"
            " is incomplete, or config.json is of another one"
        )
    unknown = sorted(set(found) - set(expected))
    if unknown:
        raise ValueError(
            f"the checkpoint has {some_names(unknown)}, which llama.cpp's {config.kind} drafters do not have: it can't be"
            " converted"
        )
    for name, shape in expected.items():
        if name in found and found[name].shape != shape:
            raise ValueError(
                f"tensor {name} has shape {list(found[name].shape)}, expected {list(shape)} by config.json: weights and"
                " config are of different drafters"
            )
    return found


def _without_idle_heads(config: DrafterConfig, found: Dict[str, Source]) -> Dict[str, Source]:
    """Draft trees do not ask a confidence head (their nodes have probabilities), and llama.cpp has a place only for one that
    sees the Markov head's embedding, too."""
    with_markov = config.setting("confidence_head_with_markov")
    if _rank(config, found) and with_markov in (None, True):
        return found
    return {name: source for name, source in found.items() if not name.startswith("confidence_head.")}


def _rank(config: DrafterConfig, found: Dict[str, Source]) -> int:
    """Of the Markov head, 0 if there is none."""
    if config.markov_rank is not None:
        return config.markov_rank
    w1 = found.get("markov_head.markov_w1.weight")
    return w1.shape[1] if w1 is not None and len(w1.shape) == 2 else 0


def _needs_head(config: DrafterConfig) -> bool:
    """Whether the target's output head can't serve."""
    return config.n_draft_vocab < config.n_vocab or (
        config.is_gemma and config.values.get("tie_word_embeddings") is not True
    )


def plain_name(name: str) -> str:
    """A tensor's name without what exports put before it, in the spelling used here."""
    name = name.replace("language_model.", "")
    for prefix in ("model.", "logit_head."):  # the second of specforge's early Domino and DSpark drafters
        name = name[len(prefix) :] if name.startswith(prefix) else name
    for other, ours in _SPELLINGS.items():
        if name.endswith(other):
            return name[: -len(other)] + ours
    return name


def some_names(names: List[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more tensors" if len(names) > 3 else "")


def _expected_shapes(
    config: DrafterConfig, found: Dict[str, Source], n_target_layers: int
) -> Dict[str, Tuple[int, ...]]:
    """Every tensor that the drafter has or may have. Ranks are those of the tensors themselves."""
    n_embd, n_vocab, n_draft = config.n_embd, config.n_vocab, config.n_draft_vocab
    shapes: Dict[str, Tuple[int, ...]] = {
        "fc.weight": (n_embd, n_embd * len(config.target_layers(n_target_layers))),
        "hidden_norm.weight": (n_embd,),
        "norm.weight": (n_embd,),
        "embed_tokens.weight": (n_vocab, n_embd),
        "lm_head.weight": (n_draft, n_embd),
    }
    if n_draft < n_vocab:
        shapes["d2t"] = (n_draft,)
    if (config.is_dspark or config.is_gemma) and (rank := _rank(config, found)):
        shapes["markov_head.markov_w1.weight"] = (n_vocab, rank)
        shapes["markov_head.markov_w2.weight"] = (n_draft, rank)
        shapes["confidence_head.proj.weight"] = (1, n_embd + rank)
        shapes["confidence_head.proj.bias"] = (1,)
        shapes.update(_markov_shapes(config.markov_head, n_embd, rank))
    if config.is_domino:
        inner, state = config.whole_setting("emb_dim"), config.whole_setting("gru_hidden_dim")
        shapes["prefix_gru.weight_ih_l0"] = (3 * state, n_embd)
        shapes["prefix_gru.weight_hh_l0"] = (3 * state, state)
        shapes["embed_proj.0.weight"] = (inner, n_embd + state)
        shapes["embed_proj.2.weight"] = (n_vocab, inner)
    if config.kind == "DFlash2":
        rank = config.whole_setting("selector_rank")
        shapes["candidate_selector.predecessor_codebook"] = (n_vocab, rank)
        shapes["candidate_selector.successor_codebook"] = (n_vocab, rank)
        shapes["candidate_selector.hidden_projection.weight"] = (rank, n_embd)
    for i in range(config.n_layers):
        shapes.update({f"layers.{i}.{name}": shape for name, shape in _layer_shapes(config).items()})
    return shapes


def _markov_shapes(kind: str, n_embd: int, rank: int) -> Dict[str, Tuple[int, ...]]:
    """Of what a Markov head has beside its two tables."""
    if kind == "gated":
        return {"markov_head.gate_proj.weight": (rank, n_embd + rank), "markov_head.gate_proj.bias": (rank,)}
    if kind == "rnn":
        return {
            "markov_head.joint_proj.weight": (3 * rank, n_embd + 2 * rank),
            "markov_head.joint_proj.bias": (3 * rank,),
        }
    return {}


def _layer_shapes(config: DrafterConfig) -> Dict[str, Tuple[int, ...]]:
    n_embd, n_ff = config.n_embd, config.n_ff
    n_q, n_kv = config.n_heads * config.head_dim, config.n_heads_kv * config.head_dim
    shapes: Dict[str, Tuple[int, ...]] = {
        "input_layernorm.weight": (n_embd,),
        "post_attention_layernorm.weight": (n_embd,),
        "self_attn.q_proj.weight": (n_q, n_embd),
        "self_attn.k_proj.weight": (n_kv, n_embd),
        "self_attn.o_proj.weight": (n_embd, n_q),
        "self_attn.q_norm.weight": (config.head_dim,),
        "self_attn.k_norm.weight": (config.head_dim,),
        "self_attn.sinks": (config.n_heads,),
        "mlp.gate_proj.weight": (n_ff, n_embd),
        "mlp.up_proj.weight": (n_ff, n_embd),
        "mlp.down_proj.weight": (n_embd, n_ff),
    }
    if config.is_gemma:  # its keys serve as values
        shapes.update(
            {
                "pre_feedforward_layernorm.weight": (n_embd,),
                "post_feedforward_layernorm.weight": (n_embd,),
                "layer_scalar": (1,),
            }
        )
    else:
        shapes["self_attn.v_proj.weight"] = (n_kv, n_embd)
    if config.has_biases:
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            if (matrix := f"self_attn.{name}.weight") in shapes:
                shapes[f"self_attn.{name}.bias"] = shapes[matrix][:1]
    if config.kind == "DFlash2":
        kernel, group = config.whole_setting("conv_kernel_size"), config.whole_setting("conv_group_size")
        for conv in ("attention_conv", "mlp_conv"):
            shapes[f"{conv}.base_kernel"] = (2, kernel, n_embd)
            shapes[f"{conv}.kernel_projection.weight"] = (2 * kernel * (n_embd // group), n_embd)
    return shapes


def tensors_to_write(config: DrafterConfig, found: Dict[str, Source], target: GgufFile) -> Iterator[Tensor]:
    """What goes into the GGUF file, in llama.cpp's order: generated tensors, the checkpoint's own, d2t. Embeddings and a head
    that are the target's are left out.

    Raises:
        ValueError: If the table of a reduced vocabulary is damaged.
    """
    if (divisors := config.rotary.divisors) is not None:
        yield Tensor("rope_freqs.weight", divisors.shape, "F32", values=divisors)
    left_out = ["d2t", *shared_with_target(config, found, target)]
    for name, source in found.items():
        if name in left_out:
            continue
        new_name = _gguf_name(config, name)
        if not config.values.get("rope_is_neox_style", True) and new_name.endswith(_INTERLEAVED):
            values = _halves(source, config.head_dim)
            yield Tensor(new_name, source.shape, "F32", values=values)
        else:
            yield Tensor(new_name, source.shape, source.dtype, source)
    if _ties_its_own_embeddings(config, found, left_out):
        source = found["embed_tokens.weight"]
        yield Tensor("output.weight", source.shape, source.dtype, source)
    if "d2t" in found:
        ids = token_ids(found["d2t"], config.n_vocab)
        yield Tensor("d2t", ids.shape, "I64", values=ids)


def shared_with_target(config: DrafterConfig, found: Dict[str, Source], target: GgufFile) -> List[str]:
    """Which of the embeddings and the output head are copies of the target's, which a drafter then uses where it is.

    DeepSpec's and speculators' checkpoints have such copies. A head may be missing and then is the target's as well; so is
    one that is tied to embeddings that are the target's.
    """
    names = {"embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight"}
    tied = target.find_tensor("output.weight") is None
    shared = []
    for name, theirs in names.items():
        source = found.get(name)
        if source is not None and source.shape[0] == config.n_vocab:
            if is_copy(source, target, "token_embd.weight" if tied else theirs):
                shared.append(name)
    if not config.values.get("has_embed_tokens", True) and "embed_tokens.weight" in found:
        shared.append("embed_tokens.weight")
    return shared


def _ties_its_own_embeddings(config: DrafterConfig, found: Dict[str, Source], left_out: List[str]) -> bool:
    """Only Gemma 4's class has a head of its own that can be tied; the others' is the target's where they have none."""
    name = "embed_tokens.weight"
    return config.is_gemma and "lm_head.weight" not in found and name in found and name not in left_out


def _gguf_name(config: DrafterConfig, name: str) -> str:
    if not name.startswith("layers."):
        return _BASE[name]
    _, layer, rest = name.split(".", 2)
    names = {**_LAYER, **_GEMMA_LAYER} if config.is_gemma else _LAYER
    return f"blk.{layer}.{names[rest]}"


def _halves(source: Source, head_dim: int) -> npt.NDArray[np.float32]:
    """Rotary pairs that lie side by side, (0, 1), (2, 3), …, as ggml has them: all first ones, then all second ones."""
    values = as_float32(source.read(), source.dtype)
    pairs = values.reshape(-1, head_dim // 2, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)


def token_ids(source: Source, n_vocab: int) -> npt.NDArray[np.int64]:
    """The token of every row of a reduced head; the checkpoint has each token's distance from its row."""
    ids = source.read().astype(np.int64) + np.arange(source.shape[0], dtype=np.int64)
    if ids.min() < 0 or ids.max() >= n_vocab or np.unique(ids).size != ids.size:
        raise ValueError(
            f"d2t maps the drafter's {ids.size} tokens to numbers between {ids.min()} and {ids.max()}, expected each of"
            f" 0 to {n_vocab - 1} once at most: the checkpoint is damaged"
        )
    return ids
