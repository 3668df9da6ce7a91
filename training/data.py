"""Documents to packed rows, and random draft blocks on them.

A row is S tokens of several documents side by side. Blocks of random length start at random anchors (roots)
in the text that the target wrote; a row's blocks lie side by side in Q slots, so nothing is wasted on padding.
"""
import numpy as np
import torch

BLOCK_LENGTHS = torch.tensor([4, 6, 8, 12, 16])
BLOCK_SHARES = torch.tensor([.12, .10, .25, .10, .43])


def load_documents(path):
    """list of dicts: tokens, start (first generated token), kind, hot, prompt"""
    z = dict(np.load(path))   # an npz member is read anew at every access
    off, tokens = z["offsets"], z["tokens"]
    docs = [dict(tokens=tokens[off[i]:off[i + 1]], start=int(z["start"][i]), kind=str(z["kinds"][z["kind"][i]]), hot=int(z["hot"][i]),
                 prompt=int(z["prompt"][i])) for i in range(len(off) - 1)]
    return [d for d in docs if len(d["tokens"]) >= d["start"] + 4]


def split(docs, every=80):
    """(training, held-out): every 80th prompt is held out with all its documents"""
    return [d for d in docs if d["prompt"] % every], [d for d in docs if d["prompt"] % every == 0]


def pack(docs, S, rng):
    """dict of [R, S] arrays: tokens, doc (number in the row, -1 padding), pos, anchor (may a block start here)"""
    bins, open_bins = [], []
    for n in rng.permutation(len(docs)):
        size = min(len(docs[n]["tokens"]), S)
        fits = [b for b in open_bins if b[0] >= size]
        best = min(fits, key=lambda b: b[0]) if fits else None
        if best is None:
            best = [S, []]
            bins.append(best)
            open_bins = (open_bins + [best])[-24:]
        best[0] -= size
        best[1].append(n)
    shape = (len(bins), S)
    out = dict(tokens=np.zeros(shape, np.int32), doc=np.full(shape, -1, np.int16), pos=np.zeros(shape, np.int16), anchor=np.zeros(shape, bool))
    for row, (_, members) in enumerate(bins):
        at = 0
        for number, n in enumerate(members):
            tokens, start = docs[n]["tokens"][:S], docs[n]["start"]
            here = slice(at, at + len(tokens))
            out["tokens"][row, here], out["doc"][row, here], out["pos"][row, here] = tokens, number, np.arange(len(tokens))
            out["anchor"][row, at + start - 1:at + len(tokens) - 1] = True
            at += len(tokens)
    return out


def draft_vocabulary(docs, n_vocab, n_target, always):
    """(target ids of the n_vocab most written tokens, most frequent first; share of the written tokens they cover)"""
    counts = np.zeros(n_target, np.int64)
    for d in docs:
        counts += np.bincount(d["tokens"][d["start"]:].astype(np.int64), minlength=n_target)
    total = counts.sum()
    ranked = counts.copy()
    ranked[list(always)] += total
    ids = np.argsort(-ranked, kind="stable")[:n_vocab]
    return ids, float(counts[ids].sum() / total), counts


def sample_blocks(rows, Q, t2d, mask_token, depth_scale, generator=None):
    """rows: tensors [B, S] from pack(). Adds random blocks: row_* tensors [B, Q], label (draft ids, -100 none), weight"""
    B, S = rows["tokens"].shape
    dev = rows["tokens"].device
    score = torch.rand(B, S, device=dev, generator=generator).masked_fill(~rows["anchor"], -1)
    order = score.argsort(1, descending=True)
    lengths = BLOCK_LENGTHS.to(dev)[torch.multinomial(BLOCK_SHARES.to(dev), B * S, True, generator=generator).view(B, S)]
    lengths = lengths * rows["anchor"]
    kept = lengths.gather(1, order).cumsum(1) <= Q
    lengths = lengths * torch.zeros_like(kept).scatter(1, order, kept)
    return place_blocks(rows, lengths, Q, t2d, mask_token, depth_scale)


def place_blocks(rows, lengths, Q, t2d, mask_token, depth_scale):
    """lengths [B, S]: length of the block whose root is that token, 0 for none; blocks lie in order of their roots"""
    B, S = lengths.shape
    dev = lengths.device
    ends = lengths.cumsum(1).contiguous()
    slot = torch.arange(Q, device=dev).expand(B, Q).contiguous()
    anchor = torch.searchsorted(ends, slot, right=True)
    used, at = anchor < S, anchor.clamp_max(S - 1)
    take = lambda x, index: x.gather(1, index)
    offset = torch.where(used, slot - (take(ends, at) - take(lengths, at)), 0)
    doc = rows["doc"].long()
    goal = (at + offset).clamp_max(S - 1)
    real = used & (offset > 0) & (at + offset < S) & (take(doc, goal) == take(doc, at))
    label = torch.where(real, t2d[take(rows["tokens"].long(), goal)], -100)
    return dict(doc=doc, row_doc=torch.where(used, take(doc, at), -2), row_anchor=at, row_block=torch.where(used, at, -1),
                row_offset=offset, row_pos=take(rows["pos"].long(), at) + offset, real=real, label=label,
                row_token=torch.where(offset == 0, take(rows["tokens"].long(), at), mask_token),
                weight=torch.where(label >= 0, torch.exp(-(offset - 1) / depth_scale), 0.0))
