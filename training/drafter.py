"""The DFlash drafter in PyTorch: the same arithmetic as llama.cpp's src/models/dflash.cpp.

One non-causal forward over [root, mask, mask, ...]. Every layer's queries see the target's features of all
positions before the root (fused by fc, then the layer's own wk / k_norm / rope and wv) and their own block.
Shapes: B rows, S context tokens, Q block tokens (many blocks side by side), E hidden, H / KV heads, D head size.
"""
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from target import read_gguf, rms_norm, rope, rope_tables


@dataclass
class Config:
    n_layer: int = 4
    ffn: int = 1280
    n_embd: int = 576
    heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64
    taps: tuple = (2, 9, 16, 23, 29)   # inputs of these target layers, as GGUF's target_layers stores them
    n_vocab: int = 12288               # draft vocabulary
    rope_base: float = 100000.0
    eps: float = 1e-5
    block_size: int = 16
    mask_token: int = 16               # <empty_output>: never written by the target
    layer_type: str = "Q4_0"
    head_type: str = "Q4_0"
    fc_type: str = "Q8_0"


def round_trip(w, kind):
    """w as it comes back from ggml's Q4_0 or Q8_0 (blocks of 32 along the last axis), or w itself for F32/F16"""
    if kind not in ("Q4_0", "Q8_0"):
        return w.half().float() if kind == "F16" else w
    x = w.float().unflatten(-1, (-1, 32))
    if kind == "Q8_0":
        d = x.abs().amax(-1, keepdim=True) / 127
        q = torch.round(x / d.clamp_min(1e-20))
    else:
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
        d = torch.where(high > -low, high, low) / -8
        d = torch.where(d.abs() < 1e-20, 1e-20, d)
        q = (torch.trunc(x / d + 8.5).clamp(0, 15)) - 8
    return (q * d.half().float()).flatten(-2)


def linear(d_out, d_in, gain=1.0):
    return nn.Parameter(torch.randn(d_out, d_in) * gain / d_in ** 0.5)


def stored(w, kind, mix):
    """the weight as the file will hold it (mix 1) or as it is (mix 0); the gradient passes straight through"""
    return w + mix * (round_trip(w.detach(), kind) - w.detach())


def block_forward(x, context, cos, sin, w, mix, c, attend):
    """one layer: x [B, Q, E], context [B, S, E] -> [B, Q, E]; cos and sin [B, S + Q, D]: context, then block positions

    w: the layer's parameters by name; attend(q, k, v) with keys of the context first, then of the blocks.
    """
    S = context.shape[1]
    project = lambda t, name: F.linear(t, stored(w[name], c.layer_type, mix))
    heads = lambda t, name, n: project(t, name).unflatten(-1, (n, c.head_dim)).transpose(1, 2)
    h = rms_norm(x, w["attn_norm"], c.eps)
    both = torch.cat([context.to(h.dtype), h], 1)
    q = rope(rms_norm(heads(h, "attn_q", c.heads), w["attn_q_norm"], c.eps), cos[:, S:], sin[:, S:])
    k = rope(rms_norm(heads(both, "attn_k", c.kv_heads), w["attn_k_norm"], c.eps), cos, sin)
    v = heads(both, "attn_v", c.kv_heads)
    out = attend(q, k.to(q.dtype), v.to(q.dtype)).transpose(1, 2).flatten(2)
    x = x + project(out, "attn_output")
    h = rms_norm(x, w["ffn_norm"], c.eps)
    return x + project(F.silu(project(h, "ffn_gate")) * project(h, "ffn_up"), "ffn_down")


def encode(features, fc, enc_norm, mix, c):
    """features [B, S, taps*E], fc in file units -> fused [B, S, E]; rounded as ggml's CPU rounds a product's input"""
    return rms_norm(F.linear(round_trip(features, "Q8_0"), stored(fc, c.fc_type, mix)), enc_norm, c.eps)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        ones = lambda n: nn.Parameter(torch.ones(n))
        self.attn_norm, self.ffn_norm = ones(c.n_embd), ones(c.n_embd)
        self.attn_q_norm, self.attn_k_norm = ones(c.head_dim), ones(c.head_dim)
        self.attn_q = linear(c.heads * c.head_dim, c.n_embd)
        self.attn_k = linear(c.kv_heads * c.head_dim, c.n_embd)
        self.attn_v = linear(c.kv_heads * c.head_dim, c.n_embd)
        self.attn_output = linear(c.n_embd, c.heads * c.head_dim, 0.5)
        self.ffn_gate, self.ffn_up = linear(c.ffn, c.n_embd), linear(c.ffn, c.n_embd)
        self.ffn_down = linear(c.n_embd, c.ffn, 0.5)


