"""The next-token-prediction head (MTP) of the qwen35 architecture in PyTorch: the arithmetic of llama.cpp's graph_mtp in src/models/qwen35.cpp.

One attention layer with a cache of its own. At position p it takes the token x_p and the hidden state of position p-1,
and predicts x_{p+1} with the target's embeddings and output head. The hidden state is the target's (after its output
norm) where the target has seen p-1, and the head's own output where it has not: drafting further is running the same
layer again. Position 0 has no hidden state before it and takes zeros.
Shapes: B rows, S tokens, E hidden, H / KV attention heads, D head size.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from drafter import stored
from qwen35 import attention_layer, tensor_name
from target import read_gguf, rms_norm, rope_tables

NEXTN = ("nextn.eh_proj", "nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm")


def tensors(c):
    """{name: shape} of the head, as in the GGUF; its layer is one of full attention"""
    E = c.n_embd
    return {**c.tensors(c.interval - 1), "nextn.eh_proj": (E, 2 * E), **dict.fromkeys(NEXTN[1:], (E,))}


def head_step(embd, before, cos, sin, w, c, attend):
    """embd, before [B, S, E]: the tokens' embeddings and the hidden states of the positions before -> hidden states [B, S, E]

    The result is the next step's `before` and, times the output head, the logits. w: the head's weights by name.
    """
    both = torch.cat([rms_norm(embd, w["nextn.enorm"], c.eps), rms_norm(before, w["nextn.hnorm"], c.eps)], -1)
    x = attention_layer(F.linear(both, w["nextn.eh_proj"]), cos, sin, w, c, attend)
    return rms_norm(x, w["nextn.shared_head_norm"], c.eps)


class Head(nn.Module):
    """the head's weights, starting from the target's last attention layer"""

    def __init__(self, target, layer_type="Q4_0"):
        super().__init__()
        c = self.shape = target.shape
        self.layer_type, self.index = layer_type, c.n_layer
        like = max(i for i in range(c.n_layer) if c.is_attention(i))
        self.weights = nn.ParameterDict()
        for name, shape in tensors(c).items():
            given = target.norm if name == "nextn.shared_head_norm" else target.layers[like].get(name)
            first = given.float().clone() if given is not None else torch.ones(shape) if len(shape) == 1 else torch.eye(shape[0]).repeat(1, 2) * 0.5
            self.weights[name.replace(".", "/")] = nn.Parameter(first)

    def tensors(self, mix=0.0):
        """{name: weight}; mix 1: as the file will hold them, the gradient passing straight through"""
        return {k.replace("/", "."): stored(p, self.layer_type, mix) if p.dim() == 2 else p for k, p in self.weights.items()}


def load_head(path, c, index, device="cpu", gguf_py=None):
    """{name: float32 tensor} of the head that a GGUF holds as layer `index`"""
    reader = read_gguf(path, gguf_py)
    from gguf.quants import dequantize
    raw = {t.name: t for t in reader.tensors}
    get = lambda name: torch.from_numpy(np.array(dequantize(raw[name].data, raw[name].tensor_type), dtype=np.float32)).to(device)
    return {name: get(tensor_name(index, name)) for name in tensors(c)}


def shift(x, n, dim=1):
    """x moved n places to the right along dim, zeros coming in"""
    if n == 0:
        return x
    return torch.cat([torch.zeros_like(x.narrow(dim, 0, n)), x.narrow(dim, 0, x.shape[dim] - n)], dim)


class Rollout:
    """attention of depth after depth, for every root of packed rows at once

    A draft from root r sees the cells of positions up to r as depth 1 wrote them, from the target's hidden states, and
    its own cells of r+1, r+2, ... as depths 2, 3, ... wrote them. So the query of depth k at position p, whose root is
    p-k+1, sees depth 1's keys up to its root and one key of every later depth.
    """

    def __init__(self, doc):
        """doc [B, S]: which text of the row a token belongs to"""
        self.doc, self.keys, self.values = doc, [], []
        at = torch.arange(doc.shape[1], device=doc.device)
        self.back = (at[:, None] - at)[None, None]                              # query minus key
        self.same = (doc[:, :, None] == doc[:, None, :])[:, None]

    def __call__(self, q, k, v):
        wide = lambda t: t.repeat_interleave(q.shape[1] // t.shape[1], 1)
        self.keys.append(wide(k))
        self.values.append(wide(v))
        depth = len(self.keys)
        later = range(1, depth)                                                  # index of depths 2...
        q = q * q.shape[-1] ** -0.5
        scores = (q @ self.keys[0].mT).masked_fill(~(self.same & (self.back >= depth - 1)), -torch.inf)
        own = [(q * shift(self.keys[j], depth - 1 - j, 2)).sum(-1, keepdim=True) for j in later]
        seen = [(self.doc == shift(self.doc, depth - 1 - j))[:, None, :, None] for j in later]
        own = [s.masked_fill(~ok, -torch.inf) for s, ok in zip(own, seen)]
        share = torch.cat([scores, *own], -1).softmax(-1, dtype=torch.float32).to(v.dtype)
        first = q.shape[2]
        out = share[..., :first] @ self.values[0]
        for n, j in enumerate(later):
            out = out + share[..., first + n:first + n + 1] * shift(self.values[j], depth - 1 - j, 2)
        return out


def roll_out(embd, hidden, pos, doc, w, c, depths, step=head_step):
    """yield the hidden states [B, S, E] of depths 1 to `depths`; entry p of depth k predicts token p+1 for root p-k+1

    embd, hidden [B, S, E]: embeddings of the text's tokens, and the target's hidden state at each of them.
    """
    cos, sin = rope_tables(pos, c.n_rot, c.rope_base)
    attend = Rollout(doc)
    before = shift(hidden, 1).masked_fill((pos == 0)[..., None], 0)
    for _ in range(depths):
        out = step(embd, before, cos, sin, w, c, attend)
        yield out
        before = shift(out, 1)
