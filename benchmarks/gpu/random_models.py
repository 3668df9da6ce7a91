"""Targets and drafters of random weights in real shapes: what they write means nothing, time and memory are real.

Weights are random bytes behind scales that give them a spread of about 0.02, in the types of a Q4_K_M file. They are written
tensor by tensor, so that a file may be larger than memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import gguf
import numpy as np

Type = gguf.GGMLQuantizationType
SPREAD = 0.02  # standard deviation of a weight
BLOCK_SIZE = 16  # of a drafter
CONV_KERNEL = 4
N_SPECIAL = 16  # tokens at the vocabulary's end: end of text, begin of text, padding, mask, ...


@dataclass(frozen=True)
class Shape:
    """A hybrid of the Qwen3.5 family, and its drafter."""

    n_layer: int  # every fourth one has full attention
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_value_heads: int  # of the recurrent layers
    n_key_heads: int
    state_size: int
    n_vocab: int
    draft_layers: int
    draft_head: tuple[int, int, int]  # heads, KV heads, head size
    features: tuple[int, ...]  # target layers whose inputs the drafter reads
    is_small: bool = False  # rows too short for blocks of 256 weights

    @property
    def types(self) -> tuple[Type, Type]:
        """Of most matrices, and of those that Q4_K_M keeps more of."""
        return (Type.Q8_0, Type.Q8_0) if self.is_small else (Type.Q4_K, Type.Q6_K)


SHAPES = {
    "27b": Shape(64, 5120, 17408, 24, 4, 256, 48, 16, 128, 248320, 5, (32, 8, 128), (2, 17, 32, 47, 62)),
    "9b": Shape(32, 4096, 12288, 16, 4, 256, 32, 16, 128, 248320, 5, (32, 8, 128), (2, 9, 16, 23, 30)),
    "tiny": Shape(8, 256, 768, 4, 2, 64, 4, 2, 64, 2048, 2, (4, 2, 64), (2, 4, 7), is_small=True),
}


# ---------------------------------------------------------------- weights

# bytes of a block, and where its float16 scales are, with what the rest of the block multiplies them by, roughly
BLOCKS = {Type.Q4_K: (144, {0: 150, 2: 20}), Type.Q6_K: (210, {208: 1300}), Type.Q8_0: (34, {0: 73})}


def random_bytes(rng: np.random.Generator, n: int) -> np.ndarray:
    pool = rng.integers(0, 256, min(n, 1 << 26), dtype=np.uint8)
    return np.resize(pool, n)


def random_weights(rng: np.random.Generator, shape: tuple[int, ...], kind: Type) -> np.ndarray:
    """The bytes of a tensor, [rows, bytes of a row], or its floats."""
    n = math.prod(shape)
    if kind == Type.F32:
        return (rng.standard_normal(n, dtype=np.float32) * SPREAD).reshape(shape)
    if kind == Type.BF16:
        floats = rng.standard_normal(min(n, 1 << 22), dtype=np.float32) * SPREAD
        return np.resize((floats.view(np.uint32) >> 16).astype(np.uint16), n).reshape(shape).view(np.uint8)
    n_bytes, scales = BLOCKS[kind]
    n_weights = gguf.GGML_QUANT_SIZES[kind][0]
    blocks = random_bytes(rng, n // n_weights * n_bytes).reshape(-1, n_bytes)
    for place, divisor in scales.items():
        blocks[:, place : place + 2] = np.frombuffer(np.float16(SPREAD / divisor).tobytes(), np.uint8)
    return blocks.reshape(*shape[:-1], shape[-1] // n_weights * n_bytes)


@dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[int, ...]  # rows first
    kind: Type = Type.F32
    make: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray] | None = None  # None: random_weights

    def data(self, rng: np.random.Generator) -> np.ndarray:
        return random_weights(rng, self.shape, self.kind) if self.make is None else self.make(rng, self.shape).astype(np.float32)

    @property
    def n_bytes(self) -> int:
        n_weights, n_bytes = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // n_weights * n_bytes


def ones(name: str, n: int) -> Tensor:
    return Tensor(name, (n,), make=lambda rng, shape: np.ones(shape))


def matrix(name: str, rows: int, cols: int) -> Tensor:
    """Of a drafter."""
    return Tensor(name, (rows, cols), Type.BF16)


def wide(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape) * 0.5


def decays(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return -0.1 * np.exp(rng.standard_normal(shape))


# ---------------------------------------------------------------- the two models


def target_tensors(s: Shape) -> Iterator[Tensor]:
    most, more = s.types
    n_key, n_value = s.state_size * s.n_key_heads, s.state_size * s.n_value_heads
    yield Tensor("token_embd.weight", (s.n_vocab, s.n_embd), most)
    yield Tensor("output.weight", (s.n_vocab, s.n_embd), more)
    yield ones("output_norm.weight", s.n_embd)
    for i in range(s.n_layer):
        b = f"blk.{i}."
        yield ones(b + "attn_norm.weight", s.n_embd)
        yield ones(b + "post_attention_norm.weight", s.n_embd)
        if i % 4 == 3:
            yield Tensor(b + "attn_q.weight", (2 * s.n_head * s.head_dim, s.n_embd), most)  # queries and gates
            yield Tensor(b + "attn_k.weight", (s.n_head_kv * s.head_dim, s.n_embd), most)
            yield Tensor(b + "attn_v.weight", (s.n_head_kv * s.head_dim, s.n_embd), more)
            yield Tensor(b + "attn_output.weight", (s.n_embd, s.n_head * s.head_dim), most)
            yield ones(b + "attn_q_norm.weight", s.head_dim)
            yield ones(b + "attn_k_norm.weight", s.head_dim)
        else:
            yield Tensor(b + "attn_qkv.weight", (2 * n_key + n_value, s.n_embd), most)
            yield Tensor(b + "attn_gate.weight", (n_value, s.n_embd), most)
            yield Tensor(b + "ssm_conv1d.weight", (2 * n_key + n_value, CONV_KERNEL), make=wide)
            yield Tensor(b + "ssm_dt.bias", (s.n_value_heads,), make=wide)
            yield Tensor(b + "ssm_a", (s.n_value_heads,), make=decays)
            yield Tensor(b + "ssm_beta.weight", (s.n_value_heads, s.n_embd), Type.Q8_0)
            yield Tensor(b + "ssm_alpha.weight", (s.n_value_heads, s.n_embd), Type.Q8_0)
            yield ones(b + "ssm_norm.weight", s.state_size)
            yield Tensor(b + "ssm_out.weight", (s.n_embd, n_value), most)
        yield Tensor(b + "ffn_gate.weight", (s.n_ff, s.n_embd), most)
        yield Tensor(b + "ffn_up.weight", (s.n_ff, s.n_embd), most)
        yield Tensor(b + "ffn_down.weight", (s.n_embd, s.n_ff), more if i % 2 else most)


def drafter_tensors(s: Shape) -> Iterator[Tensor]:
    n_head, n_head_kv, head_dim = s.draft_head
    yield matrix("fc.weight", s.n_embd, s.n_embd * len(s.features))
    yield ones("enc.output_norm.weight", s.n_embd)
    yield ones("output_norm.weight", s.n_embd)
    for i in range(s.draft_layers):
        b = f"blk.{i}."
        yield ones(b + "attn_norm.weight", s.n_embd)
        yield ones(b + "ffn_norm.weight", s.n_embd)
        yield matrix(b + "attn_q.weight", n_head * head_dim, s.n_embd)
        yield matrix(b + "attn_k.weight", n_head_kv * head_dim, s.n_embd)
        yield matrix(b + "attn_v.weight", n_head_kv * head_dim, s.n_embd)
        yield matrix(b + "attn_output.weight", s.n_embd, n_head * head_dim)
        yield ones(b + "attn_q_norm.weight", head_dim)
        yield ones(b + "attn_k_norm.weight", head_dim)
        yield matrix(b + "ffn_gate.weight", s.n_ff, s.n_embd)
        yield matrix(b + "ffn_up.weight", s.n_ff, s.n_embd)
        yield matrix(b + "ffn_down.weight", s.n_embd, s.n_ff)


# ---------------------------------------------------------------- files


def add_vocabulary(w: gguf.GGUFWriter, n: int) -> None:
    """256 bytes, in the spelling of byte-level BPE, then made-up words."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spelling = {byte: chr(byte) for byte in printable}
    spelling.update((byte, chr(256 + i)) for i, byte in enumerate(b for b in range(256) if b not in spelling))
    words = [spelling[byte] for byte in range(256)] + [f"<t{i}>" for i in range(256, n)]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen35")
    w.add_token_list(words)
    w.add_token_types([gguf.TokenType.NORMAL] * (n - N_SPECIAL) + [gguf.TokenType.CONTROL] * N_SPECIAL)
    w.add_token_merges([f"{words[97]} {words[98]}"])
    w.add_eos_token_id(n - 1)
    w.add_bos_token_id(n - 2)
    w.add_pad_token_id(n - 3)
    w.add_add_bos_token(False)
    w.add_vocab_size(n)