class Drafter(nn.Module):
    def __init__(self, config, d2t, embd, feature_scale):
        """d2t [V] target id of each draft id; embd: the target's embeddings; feature_scale [len(taps)*E]"""
        super().__init__()
        c = self.config = config
        self.fc = linear(c.n_embd, len(c.taps) * c.n_embd)   # in units of feature_scale
        self.enc_norm, self.out_norm = nn.Parameter(torch.ones(c.n_embd)), nn.Parameter(torch.ones(c.n_embd))
        self.layers = nn.ModuleList(Layer(c) for _ in range(c.n_layer))
        self.head = nn.Parameter(embd[d2t].float().clone())
        self.register_buffer("embd", embd, persistent=False)
        self.register_buffer("d2t", d2t)
        self.register_buffer("feature_scale", feature_scale)
        self.register_buffer("quant_mix", torch.zeros(()))    # 0: plain weights, 1: as quantised in the file

    def fc_in_file(self):
        """fc for raw features, as the file holds it"""
        return self.fc / self.feature_scale

    def forward(self, features, context_pos, row_token, row_pos, attend, block=block_forward, encode=encode):
        """features [B, S, taps*E], context_pos [B, S], row_token and row_pos [B, Q] -> hidden [B, Q, E]

        attend is what `block` takes as its last argument.
        """
        c = self.config
        context = encode(features, self.fc_in_file(), self.enc_norm, self.quant_mix, c)
        cos, sin = rope_tables(torch.cat([context_pos, row_pos], 1), c.head_dim, c.rope_base)
        x = self.embd[row_token].float()
        for layer in self.layers:
            x = block(x, context, cos, sin, dict(layer.named_parameters()), self.quant_mix, c, attend)
        return rms_norm(x, self.out_norm, c.eps)

    def logits(self, hidden):
        return F.linear(hidden, stored(self.head, self.config.head_type, self.quant_mix))

    def checkpoint(self):
        state = {k: v.half() if v.is_floating_point() and v.dim() > 1 else v for k, v in self.state_dict().items()}
        return {"config": asdict(self.config), "state": state}


def load_drafter(path, embd, device="cpu"):
    saved = torch.load(path, map_location=device, weights_only=True)
    config = Config(**{**saved["config"], "taps": tuple(saved["config"]["taps"])})
    model = Drafter(config, saved["state"]["d2t"], embd, saved["state"]["feature_scale"]).to(device)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in saved["state"].items()})
    return model


def drafter_from_gguf(path, embd, device="cpu", gguf_py=None):
    """the drafter exactly as a GGUF holds it (dequantised; feature_scale is one)"""
    reader = read_gguf(path, gguf_py)
    from gguf.quants import dequantize
    key = lambda name: reader.fields["dflash." + name].contents()
    raw = {t.name: t for t in reader.tensors}
    get = lambda name: torch.from_numpy(np.array(dequantize(raw[name].data, raw[name].tensor_type), dtype=np.float32)).to(device)
    d2t = torch.from_numpy(np.array(raw["d2t"].data).view(np.int64).copy() if "d2t" in raw else np.arange(len(embd))).to(device)
    c = Config(n_layer=key("block_count"), ffn=key("feed_forward_length"), n_embd=key("embedding_length"), heads=key("attention.head_count"),
               kv_heads=key("attention.head_count_kv"), head_dim=key("attention.key_length"), taps=tuple(key("target_layers")), n_vocab=len(d2t),
               rope_base=key("rope.freq_base"), eps=key("attention.layer_norm_rms_epsilon"), block_size=key("block_size"),
               mask_token=reader.fields["tokenizer.ggml.mask_token_id"].contents())
    model = Drafter(c, d2t, embd, torch.ones(len(c.taps) * c.n_embd, device=device)).to(device)
    names = {"fc": "fc", "enc_norm": "enc.output_norm", "out_norm": "output_norm", "head": "output"}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(get(names.get(name, name.replace("layers.", "blk.")) + ".weight"))
    return model.eval()


def visible(blocks, S):
    """mask function (b, h, query, key) -> bool: features before the root of the own document, and the own block"""
    doc, row_doc, row_anchor, row_block = blocks["doc"], blocks["row_doc"], blocks["row_anchor"], blocks["row_block"]

    def mask(b, h, q, kv):
        at, row = kv.clamp(max=S - 1), (kv - S).clamp(min=0)
        feature = (kv < S) & (doc[b, at] == row_doc[b, q]) & (at < row_anchor[b, q])
        return feature | ((kv >= S) & (row_block[b, row] == row_block[b, q]))
    return mask


def dense_mask(blocks):
    """the same mask as a bool tensor [B, 1, Q, S + Q]"""
    (B, S), Q = blocks["doc"].shape, blocks["row_doc"].shape[1]
    dev = blocks["doc"].device
    index = lambda n, dim: torch.arange(n, device=dev).view([-1 if d == dim else 1 for d in range(4)])
    return visible(blocks, S)(index(B, 0), 0, index(Q, 2), index(S + Q, 3))
