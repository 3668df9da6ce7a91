"""The qwen35 architecture (Qwen3.5's dense text models) in PyTorch, as llama.cpp's src/models/qwen35.cpp computes it.

Used to train a target (tiny_qwen35/) and, frozen, to read one from its GGUF. Weights have the GGUF's names, layout
and units throughout: norms hold their factor itself, ssm_a is -exp(A_log), and value head h goes with key head
h % k_heads (Hugging Face's checkpoints order value heads by key head instead).
Shapes: B rows, S tokens, E hidden, H / KV attention heads, K key heads, V value heads, D head size, C chunk.
"""
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from target import read_gguf, rms_norm, rope, rope_tables

CHUNK = 64
FORGET = -40.0   # log of the decay at a text's first token: nothing is left of the text before it in the row

try:
    import triton
    import triton.language as tl

    @triton.jit
    def _inverse_kernel(a_ptr, out_ptr, C: tl.constexpr):
        """one matrix [C, C]: (I + strictly lower A)^-1 by forward substitution, row after row"""
        row, col = tl.arange(0, C), tl.arange(0, C)
        at = tl.program_id(0) * C * C + row[:, None] * C + col[None, :]
        a = tl.load(a_ptr + at)
        out = tl.where(row[:, None] == col[None, :], 1.0, 0.0)
        for i in range(1, C):
            this = row[:, None] == i
            factors = tl.sum(tl.where(this, a, 0.0), 0)            # row i of A, over columns j < i
            known = tl.sum(tl.where((row[:, None] < i), tl.trans(tl.expand_dims(factors, 0)) * out, 0.0), 0)
            out = tl.where(this, out - tl.expand_dims(known, 0), out)
        tl.store(out_ptr + at, out)
except ImportError:
    triton = None


