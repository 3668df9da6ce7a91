"""MTP layers for the tests: a random one behind a hybrid target, and what it computes, written down plainly in numpy."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

TRAINING = Path(__file__).resolve().parents[1] / "training"
SHIPPED = TRAINING.parent / "models"


def _export_mtp():
    sys.path.append(str(TRAINING))
    import export_mtp

    return export_mtp


def join(target: Path, head: Path, path: Path) -> Path:
    """The target's file with the layer of a head's file inside."""
    _export_mtp().join(str(target), str(head), str(path))
    return path


def shipped(folder: Path) -> Path:
    """The shipped target with its trained layer inside, as models with such a layer are published."""
    return join(SHIPPED / "tiny-qwen35.gguf", SHIPPED / "tiny-qwen35-mtp.gguf", folder / "tiny-qwen35-with-mtp.gguf")


def add_random_layer(target: Path, path: Path, seed: int = 0) -> Path:
    """A qwen35 target's file with a random MTP layer inside, F32."""
    export = _export_mtp()
    reader = gguf.GGUFReader(str(target))
    value = lambda key: reader.fields[f"qwen35.{key}"].contents()  # noqa: E731
    embd, heads, kv_heads, size = (value(k) for k in ("embedding_length", "attention.head_count", "attention.head_count_kv", "attention.key_length"))
    ff, rng = value("feed_forward_length"), np.random.default_rng(seed)
    matrices = {
        "nextn.eh_proj": (embd, 2 * embd),
        "attn_q": (2 * heads * size, embd),
        "attn_k": (kv_heads * size, embd),
        "attn_v": (kv_heads * size, embd),
        "attn_output": (embd, heads * size),
        "ffn_gate": (ff, embd),
        "ffn_up": (ff, embd),
        "ffn_down": (embd, ff),
    }
    norms = {name: embd for name in ("attn_norm", "post_attention_norm", "nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm")}
    norms |= {"attn_q_norm": size, "attn_k_norm": size}
    w = export.writer(str(path), reader, {})
    for tensor in reader.tensors:
        export.copy_tensor(w, tensor)
    block = f"blk.{value('block_count')}."
    for name, shape in matrices.items():
        w.add_tensor(f"{block}{name}.weight", (rng.standard_normal(shape) * 2 * shape[1] ** -0.5).astype(np.float32))
    for name, n in norms.items():
        w.add_tensor(f"{block}{name}.weight", (1 + 0.3 * rng.standard_normal(n)).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def split(joined: Path, path: Path) -> Path:
    """A file of the layer alone, from a target's with the layer inside."""
    export = _export_mtp()
    reader = gguf.GGUFReader(str(joined))
    n_layer, _ = export.layers_of(reader)
    w = export.writer(str(path), reader, {"qwen35.block_count": n_layer + 1})
    for tensor in reader.tensors:
        if not tensor.name.startswith("blk.") or tensor.name.startswith(f"blk.{n_layer}."):
            export.copy_tensor(w, tensor)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def _norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


@dataclass
class _Cell:
    """What attention sees of a position."""

    key: np.ndarray  # [kv_heads, size]
    value: np.ndarray


class NaiveHead:
    """The layer, one position at a time, in float64: training/mtp.py's arithmetic without batches or masks."""

    def __init__(self, path: Path):
        reader = gguf.GGUFReader(str(path))
        value = lambda key: reader.fields[f"qwen35.{key}"].contents()  # noqa: E731
        self.heads, self.kv_heads, self.size = (value(f"attention.{k}") for k in ("head_count", "head_count_kv", "key_length"))
        self.eps, self.n_rot, base = value("attention.layer_norm_rms_epsilon"), value("rope.dimension_count"), value("rope.freq_base")
        pairs, sections = np.arange(self.n_rot // 2), np.array(value("rope.dimension_sections"))
        # interleaved M-RoPE: what no section claims turns by a coordinate that is 0 in texts
        self.frequency = np.where(pairs < 3 * sections[pairs % 3], base ** (-pairs / len(pairs)), 0.0)
        tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
        block = f"blk.{value('block_count') - 1}."
        self.w = {n.removeprefix(block).removesuffix(".weight"): t for n, t in tensors.items() if n.startswith(block)}
        self.embd = tensors["token_embd.weight"]
        self.output = tensors.get("output.weight", self.embd)
        self.n_embd = self.embd.shape[1]

    def _turn(self, x, pos):
        """rotary embedding of x [heads, size]: halves of the first n_rot dimensions"""
        half = self.n_rot // 2
        angle = pos * self.frequency
        a, b = x[:, :half], x[:, half : self.n_rot]
        turned = [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle), x[:, self.n_rot :]]
        return np.concatenate(turned, -1)

    def step(self, token, state, pos, cells):
        """The state [n_embd] that the layer leaves at a position, from the token there and the state before it. `cells` are
        those that it sees; its own is appended."""
        w, eps = self.w, self.eps
        both = np.concatenate([_norm(self.embd[token], w["nextn.enorm"], eps), _norm(state, w["nextn.hnorm"], eps)])
        x = w["nextn.eh_proj"] @ both
        h = _norm(x, w["attn_norm"], eps)
        q, gate = np.split((w["attn_q"] @ h).reshape(self.heads, 2 * self.size), 2, -1)
        k, v = ((w[name] @ h).reshape(self.kv_heads, self.size) for name in ("attn_k", "attn_v"))
        q = self._turn(_norm(q, w["attn_q_norm"], eps), pos)
        cells.append(_Cell(self._turn(_norm(k, w["attn_k_norm"], eps), pos), v))
        keys, values = (np.stack([getattr(c, name) for c in cells]).repeat(self.heads // self.kv_heads, 1) for name in ("key", "value"))
        scores = np.einsum("hd,nhd->hn", q, keys) * self.size**-0.5
        share = np.exp(scores - scores.max(-1, keepdims=True))
        out = np.einsum("hn,nhd->hd", share / share.sum(-1, keepdims=True), values) * _sigmoid(gate)
        x = x + w["attn_output"] @ out.ravel()
        h = _norm(x, w["post_attention_norm"], eps)
        up = w["ffn_gate"] @ h
        x = x + w["ffn_down"] @ (up * _sigmoid(up) * (w["ffn_up"] @ h))
        return _norm(x, w["nextn.shared_head_norm"], eps)

    def logprobs(self, state):
        logits = self.output @ state
        return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()

    def follow(self, tokens, states):
        """The cells of a text: states [n, n_embd] are the target's after each of its tokens."""
        cells = []
        for pos, token in enumerate(tokens):
            self.step(token, states[pos - 1] if pos else np.zeros(self.n_embd), pos, cells)
        return cells

    def of_tree(self, tokens, states, root, tree_tokens, parents):
        """For every node of a tree after a text, the root's first: log-probabilities [n_vocab] of what follows it."""
        cells, found, below = self.follow(tokens, states), [], []
        for node, (token, parent) in enumerate(zip(tree_tokens, parents)):
            seen, state, depth = (cells, states[-1], 0) if parent < 0 else below[parent]
            seen, pos = list(seen), len(tokens) + depth
            after = self.step(root if parent < 0 else token, state, pos, seen)
            below.append((seen, after, depth + 1))
            found.append(self.logprobs(after))
        return found
