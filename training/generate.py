"""Let the target write text for every prompt, on one GPU: continuous batching over a static KV cache.

usage: generate.py --target T.gguf --prompts prompts.jsonl --humaneval humaneval.jsonl --seconds 150 -o data.npz
Every prompt gets several plans: greedy; some sampled tokens and then greedy (new situations, greedy text);
sampled throughout. data.npz: tokens (uint16, all documents one after the other), offsets, start (first
generated token of each document), kind (index into kinds), hot (tokens that were sampled).
"""
import argparse
import json
import random
import time

import numpy as np
import torch
import torch.nn.functional as F

from prompts import Filter
from target import load_target

# kind: [(share of prompts, sampled tokens before greedy, temperature, new tokens)]
ALL = 10_000
PLANS = {
    "code_raw": [(1, 0, 0, 320), (.6, 24, .9, 320), (.3, ALL, .7, 256)],
    "code_chat": [(1, 0, 0, 384), (.6, 24, .9, 320), (.3, ALL, .7, 256)],
    "gsm_chat": [(1, 0, 0, 320), (.7, 16, .9, 256), (.2, ALL, .7, 256)],
    "gsm_plain": [(1, 0, 0, 256), (.7, 16, .9, 256), (.2, ALL, .7, 256)],
    "general_chat": [(1, 0, 0, 384), (1, 16, 1., 384), (1, 16, 1., 384), (1, ALL, .8, 384)],
    "doc_raw": [(1, 0, 0, 256), (1, 24, .9, 256)],
    "self_code": [(1, 80, .9, 400), (.2, ALL, .8, 400)],
    "chat_self": [(1, 0, 0, 384), (.4, 16, .9, 320), (.2, ALL, .8, 320)],
}