@torch.library.custom_op("llama_dflash::unit_lower_inverse", mutates_args=())
def unit_lower_inverse(a: torch.Tensor) -> torch.Tensor:
    """(I + A)^-1 for strictly lower A [..., C, C], float32"""
    if a.is_cuda:
        a, out = a.contiguous(), torch.empty_like(a, memory_format=torch.contiguous_format)
        _inverse_kernel[(a.numel() // a.shape[-1] ** 2,)](a, out, a.shape[-1], num_warps=4)
        return out
    eye = torch.eye(a.shape[-1], device=a.device, dtype=a.dtype)
    return torch.linalg.solve_triangular(a + eye, eye.expand_as(a), upper=False, unitriangular=True).contiguous()


@unit_lower_inverse.register_fake
def _(a):
    return torch.empty_like(a, memory_format=torch.contiguous_format)


def _inverse_backward(ctx, grad):
    inverse, = ctx.saved_tensors
    return -(inverse.mT @ grad @ inverse.mT).tril(-1)


unit_lower_inverse.register_autograd(_inverse_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(output))


@dataclass
class Shape:
    n_layer: int = 12
    n_embd: int = 384
    ffn: int = 1024
    n_vocab: int = 8192
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64
    n_rot: int = 16
    rope_base: float = 10000.0
    k_heads: int = 3        # of the Gated DeltaNet layers
    v_heads: int = 6
    state: int = 64         # their head size, of keys and of values
    conv: int = 4
    interval: int = 4       # every interval-th layer is full attention
    eps: float = 1e-6
    n_ctx: int = 2048

    @property
    def conv_dim(self):
        return (2 * self.k_heads + self.v_heads) * self.state

    def is_attention(self, i):
        return (i + 1) % self.interval == 0

    def tensors(self, i):
        """{name: shape} of layer i, as in the GGUF"""
        E, inner = self.n_embd, self.v_heads * self.state
        common = dict(attn_norm=(E,), post_attention_norm=(E,), ffn_gate=(self.ffn, E), ffn_up=(self.ffn, E), ffn_down=(E, self.ffn))
        if self.is_attention(i):
            return dict(attn_q=(2 * self.heads * self.head_dim, E), attn_k=(self.kv_heads * self.head_dim, E), attn_v=(self.kv_heads * self.head_dim, E),
                        attn_output=(E, self.heads * self.head_dim), attn_q_norm=(self.head_dim,), attn_k_norm=(self.head_dim,), **common)
        return dict(attn_qkv=(self.conv_dim, E), attn_gate=(inner, E), ssm_conv1d=(self.conv_dim, self.conv), ssm_dt=(self.v_heads,), ssm_a=(self.v_heads,),
                    ssm_beta=(self.v_heads, E), ssm_alpha=(self.v_heads, E), ssm_norm=(self.state,), ssm_out=(E, inner), **common)


# where a layer's tensor is not called blk.N.<name>.weight
SUFFIX = {"ssm_dt": "ssm_dt.bias", "ssm_a": "ssm_a"}


def tensor_name(i, name):
    return f"blk.{i}.{SUFFIX.get(name, name + '.weight')}"


# ---- Gated DeltaNet

def causal_conv(x, kernel, pos):
    """depthwise convolution and SiLU of x [B, S, channels]; taps do not reach over a text's first token (pos 0)"""
    taps = kernel.shape[1]
    out = x * kernel[:, -1].to(x.dtype)
    for back in range(1, taps):
        past = F.pad(x, (0, 0, back, 0))[:, :x.shape[1]]
        out = out + past * kernel[:, -1 - back].to(x.dtype) * (pos >= back)[..., None].to(x.dtype)
    return F.silu(out)


def unit(x, eps):
    x = x.float()
    return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + eps)


def split_qkv(x, c):
    """the convolved channels [..., conv_dim] -> q and k of length 1 [..., K, D], v [..., V, D], float32"""
    q, k, v = x.split([c.k_heads * c.state, c.k_heads * c.state, c.v_heads * c.state], -1)
    heads = lambda t: t.unflatten(-1, (-1, c.state))
    return unit(heads(q), c.eps), unit(heads(k), c.eps), heads(v).float()


def step_delta_rule(q, k, v, g, beta, state):
    """the recurrence itself, one token: q, k [B, K, D], v [B, V, D], g, beta [B, V]; state [B, V, D, D] is changed"""
    D, repeat = q.shape[-1], v.shape[1] // q.shape[1]
    q, k = q.repeat(1, repeat, 1) * D ** -0.5, k.repeat(1, repeat, 1)
    state.mul_(g.exp()[..., None, None])
    change = (v - (k[:, :, None] @ state)[:, :, 0]) * beta[..., None]
    state.flatten(0, 1).baddbmm_(k.flatten(0, 1)[..., None], change.flatten(0, 1)[:, None])
    return (q[:, :, None] @ state)[:, :, 0]


def chunked_delta_rule(q, k, v, g, beta):
    """the same for whole rows: q, k [B, S, K, D], v [B, S, V, D], g, beta [B, S, V] -> [B, S, V, D]

    Within a chunk of C tokens the recurrence is a triangular system (arXiv 2412.06464, section 3.3). A chunk maps
    the state as S -> M S + N, and a scan over (M, N) gives every chunk its first state.
    """
    (B, S, K, D), V = q.shape, v.shape[2]
    pad = -S % CHUNK
    q, k, v, g, beta = (F.pad(t, (0, 0) * (t.dim() - 2) + (0, pad)) for t in (q, k, v, g, beta))
    chunks = lambda t: t.unflatten(1, (-1, CHUNK))
    by_key = lambda t: chunks(t).permute(0, 3, 1, 2, 4)[:, None]                                           # [B, 1, K, n, C, D]
    by_value = lambda t: chunks(t).unflatten(3, (V // K, K)).movedim((3, 4), (1, 2))                       # [B, V/K, K, n, C, ...]
    q, k, v, g, beta = by_key(q * D ** -0.5), by_key(k), by_value(v), by_value(g), by_value(beta)[..., None]
    decay = g.cumsum(-1)
    since = (decay[..., :, None] - decay[..., None, :]).tril().exp().tril()
    inverse = unit_lower_inverse(((k @ k.mT) * since * beta).tril(-1).float())
    start, end = decay.exp()[..., None], (decay[..., -1:] - decay).exp()[..., None]
    u, w = inverse @ (v * beta), inverse @ (k * beta * start)
    k_end, read = (k * end).mT, (q @ k.mT) * since
    last = decay[..., -1].exp()[..., None, None]
    states = scan_chunks(last * torch.eye(D, device=q.device) - k_end @ w, k_end @ u)
    out = (q * start) @ states + read @ (u - w @ states)
    return out.movedim((1, 2), (3, 4)).reshape(B, S + pad, V, D)[:, :S]


def scan_chunks(m, n):
    """the state before each chunk [..., n, D, D], if chunk i maps the state S to m[i] S + n[i] and the first is 0"""
    with torch.autocast(m.device.type, enabled=False):
        m, n, step, count = m.float(), n.float(), 1, m.shape[-3]
        first, rest = lambda t: t[..., :step, :, :], lambda t: t[..., step:, :, :]
        before = lambda t: t[..., :count - step, :, :]
        while step < count:
            n = torch.cat([first(n), rest(n) + rest(m) @ before(n)], -3)
            if 2 * step < count:
                m = torch.cat([first(m), rest(m) @ before(m)], -3)
            step *= 2
        return F.pad(n[..., :-1, :, :], (0, 0, 0, 0, 1, 0))


def delta_rows(pos, c, qkv, kernel, g, beta):
    """window and state of whole rows of texts side by side, pos [B, S] counting from 0 in each"""
    q, k, v = split_qkv(causal_conv(qkv, kernel, pos), c)
    return chunked_delta_rule(q, k, v, torch.where(pos[..., None] == 0, FORGET, g), beta)


# ---- layers

def attention_layer(x, cos, sin, w, c, attend):
    """full attention, gated; rotary on the first n_rot dimensions. attend(q, k, v) -> [B, H, S, D]"""
    heads = lambda t, n: t.unflatten(-1, (n, -1)).transpose(1, 2)
    turn = lambda t: torch.cat([rope(t[..., :c.n_rot], cos, sin), t[..., c.n_rot:]], -1)
    h = rms_norm(x, w["attn_norm"], c.eps)
    q, gate = heads(F.linear(h, w["attn_q"]), c.heads).chunk(2, -1)
    k, v = heads(F.linear(h, w["attn_k"]), c.kv_heads), heads(F.linear(h, w["attn_v"]), c.kv_heads)
    q, k = turn(rms_norm(q, w["attn_q_norm"], c.eps)), turn(rms_norm(k, w["attn_k_norm"], c.eps))
    out = attend(q.to(v.dtype), k.to(v.dtype), v) * gate.sigmoid()
    return feed_forward(x + F.linear(out.transpose(1, 2).flatten(2), w["attn_output"]), w, c)


def delta_layer(x, w, c, recur):
    """Gated DeltaNet; recur(qkv, kernel, g, beta) -> [B, S, V, D] owns the convolution's window and the state"""
    h = rms_norm(x, w["attn_norm"], c.eps)
    beta = F.linear(h, w["ssm_beta"]).float().sigmoid()
    g = w["ssm_a"].float() * F.softplus(F.linear(h, w["ssm_alpha"]).float() + w["ssm_dt"].float())
    out = recur(F.linear(h, w["attn_qkv"]), w["ssm_conv1d"], g, beta)
    gate = F.silu(F.linear(h, w["attn_gate"])).unflatten(-1, (c.v_heads, c.state))
    out = rms_norm(out, w["ssm_norm"], c.eps).to(gate.dtype) * gate
    return feed_forward(x + F.linear(out.flatten(2), w["ssm_out"]), w, c)


def feed_forward(x, w, c):
    h = rms_norm(x, w["post_attention_norm"], c.eps)
    return x + F.linear(F.silu(F.linear(h, w["ffn_gate"])) * F.linear(h, w["ffn_up"]), w["ffn_down"])


def layer_forward(x, cos, sin, w, c, mixer):
    """mixer: attend of an attention layer, recur of a Gated DeltaNet layer"""
    return attention_layer(x, cos, sin, w, c, mixer) if "attn_q" in w else delta_layer(x, w, c, mixer)


def over_rows(c, attention, wrap):
    """a `layer` for whole rows, its parts wrapped (compiled); its mixers are attention(q, k, v, mask)'s mask, or positions"""
    full = wrap(lambda x, cos, sin, w, mask: attention_layer(x, cos, sin, w, c, lambda q, k, v: attention(q, k, v, mask)))
    delta = wrap(lambda x, w, pos: delta_layer(x, w, c, partial(delta_rows, pos, c)))
    return lambda x, cos, sin, w, c, mixer: full(x, cos, sin, w, mixer) if "attn_q" in w else delta(x, w, mixer)


def run_layers(x, positions, layers, c, mixer, taps=(), layer=layer_forward):
    """x [B, S, E] through all layers -> (last hidden, [inputs of the layers in taps])"""
    cos, sin = rope_tables(positions, c.n_rot, c.rope_base)
    kept = []
    for i, w in enumerate(layers):
        if i in taps:
            kept.append(x)
        x = layer(x, cos, sin, w, c, mixer(i))
    return x, kept


class Qwen35Target:
    """a frozen target of this architecture from its GGUF; the interface of target.Target"""

    stop = (0, 2)      # <|endoftext|>, <|im_end|>
    system = None      # no system message unless the user writes one
    # what a drafter's Config takes from this target
    draft = dict(ffn=1024, n_embd=384, heads=6, kv_heads=2, head_dim=64, taps=(1, 4, 7, 9, 11), rope_base=10000.0, eps=1e-6, mask_token=3)

    def __init__(self, path, device="cpu", dtype=torch.float32, gguf_py=None):
        self.reader = read_gguf(path, gguf_py)
        key = lambda name: self.reader.fields["qwen35." + name].contents()
        self.shape = c = Shape(
            n_layer=key("block_count"), n_embd=key("embedding_length"), ffn=key("feed_forward_length"), heads=key("attention.head_count"),
            kv_heads=key("attention.head_count_kv"), head_dim=key("attention.key_length"), n_rot=key("rope.dimension_count"), rope_base=key("rope.freq_base"),
            k_heads=key("ssm.group_count"), v_heads=key("ssm.time_step_rank"), state=key("ssm.state_size"), conv=key("ssm.conv_kernel"),
            interval=key("full_attention_interval"), eps=key("attention.layer_norm_rms_epsilon"), n_ctx=key("context_length"),
            n_vocab=len(self.reader.fields["tokenizer.ggml.tokens"].contents()))
        self.n_layer, self.n_embd, self.n_vocab, self.device, self.dtype = c.n_layer, c.n_embd, c.n_vocab, device, dtype
        from gguf.quants import dequantize
        raw = {t.name: t for t in self.reader.tensors}
        get = lambda name: torch.from_numpy(np.array(dequantize(raw[name].data, raw[name].tensor_type), dtype=np.float32))
        put = lambda name: get(name).to(device, dtype).contiguous()
        self.embd, self.norm = put("token_embd.weight"), put("output_norm.weight")
        self.layers = [{name: put(tensor_name(i, name)) for name in c.tensors(i)} for i in range(c.n_layer)]

    def forward(self, tokens, positions, attend, taps=(), layer=layer_forward, recur=None):
        """tokens, positions [B, S] -> (normed last hidden [B, S, E], inputs of the layers in taps [B, S, len(taps)*E])

        attend(i) and recur(i) are the mixers of layer i; without recur rows are whole texts (positions from 0).
        """
        c = self.shape
        recur = recur or (lambda i: self.whole_rows(positions, layer))
        x, kept = run_layers(self.embd[tokens], positions, self.layers, c, lambda i: (attend if c.is_attention(i) else recur)(i), taps, layer)
        return rms_norm(x, self.norm, c.eps), torch.cat(kept, -1) if kept else None

    def whole_rows(self, positions, layer):
        """what `layer` takes as a Gated DeltaNet layer's mixer for whole rows"""
        return partial(delta_rows, positions, self.shape) if layer is layer_forward else positions

    def over_rows(self, attention, wrap):
        return over_rows(self.shape, attention, wrap)

    def logits(self, hidden):
        return F.linear(hidden, self.embd).float()

    def tokenizer(self):
        """the GGUF's byte-level BPE"""
        from tokenizers import AddedToken
        from tiny_qwen35.tokenizer import qwen35_bpe
        field = lambda name: self.reader.fields["tokenizer.ggml." + name].contents()
        tokens = field("tokens")
        tok = qwen35_bpe({t: i for i, t in enumerate(tokens)}, [tuple(m.split(" ")) for m in field("merges")])
        tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, field("token_type")) if kind == 3])
        return tok

    def cache(self, slots, max_len):
        return HybridCache(self, slots, max_len)


