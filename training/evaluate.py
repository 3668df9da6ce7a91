"""Simulate speculative decoding on greedy text of the target: acceptance per depth, chain AL and tree AL.

usage: evaluate.py --target T.gguf --checkpoint name.pt|name.gguf ... --out eval.json [--humaneval F] [--gsm8k F] [--data data.npz]
Every generated position serves as a root once; rounds are then replayed from those forwards. Greedy text is
deterministic, so a replay commits exactly the tokens that a real run commits, up to rounding.
AL: tokens committed per round, the bonus token included. Tree: DDTree, best first on the product of the
per-position probabilities, which are normalised over the draft vocabulary.
"""
import argparse
import heapq
import json
import random
import time
from pathlib import Path

import numpy as np
import torch

import data
from drafter import drafter_from_gguf, load_drafter
from generate import Generator
from prompts import chat
from target import load_target
from train import Runner

BUDGETS = (8, 16, 22, 32, 64)
TOP = 32
GROUPS = {"code": ("code_raw", "code_chat", "self_code"), "gsm8k": ("gsm_chat", "gsm_plain"), "general": ("general_chat", "chat_self", "doc_raw")}


def tree_arrival(logp, true_rank, max_nodes):
    """best-first tree over logp [D, TOP] (sorted by rank): number of nodes taken when the true path's depth d+1 is reached

    true_rank [D]: rank of the true token, or -1. Returns a list: node count at arrival for depth 1, 2, ...
    """
    heap, arrival = [(-logp[0][0], 0, 0, 0.0, True)], []
    for taken in range(1, max_nodes + 1):
        if not heap:
            break
        negative, depth, rank, parent, parent_true = heapq.heappop(heap)
        is_true = parent_true and rank == true_rank[depth]
        if is_true:
            arrival.append(taken)
        if rank + 1 < len(logp[depth]):
            heapq.heappush(heap, (-(parent + logp[depth][rank + 1]), depth, rank + 1, parent, parent_true))
        if depth + 1 < len(logp):
            heapq.heappush(heap, (negative - logp[depth + 1][0], depth + 1, 0, -negative, is_true))
    return arrival


def replay(accepted, n):
    """accepted(i): draft tokens accepted at root i of a text with n tokens after the first root -> (rounds, tokens)"""
    at, rounds = 0, 0
    while at < n:
        at += min(accepted(at) + 1, n - at)
        rounds += 1
    return rounds, n


@torch.no_grad()
def draft_all(runner, drafter, docs, block, n_vocab, batch=12):
    """for every doc: (top log-probs [n, block-1, TOP], rank of the true token or -1 [n, block-1], real [n, block-1])"""
    t2d = torch.full((runner.target.n_vocab,), -100, device=runner.target.device)
    t2d[drafter.d2t[:n_vocab]] = torch.arange(n_vocab, device=t2d.device)
    for at in range(0, len(docs), batch):
        part = docs[at:at + batch]
        S, roots = max(len(d["tokens"]) for d in part), [len(d["tokens"]) - 1 - d["start"] for d in part]
        rows = dict(tokens=torch.zeros(len(part), S, dtype=torch.long), doc=torch.full((len(part), S), -1), pos=torch.arange(S).repeat(len(part), 1))
        lengths = torch.zeros(len(part), S, dtype=torch.long)
        for i, d in enumerate(part):
            rows["tokens"][i, :len(d["tokens"])] = torch.from_numpy(d["tokens"].astype(np.int64))
            rows["doc"][i, :len(d["tokens"])] = 0
            lengths[i, d["start"]:len(d["tokens"]) - 1] = block
        rows, lengths = {k: v.to(t2d.device) for k, v in rows.items()}, lengths.to(t2d.device)
        blocks = data.place_blocks(rows, lengths, max(roots) * block, t2d, drafter.config.mask_token, 1.0)
        features, _ = runner.features(rows, drafter.config.taps)
        hidden = runner.hidden(drafter, features, rows["pos"], blocks, runner.block_mask(blocks))
        for i, n in enumerate(roots):
            logp = drafter.logits(hidden[i, :n * block])[:, :n_vocab].float().log_softmax(-1).view(n, block, -1)[:, 1:]
            label, real = (blocks[k][i, :n * block].view(n, block)[:, 1:] for k in ("label", "real"))
            top, ids = logp.topk(TOP, -1)
            hit = (ids == label[..., None]) & real[..., None]
            rank = torch.where(hit.any(-1), hit.int().argmax(-1), -1)
            yield top.cpu().numpy(), rank.cpu().numpy(), real.cpu().numpy()