try:
    import triton
    import triton.language as tl

    @triton.jit
    def _decode_kernel(q_ptr, k_ptr, v_ptr, pos_ptr, out_ptr, max_len, KVH: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
        """one (slot, key/value head): G query rows over the slot's first pos+1 cache cells"""
        pid = tl.program_id(0)
        n = tl.load(pos_ptr + pid // KVH) + 1
        row, col, cell = tl.arange(0, 16), tl.arange(0, D), tl.arange(0, BLOCK)
        base = pid.to(tl.int64) * max_len * D
        q = tl.load(q_ptr + pid * G * D + row[:, None] * D + col[None, :], mask=row[:, None] < G, other=0.0)
        best = tl.full([16], -1e30, tl.float32)
        total = tl.zeros([16], tl.float32)
        acc = tl.zeros([16, D], tl.float32)
        for start in range(0, n, BLOCK):
            at = base + (start + cell)[:, None] * D + col[None, :]
            ok = (start + cell) < n
            k = tl.load(k_ptr + at, mask=ok[:, None], other=0.0)
            score = tl.where(ok[None, :], tl.dot(q, tl.trans(k)) * (1.0 / D ** 0.5), -1e30)
            new = tl.maximum(best, tl.max(score, 1))
            p, scale = tl.exp(score - new[:, None]), tl.exp(best - new)
            v = tl.load(v_ptr + at, mask=ok[:, None], other=0.0)
            acc = acc * scale[:, None] + tl.dot(p.to(v.dtype), v)
            total, best = total * scale + tl.sum(p, 1), new
        tl.store(out_ptr + pid * G * D + row[:, None] * D + col[None, :], (acc / total[:, None]).to(q.dtype), mask=row[:, None] < G)
except ImportError:
    triton = None


def decode_attention(q, k_cache, v_cache, pos):
    """q [B, H, 1, D] over caches [B, KVH, max_len, D], cells 0..pos[B]"""
    B, H, _, D = q.shape
    kv_heads, max_len = k_cache.shape[1:3]
    if triton and q.is_cuda:
        q, out = q.contiguous(), torch.empty_like(q, memory_format=torch.contiguous_format)
        _decode_kernel[(B * kv_heads,)](q, k_cache, v_cache, pos, out, max_len, kv_heads, H // kv_heads, D, 64)
        return out
    mask = (torch.arange(max_len, device=q.device) <= pos[:, None])[:, None, None]
    return F.scaled_dot_product_attention(q, k_cache, v_cache, attn_mask=mask, enable_gqa=True)


class Generator:
    """`slots` documents at a time; a finished one is replaced by the next job"""

    def __init__(self, target, slots, max_len, harvest_every=32):
        self.t, self.slots, self.max_len, self.every = target, slots, max_len, harvest_every
        dev = target.device
        self.cache = target.cache(slots, max_len)
        self.tokens = torch.zeros(slots, max_len, dtype=torch.long, device=dev)
        self.pos, self.prompt, self.hot_until = (torch.zeros(slots, dtype=torch.long, device=dev) for _ in range(3))
        self.temperature = torch.zeros(slots, device=dev)
        self.rows = torch.arange(slots, device=dev)
        self.graph = None

    def _step(self):
        """write one token for every slot that is past its prompt"""
        logits = self.t.logits(self.cache.step(self.tokens[self.rows, self.pos], self.pos, decode_attention))
        heat = torch.where(self.pos + 1 < self.hot_until, self.temperature, 0)[:, None]
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp_(1e-10, 1 - 1e-7)))
        chosen = (logits + heat * noise).argmax(-1)
        self.pos.copy_((self.pos + 1).clamp_max(self.max_len - 1))
        self.tokens[self.rows, self.pos] = torch.where(self.pos < self.prompt, self.tokens[self.rows, self.pos], chosen)

    def step(self):
        if not self.tokens.is_cuda:
            return self._step()
        if self.graph is None:
            for _ in range(2):
                self._step()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._step()
        self.graph.replay()

    def prefill(self, slots, jobs):
        """put jobs' prompts into slots"""
        width = -(-max(len(j["ids"]) for j in jobs) // 32) * 32
        ids = torch.zeros(len(jobs), width, dtype=torch.long)
        for row, job in enumerate(jobs):
            ids[row, :len(job["ids"])] = torch.tensor(job["ids"])
        dev = self.tokens.device
        ids, slots = ids.to(dev), torch.tensor(slots, device=dev)
        length = torch.tensor([len(j["ids"]) for j in jobs], device=dev)
        self.tokens[slots, :width] = ids
        self.prompt[slots], self.pos[slots] = length, self.cache.fill(slots, ids, length)
        self.hot_until[slots] = length + torch.tensor([j["hot"] for j in jobs], device=dev)
        self.temperature[slots] = torch.tensor([float(j["temperature"]) for j in jobs], device=dev)

    @torch.no_grad()
    def run(self, jobs, seconds=1e9, on_progress=None):
        """jobs: dicts with ids, hot, temperature, new; yields (job, tokens) as they finish"""
        jobs, began = iter(jobs), time.time()
        live, free, more = {}, list(range(self.slots)), True
        if self.graph is None:   # capture before any slot holds text
            self.step()
        while live or more:
            if more and free:
                batch = [j for _, j in zip(range(len(free)), jobs)]
                more = len(batch) == len(free)
                for part in range(0, len(batch), 256):
                    chosen = batch[part:part + 256]
                    slots = [free.pop() for _ in chosen]
                    live.update(zip(slots, chosen))
                    self.prefill(slots, chosen)
            if time.time() - began > seconds:
                more = False
                if time.time() - began > seconds + 15:
                    return
            for _ in range(self.every):
                self.step()
            yield from self._harvest(live, free)

    def _harvest(self, live, free):
        """yield and free the slots whose document stopped, loops, or reached its length"""
        tokens, pos, column = self.tokens.cpu().numpy(), self.pos.cpu().numpy(), np.arange(self.max_len)
        start, limit = np.full(self.slots, self.max_len), np.full(self.slots, self.max_len - 1)
        for slot, job in live.items():
            start[slot] = len(job["ids"])
            limit[slot] = min(start[slot] + job["new"], self.max_len - 1)
        stop = np.isin(tokens, self.t.stop) & (column >= start[:, None]) & (column <= pos[:, None])
        first_stop = np.where(stop.any(1), stop.argmax(1), self.max_len)
        end = np.minimum(np.minimum(pos + 1, limit), first_stop + 1)
        done = (end == first_stop + 1) | (end == limit) | loops(tokens, pos)
        for slot in np.flatnonzero(done & (start < self.max_len)):
            yield live.pop(slot), tokens[slot, :end[slot]].copy()
            free.append(slot)


def loops(tokens, pos, length=96, max_period=32):
    """slots whose last `length` tokens repeat with a period of at most max_period"""
    first = np.maximum(pos - length - max_period + 1, 0)
    window = tokens[np.arange(len(pos))[:, None], first[:, None] + np.arange(length + max_period)]
    same = np.stack([(window[:, p:] == window[:, :-p])[:, -length:].all(1) for p in range(1, max_period + 1)])
    return same.any(0) & (pos > length + max_period)


def make_jobs(rows, encode, rng, max_prompt=300):
    """expand each prompt into its plans, in random order, so that stopping early keeps the mix"""
    jobs = []
    for number, row in enumerate(rows):
        ids = row.get("ids") or encode(row["text"])
        for share, hot, temperature, new in PLANS.get(row["kind"], ()):
            if rng.random() < share and 0 < len(ids) <= max_prompt:
                jobs.append(dict(ids=ids, kind=row["kind"], prompt=number, hot=hot, temperature=temperature, new=new))
    rng.shuffle(jobs)
    return jobs


def invent_requests(generator, rows, encode, tok):
    """phase 1: the target writes the user's turn after an opened chat; returns chat prompts of kind chat_self"""
    seeds = [dict(ids=encode(r["text"]), hot=ALL, temperature=0.9, new=72) for r in rows if r["kind"] == "self_user"]
    opening = encode("\n<|im_start|>assistant\n")
    return [dict(kind="chat_self", ids=[*map(int, out), *opening]) for job, out in generator.run(seeds)
            if out[-1] == 2 and len(out) > len(job["ids"]) + 4]


def save(path, docs, kinds):
    lengths = [len(d["tokens"]) for d in docs]
    np.savez(path, tokens=np.concatenate([d["tokens"] for d in docs]).astype(np.uint16), offsets=np.cumsum([0] + lengths),
             start=np.array([d["start"] for d in docs], np.int32), kind=np.array([kinds.index(d["kind"]) for d in docs], np.int8),
             hot=np.array([d["hot"] for d in docs], np.int32), prompt=np.array([d["prompt"] for d in docs], np.int32), kinds=np.array(kinds))


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--target", required=True)
    ap.add_argument("--prompts", required=True)
    ap.add_argument("--gguf-py")
    ap.add_argument("--seconds", type=float, default=150)
    ap.add_argument("--slots", type=int, default=2048)
    ap.add_argument("--max-len", type=int, default=768)
    ap.add_argument("--humaneval", help="drop invented code that resembles a problem of this file")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--min-hot", type=int, default=0, help="1 leaves out the greedy plans: more text without repeating any")
    ap.add_argument("--device", default="cuda")
    ap.add_argument("-o", "--out", required=True)
    args = ap.parse_args()
    target = load_target(args.target, args.device, torch.float16 if args.device == "cuda" else torch.float32, args.gguf_py)
    tok, rng = target.tokenizer(), random.Random(args.seed)
    torch.manual_seed(args.seed)
    encode = lambda text: tok.encode(text).ids
    rows = [json.loads(line) for line in open(args.prompts)]
    generator, began = Generator(target, args.slots, args.max_len), time.time()
    invented = invent_requests(generator, rows, encode, tok)
    print(f"{len(invented)} invented requests, {time.time() - began:.0f} s", flush=True)
    jobs = [j for j in make_jobs([*rows, *invented], encode, rng) if j["hot"] >= args.min_hot]
    docs, written, shown = [], 0, time.time()
    ok = Filter(args.humaneval).ok
    for job, out in generator.run(jobs, args.seconds - (time.time() - began)):
        if job["kind"] == "self_code" and not ok(tok.decode(out.tolist())):
            continue
        start = len(job["ids"])
        docs.append(dict(tokens=out, start=start, kind=job["kind"], hot=min(job["hot"], len(out) - start), prompt=job["prompt"]))
        written += len(out) - start
        if time.time() - shown > 10:
            shown = time.time()
            print(f"{shown - began:.0f} s: {len(docs)} of {len(jobs)} documents, {written / 1e6:.2f}M tokens", flush=True)
    save(args.out, docs, sorted(PLANS))
    print(f"done: {len(docs)} documents, {written / 1e6:.2f}M generated tokens, {time.time() - began:.0f} s", flush=True)
    for n in range(0, 24):
        d = docs[n * len(docs) // 24]
        print(n, d["kind"], d["hot"], repr(tok.decode(list(map(int, d["tokens"][d["start"]:d["start"] + 60])), skip_special_tokens=False)))


if __name__ == "__main__":
    main()