class HybridCache:
    """memory of `slots` texts for generate.Generator: key/value cells, convolution windows, states"""

    def __init__(self, target, slots, max_len):
        c, dev = target.shape, target.device
        zeros = lambda *shape, dtype: torch.zeros(slots, *shape, dtype=dtype, device=dev)
        attention = [i for i in range(c.n_layer) if c.is_attention(i)]
        delta = [i for i in range(c.n_layer) if not c.is_attention(i)]
        self.target, self.rows = target, torch.arange(slots, device=dev)
        self.k, self.v = ({i: zeros(c.kv_heads, max_len, c.head_dim, dtype=target.dtype) for i in attention} for _ in range(2))
        self.window = {i: zeros(c.conv - 1, c.conv_dim, dtype=target.dtype) for i in delta}
        self.state = {i: zeros(c.v_heads, c.state, c.state, dtype=torch.float32) for i in delta}

    def fill(self, slots, ids, lengths):
        """forget what the slots held; their prompts are walked token by token from position 0, which is returned"""
        for memory in (self.window, self.state):
            for tensor in memory.values():
                tensor[slots] = 0
        return torch.zeros_like(lengths)

    def step(self, tokens, pos, decode_attention):
        """one token for every slot: tokens, pos [slots] -> normed last hidden [slots, E]"""
        c = self.target.shape

        def attend(i, q, k, v):
            self.k[i][self.rows, :, pos], self.v[i][self.rows, :, pos] = k[:, :, 0], v[:, :, 0]
            return decode_attention(q, self.k[i], self.v[i], pos)

        def recur(i, qkv, kernel, g, beta):
            window = torch.cat([self.window[i], qkv], 1)                     # [slots, conv, channels]
            self.window[i].copy_(window[:, 1:])
            q, k, v = split_qkv(F.silu((window * kernel.T.to(window.dtype)).sum(1)), c)
            return step_delta_rule(q, k, v, g[:, 0], beta[:, 0], self.state[i])[:, None]

        hidden, _ = self.target.forward(tokens[:, None], pos[:, None], lambda i: partial(attend, i), recur=lambda i: partial(recur, i))
        return hidden[:, 0]