def measure(runner, drafter, docs, n_vocab, block, trees):
    """accuracy and mean probability of the best guess per depth, chain AL, and with trees the tree AL per budget"""
    right, sure, seen = np.zeros(block - 1), np.zeros(block - 1), np.zeros(block - 1)
    totals = {"chain": [0, 0], **{b: [0, 0] for b in (BUDGETS if trees else ())}}
    for doc, (top, rank, real) in zip(docs, draft_all(runner, drafter, docs, block, n_vocab)):
        right += ((rank == 0) & real).sum(0)
        sure += (np.exp(top[..., 0]) * real).sum(0)
        seen += real.sum(0)
        n, arrivals = len(rank), {}
        chain = np.cumprod(rank == 0, 1).sum(1)

        def tree(i, budget):
            if i not in arrivals:
                arrivals[i] = tree_arrival(top[i], rank[i], max(BUDGETS))
            return sum(a <= budget for a in arrivals[i])
        for key, total in totals.items():
            accepted = (lambda i: int(chain[i])) if key == "chain" else (lambda i: tree(i, key))
            rounds, tokens = replay(accepted, n)
            total[0] += rounds
            total[1] += tokens
    al = {str(k): round(t / max(r, 1), 3) for k, (r, t) in totals.items()}
    mean = lambda x: [round(float(v), 4) for v in x / np.maximum(seen, 1)]
    return dict(texts=len(docs), accuracy=mean(right), confidence=mean(sure), al=al)


def dev_documents(generator, tok, prompts, new):
    """greedy continuations of {set: [text]} -> {set: docs}"""
    out = {name: [] for name in prompts}
    jobs = [dict(ids=tok.encode(t).ids, hot=0, temperature=0, new=new, set=name) for name, texts in prompts.items() for t in texts]
    for job, tokens in generator.run([j for j in jobs if len(j["ids"]) + new < generator.max_len]):
        if len(tokens) > len(job["ids"]) + 4:
            out[job["set"]].append(dict(tokens=tokens, start=len(job["ids"])))
    return out


def dev_prompts(args, system):
    sets = {}
    if args.humaneval:
        rows = [json.loads(line)["prompt"] for line in open(args.humaneval)]
        sets["humaneval_raw"] = rows
        sets["humaneval_chat"] = [chat([f"Complete the following Python function:\n```python\n{p}```"], system) for p in rows]
    if args.gsm8k:
        rows = [json.loads(line)["question"] for line in open(args.gsm8k)][:args.limit]
        sets["gsm8k_chat"] = [chat([q], system) for q in rows]
        sets["gsm8k_plain"] = [f"Question: {q}\nAnswer:" for q in rows]
    return sets


def held_out(args):
    """greedy held-out texts by group, cut to the first new tokens"""
    docs = [d for path in args.data for d in data.split(data.load_documents(path))[1] if d["hot"] == 0]
    random.Random(0).shuffle(docs)
    cut = lambda d: dict(tokens=d["tokens"][:d["start"] + args.new].astype(np.int64), start=d["start"])
    sets = {f"held_out_{g}": [cut(d) for d in docs if d["kind"] in kinds and len(d["tokens"]) > d["start"] + 4][:args.limit] for g, kinds in GROUPS.items()}
    return {k: v for k, v in sets.items() if v}


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--target", required=True)
    ap.add_argument("--checkpoint", nargs="+", required=True)
    ap.add_argument("--gguf-py")
    ap.add_argument("--humaneval")
    ap.add_argument("--gsm8k")
    ap.add_argument("--data", nargs="*", default=[])
    ap.add_argument("--new", type=int, default=128)
    ap.add_argument("--limit", type=int, default=100)
    ap.add_argument("--vocab", type=int, nargs="*", default=[], help="also try these draft vocabulary sizes")
    ap.add_argument("--blocks", type=int, nargs="*", default=[4, 8], help="block lengths tried beside 16")
    ap.add_argument("--device", default="cuda")
    ap.add_argument("--slots", type=int, default=384)
    ap.add_argument("--max-len", type=int, default=768)
    ap.add_argument("--out", required=True)
    args = ap.parse_args()
    began = time.time()
    target = load_target(args.target, args.device, torch.float16 if args.device == "cuda" else torch.float32, args.gguf_py)
    runner = Runner(target, compiled=False)
    sets = dev_documents(Generator(target, args.slots, args.max_len), target.tokenizer(), dev_prompts(args, target.system), args.new)
    sets.update(held_out(args))
    results = {}
    for path in args.checkpoint:
        if path.endswith(".gguf"):
            drafter = drafter_from_gguf(path, target.embd, args.device, args.gguf_py)
        else:
            drafter = load_drafter(path, target.embd, args.device).eval()
            drafter.quant_mix.fill_(1)
        full, name = drafter.config.n_vocab, Path(path).stem
        settings = [(full, 16, True)] + [(full, b, b <= 8) for b in args.blocks] + [(v, 16, False) for v in args.vocab if v < full]
        for n_vocab, block, trees in settings:
            key = f"{name} vocab={n_vocab} block={block}"
            results[key] = {s: measure(runner, drafter, docs, n_vocab, block, trees) for s, docs in sets.items()}
            print(f"{time.time() - began:.0f} s {key}: " + "; ".join(f"{s} {r['al']}" for s, r in results[key].items()), flush=True)
            Path(args.out).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
