"""The frozen target (llama architecture) in PyTorch, read from its GGUF: weights, tokenizer, forward, cache.

load_target reads any target; qwen35.Qwen35Target is the other one, with the same attributes and methods.

Shapes: B rows, S tokens, E hidden, H query heads, K key/value heads, D head size.
"""
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from prompts import SYSTEM


def load_target(path, device="cpu", dtype=torch.float32, gguf_py=None):
    """the target of a GGUF, by its architecture"""
    arch = read_gguf(path, gguf_py).fields["general.architecture"].contents()
    if arch == "qwen35":
        from qwen35 import Qwen35Target
        return Qwen35Target(path, device, dtype, gguf_py)
    return Target(path, device, dtype, gguf_py)


def read_gguf(path, gguf_py=None):
    """a GGUFReader; gguf_py is the folder of llama.cpp's gguf-py where the package is not installed"""
    if gguf_py:
        sys.path.insert(0, str(Path(gguf_py)))
    from gguf import GGUFReader
    return GGUFReader(path)


def rms_norm(x, weight, eps):
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight.to(x.dtype)


def rope_tables(positions, head_dim, base):
    """cos and sin [..., D] (the two halves equal) for integer positions [...]"""
    freq = base ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angle = positions[..., None].float() * freq
    return torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()


def rope(x, cos, sin):
    """NEOX rotation of x [B, heads, S, D] by tables [B, S, D]"""
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return (x * cos[:, None] + turned * sin[:, None]).to(x.dtype)


def unpermute(w, heads):
    """undo the GGUF llama converter's row order (interleaved rope), so that NEOX rope applies"""
    rows, cols = w.shape
    return w.reshape(heads, rows // heads // 2, 2, cols).transpose(1, 2).reshape(rows, cols)


def layer_forward(x, cos, sin, w, heads, kv_heads, eps, attend):
    """one llama layer; attend(q, k, v) -> [B, H, S, D] owns the cache and the mask"""
    B, S, E = x.shape
    D = cos.shape[-1]
    qkv = F.linear(rms_norm(x, w["attn_norm"], eps), w["qkv"]).view(B, S, heads + 2 * kv_heads, D).transpose(1, 2)
    q, k, v = qkv.split([heads, kv_heads, kv_heads], 1)
    out = attend(rope(q, cos, sin), rope(k, cos, sin), v)
    x = x + F.linear(out.transpose(1, 2).reshape(B, S, heads * D), w["attn_output"])
    gate, up = F.linear(rms_norm(x, w["ffn_norm"], eps), w["gate_up"]).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, w["ffn_down"])


class Target:
    """weights of the target on one device, and the loop over its layers"""

    stop = (0, 2)     # <|endoftext|>, <|im_end|>
    system = SYSTEM   # what its chat template puts first
    draft = {}        # what a drafter's Config takes from this target: its defaults fit

    def __init__(self, path, device="cpu", dtype=torch.float32, gguf_py=None):
        self.reader = read_gguf(path, gguf_py)
        key = lambda name: self.reader.fields["llama." + name].contents()
        self.n_layer, self.n_embd = key("block_count"), key("embedding_length")
        self.heads, self.kv_heads = key("attention.head_count"), key("attention.head_count_kv")
        self.head_dim, self.eps = self.n_embd // self.heads, key("attention.layer_norm_rms_epsilon")
        self.rope_base, self.n_vocab = key("rope.freq_base"), key("vocab_size")
        self.device, self.dtype = device, dtype
        self._load()

    def _load(self):
        from gguf.quants import dequantize
        raw = {t.name: t for t in self.reader.tensors}
        get = lambda name: torch.from_numpy(np.array(dequantize(raw[name].data, raw[name].tensor_type), dtype=np.float32))
        put = lambda w: w.to(self.device, self.dtype).contiguous()
        self.embd, self.norm = put(get("token_embd.weight")), put(get("output_norm.weight"))
        self.layers = []
        for i in range(self.n_layer):
            part = lambda name: get(f"blk.{i}.{name}.weight")
            qkv = torch.cat([unpermute(part("attn_q"), self.heads), unpermute(part("attn_k"), self.kv_heads), part("attn_v")])
            w = {name: put(part(name)) for name in ("attn_norm", "attn_output", "ffn_norm", "ffn_down")}
            self.layers.append({**w, "qkv": put(qkv), "gate_up": put(torch.cat([part("ffn_gate"), part("ffn_up")]))})

    def forward(self, tokens, positions, attend, taps=(), layer=layer_forward):
        """tokens, positions [B, S] -> (normed last hidden [B, S, E], inputs of the layers in taps [B, S, len(taps)*E])

        attend(i) is what `layer` takes as its last argument: for layer_forward the attention of layer i.
        """
        cos, sin = rope_tables(positions, self.head_dim, self.rope_base)
        x, kept = self.embd[tokens], []
        for i, w in enumerate(self.layers):
            if i in taps:
                kept.append(x)
            x = layer(x, cos, sin, w, self.heads, self.kv_heads, self.eps, attend(i))
        return rms_norm(x, self.norm, self.eps), torch.cat(kept, -1) if kept else None

    def over_rows(self, attention, wrap):
        """forward's `layer` for whole rows, wrapped (compiled); attend(i) is then the mask of attention(q, k, v, mask)"""
        def layer(x, cos, sin, w, heads, kv_heads, eps, mask):
            return layer_forward(x, cos, sin, w, heads, kv_heads, eps, lambda q, k, v: attention(q, k, v, mask))
        return wrap(layer)

    def logits(self, hidden):
        return F.linear(hidden, self.embd).float()

    def tokenizer(self):
        return tokenizer_of(self.reader)

    def cache(self, slots, max_len):
        return Cache(self, slots, max_len)


class Cache:
    """key/value cells of `slots` texts for generate.Generator"""

    def __init__(self, target, slots, max_len):
        shape = (slots, target.kv_heads, max_len, target.head_dim)
        cells = lambda: [torch.zeros(shape, dtype=target.dtype, device=target.device) for _ in range(target.n_layer)]
        self.target, self.k, self.v, self.rows = target, cells(), cells(), torch.arange(slots, device=target.device)

    def fill(self, slots, ids, lengths):
        """put prompts (ids [n, width], padded on the right) into slots -> position to go on from, the last prompt token's"""
        width = ids.shape[1]

        def attend(i, q, k, v):
            self.k[i][slots, :, :width], self.v[i][slots, :, :width] = k, v
            return causal(q, k, v)

        self.target.forward(ids, torch.arange(width, device=ids.device).expand(len(ids), -1), lambda i: partial(attend, i))
        return lengths - 1

    def step(self, tokens, pos, decode_attention):
        """one token for every slot: tokens, pos [slots] -> normed last hidden [slots, E]"""
        def attend(i, q, k, v):
            self.k[i][self.rows, :, pos] = k[:, :, 0]
            self.v[i][self.rows, :, pos] = v[:, :, 0]
            return decode_attention(q, self.k[i], self.v[i], pos)

        hidden, _ = self.target.forward(tokens[:, None], pos[:, None], lambda i: partial(attend, i))
        return hidden[:, 0]


def causal(q, k, v):
    """plain causal attention; padding on the right does no harm"""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def tokenizer_of(reader):
    """the GGUF's byte-level BPE (pre-tokenizer 'smollm': single digits, then GPT-2's pattern)"""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    field = lambda name: reader.fields["tokenizer.ggml." + name].contents()
    tokens = field("tokens")
    merges = [tuple(m.split(" ")) for m in field("merges")]
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, field("token_type")) if kind == 3])
    return tok
