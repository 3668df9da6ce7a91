"""Writes small DFlash drafters for the targets of models.py, and targets whose text such a drafter can guess."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import gguf
import numpy as np
from models import MASK, N_VOCAB, add_vocab, write_file

# The tokens that a predictable target prefers, the most likely first, and their logits above all others.
# No letters that the vocabulary merges: the text stays these tokens when it is tokenized again.
FAVOURITES = {ord(c): 10.0 - 0.7 * i for i, c in enumerate("012345")}


def target_shape(path: Path) -> dict[str, Any]:
    """Hidden size and number of layers of a target's GGUF file."""
    fields = gguf.GGUFReader(str(path)).fields
    arch = fields["general.architecture"].contents()
    return {"n_embd": fields[f"{arch}.embedding_length"].contents(), "n_layer": fields[f"{arch}.block_count"].contents()}


def write_drafter(
    path: Path,
    target: Path,
    *,
    block_size: int = 16,
    n_layer: int = 2,
    n_head: int = 4,
    n_head_kv: int = 2,
    head_dim: int = 32,
    n_ff: int = 96,
    n_vocab: int = N_VOCAB,
    n_embd: int | None = None,
    layers: tuple[int, ...] | None = None,
    std: float = 0.02,
    seed: int = 0,
    arch: str = "dflash",
    mask: int | None = MASK,
    omit: frozenset[str] | set[str] = frozenset(),
    more: Callable[[gguf.GGUFWriter], None] | None = None,
    reduced: list[int] | None = None,
    head: str | None = None,
    head_std: float = 0.3,
    head_type: str = "f32",
    head_rank: int = 16,
    top_k: int = 5,
    marker: str | None = None,
) -> Path:
    """A random-weight DFlash drafter for `target`.

    std: of the weights; small ones leave the noise block as it is, so that the drafter predicts what the
        target's head makes of the mask token's embedding.
    layers: the target layers whose inputs are features; None: the second and the last.
    omit: metadata keys (without "dflash.") and tensors to leave out, for files that must be refused.
    more: adds further metadata.
    reduced: the tokens that a head of the drafter's own knows (a reduced draft vocabulary); None: the target's head.
    head: "markov" makes a DSpark drafter, "selector" a DFlash2 one, with weights of head_std.
    head_type: of a Markov head's matrices, by its name in gguf: "f32", "q8_0", …
    top_k: candidates of a selector.
    marker: as of its target's vocabulary.
    """
    shape = target_shape(target)
    n_embd = n_embd or shape["n_embd"]
    layers = (1, shape["n_layer"] - 1) if layers is None else layers
    rng = np.random.default_rng(seed)
    w = gguf.GGUFWriter(str(path), arch)
    settings = {
        "context_length": lambda: w.add_context_length(8192),
        "embedding_length": lambda: w.add_embedding_length(n_embd),
        "block_count": lambda: w.add_block_count(n_layer),
        "feed_forward_length": lambda: w.add_feed_forward_length(n_ff),
        "attention.head_count": lambda: w.add_head_count(n_head),
        "attention.head_count_kv": lambda: w.add_head_count_kv(n_head_kv),
        "attention.key_length": lambda: w.add_key_length(head_dim),
        "attention.value_length": lambda: w.add_value_length(head_dim),
        "rope.dimension_count": lambda: w.add_rope_dimension_count(head_dim),
        "rope.freq_base": lambda: w.add_rope_freq_base(10000.0),
        "attention.layer_norm_rms_epsilon": lambda: w.add_layer_norm_rms_eps(1e-6),
        "vocab_size": lambda: w.add_vocab_size(n_vocab),
        "block_size": lambda: w.add_uint32(f"{arch}.block_size", block_size),
        "target_layers": lambda: w.add_array(f"{arch}.target_layers", list(layers)),
        "tokenizer": lambda: add_vocab(w, n_vocab, marker),
        **(_selector_settings(w, head_rank, top_k) if head == "selector" else {}),
        "tokenizer.ggml.mask_token_id": lambda: w.add_mask_token_id(mask),
    }
    for key, add in settings.items():
        if key not in omit:
            add()
    if more is not None:
        more(w)

    def tensor(name: str, value: np.ndarray) -> None:
        if name not in omit:
            w.add_tensor(name, value.astype(np.float32))

    def matrix(name: str, rows: int, cols: int, std: float = std) -> None:
        tensor(name, rng.standard_normal((rows, cols)) * std)

    if reduced is not None:
        if "d2t" not in omit:
            w.add_tensor("d2t", np.array(reduced, dtype=np.int64))
        matrix("output.weight", len(reduced), n_embd)
    matrix("fc.weight", n_embd, n_embd * max(1, len(layers)))
    tensor("enc.output_norm.weight", np.ones(n_embd))
    tensor("output_norm.weight", np.ones(n_embd))
    for i in range(n_layer):
        b = f"blk.{i}."
        tensor(b + "attn_norm.weight", np.ones(n_embd))
        tensor(b + "ffn_norm.weight", np.ones(n_embd))
        matrix(b + "attn_q.weight", n_head * head_dim, n_embd)
        matrix(b + "attn_k.weight", n_head_kv * head_dim, n_embd)
        matrix(b + "attn_v.weight", n_head_kv * head_dim, n_embd)
        matrix(b + "attn_output.weight", n_embd, n_head * head_dim)
        tensor(b + "attn_q_norm.weight", np.ones(head_dim))
        tensor(b + "attn_k_norm.weight", np.ones(head_dim))
        matrix(b + "ffn_gate.weight", n_ff, n_embd)
        matrix(b + "ffn_up.weight", n_ff, n_embd)
        matrix(b + "ffn_down.weight", n_embd, n_ff)
        for conv in ("attn_conv", "ffn_conv") if head == "selector" else ():
            taps = rng.standard_normal((2, TAPS, n_embd)) * std
            taps[:, 0] += 1.0
            tensor(b + conv + "_base", taps)
            matrix(b + conv + "_proj.weight", 2 * TAPS * (n_embd // CONV_GROUP), n_embd)
    if head == "markov":
        kind = gguf.GGMLQuantizationType[head_type.upper()]
        for name, rows in (("markov_w1.weight", n_vocab), ("markov_w2.weight", n_vocab if reduced is None else len(reduced))):
            values = (rng.standard_normal((rows, head_rank)) * head_std).astype(np.float32)
            if name not in omit:
                w.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    if head == "selector":
        matrix("selector_predecessor.weight", n_vocab, head_rank, head_std)
        matrix("selector_successor.weight", n_vocab, head_rank, head_std)
        matrix("selector_hidden.weight", head_rank, n_embd, head_std)
    return write_file(w, path)


TAPS, CONV_GROUP = 3, 16  # of a DFlash2 drafter's convolutions


def _selector_settings(w: gguf.GGUFWriter, rank: int, top_k: int) -> dict[str, Callable[[], None]]:
    return {
        "conv_kernel_size": lambda: w.add_uint32("dflash.conv_kernel_size", TAPS),
        "conv_group_size": lambda: w.add_uint32("dflash.conv_group_size", CONV_GROUP),
        "selector_rank": lambda: w.add_uint32("dflash.selector_rank", rank),
        "selector_top_k": lambda: w.add_uint32("dflash.selector_top_k", top_k),
    }


def make_predictable(target: Path, scale: float = 20.0, favourites: dict[int, float] = FAVOURITES) -> Path:
    """Rewrites a target's weights so that it mostly writes its favourites, which one depending on the text before.

    Dimension 0 of every embedding is `scale`, and the head reads the favourites' logits from it. The mask token's
    embedding has nothing else, so a drafter of small weights proposes exactly the favourites, in their order.
    """
    tensors = {t.name: t for t in gguf.GGUFReader(str(target), "r+").tensors}
    embeddings = tensors["token_embd.weight"].data
    is_tied = "output.weight" not in tensors
    head = embeddings if is_tied else tensors["output.weight"].data
    norm = tensors.get("output_norm.weight") or tensors["token_embd_norm.weight"]  # lfm2's name for it
    embeddings[:, 0] = scale
    embeddings[MASK, 1:] = 0.0
    gain = norm.data[0] * scale
    if is_tied:
        head[:] *= 0.2  # or a token's own embedding makes it the next one
    else:
        head[:, 0] = 0.0
    for token, logit in favourites.items():
        # after the final RMS norm dimension 0 is about sqrt(n_embd) * scale / norm: half of it at most is the rest's
        head[token, 0] += logit / gain * scale / 4
    for t in (embeddings, head):
        t.flush() if hasattr(t, "flush") else None
    return target


def write_eagle3(
    path: Path, target: Path, *, layers: tuple[int, ...] | None = None, std: float = 0.02, seed: int = 0, n_head: int = 4, head_dim: int = 16
) -> Path:
    """A random-weight EAGLE-3 head for `target`, with the target's embeddings and output head.

    The head passes dimension 0 of the first layer's features on, from which a predictable target's output head reads the
    favourites, and adds little to it where std is small: it proposes the favourites, in their order.
    """
    shape = target_shape(target)
    n_embd, n_ff = shape["n_embd"], 96
    layers = (1, 2, shape["n_layer"] - 1) if layers is None else layers
    rng = np.random.default_rng(seed)
    w = gguf.GGUFWriter(str(path), "eagle3")
    w.add_context_length(8192)
    w.add_embedding_length(n_embd)
    w.add_block_count(1)
    w.add_feed_forward_length(n_ff)
    w.add_head_count(n_head)
    w.add_head_count_kv(n_head)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_vocab_size(N_VOCAB)
    w.add_array("eagle3.target_layers", list(layers))
    w.add_uint32("eagle3.target_hidden_size", n_embd)
    add_vocab(w)

    def matrix(name: str, rows: int, cols: int) -> None:
        w.add_tensor(name, (rng.standard_normal((rows, cols)) * std).astype(np.float32))

    fc = rng.standard_normal((n_embd, n_embd * len(layers))) * std
    fc[0] = 0.0
    fc[0, 0] = 1.0
    w.add_tensor("fc.weight", fc.astype(np.float32))
    for name in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.attn_norm_2.weight", "blk.0.ffn_norm.weight"):
        w.add_tensor(name, np.ones(n_embd, dtype=np.float32))
    for name in ("attn_q", "attn_k", "attn_v"):
        matrix(f"blk.0.{name}.weight", n_head * head_dim, 2 * n_embd)
    matrix("blk.0.attn_output.weight", n_embd, n_head * head_dim)
    matrix("blk.0.ffn_gate.weight", n_ff, n_embd)
    matrix("blk.0.ffn_up.weight", n_ff, n_embd)
    matrix("blk.0.ffn_down.weight", n_embd, n_ff)
    return write_file(w, path)