def add_sizes(w: gguf.GGUFWriter, s: Shape, n_layer: int, heads: tuple[int, int, int]) -> None:
    n_head, n_head_kv, head_dim = heads
    w.add_block_count(n_layer)
    w.add_context_length(8192 if s.is_small else 262144)
    w.add_embedding_length(s.n_embd)
    w.add_feed_forward_length(s.n_ff)
    w.add_head_count(n_head)
    w.add_head_count_kv(n_head_kv)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_layer_norm_rms_eps(1e-6)
    w.add_rope_freq_base(1e7)


def write_tensors(w: gguf.GGUFWriter, tensors: list[Tensor], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for t in tensors:
        w.add_tensor_info(t.name, t.shape, np.dtype(np.float32), t.n_bytes, raw_dtype=t.kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_ti_data_to_file()
    for t in tensors:
        w.write_tensor_data(t.data(rng))
    w.close()


def write_target(path: Path, s: Shape, seed: int = 0) -> None:
    w = gguf.GGUFWriter(path, "qwen35")
    add_sizes(w, s, s.n_layer, (s.n_head, s.n_head_kv, s.head_dim))
    n_rot, third = s.head_dim // 4, s.head_dim // 24
    w.add_rope_dimension_count(n_rot)
    w.add_rope_dimension_sections([n_rot // 2 - 2 * third, third, third, 0] if s.is_small else [11, 11, 10, 0])
    w.add_ssm_conv_kernel(CONV_KERNEL)
    w.add_ssm_inner_size(s.state_size * s.n_value_heads)
    w.add_ssm_state_size(s.state_size)
    w.add_ssm_time_step_rank(s.n_value_heads)
    w.add_ssm_group_count(s.n_key_heads)
    w.add_full_attention_interval(4)
    add_vocabulary(w, s.n_vocab)
    write_tensors(w, list(target_tensors(s)), seed)


def write_drafter(path: Path, s: Shape, seed: int = 1) -> None:
    w = gguf.GGUFWriter(path, "dflash")
    add_sizes(w, s, s.draft_layers, s.draft_head)
    w.add_rope_dimension_count(s.draft_head[2])
    w.add_rope_dimension_sections([s.draft_head[2] // 2, 0, 0, 0])
    w.add_uint32("dflash.block_size", BLOCK_SIZE)
    w.add_array("dflash.target_layers", list(s.features))
    add_vocabulary(w, s.n_vocab)
    w.add_mask_token_id(s.n_vocab - 4)
    write_tensors(w, list(drafter_tensors(s)), seed)
