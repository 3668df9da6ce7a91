"""Rounds of several conversations at once: milliseconds, tokens per second of all together, memory.

    python benchmarks/gpu/lanes.py --target T.gguf --drafter D.gguf --lanes 1,2,4,8 --budgets 7 --out results.json

Acceptance is made up (models of random weights accept nothing), so tokens per second are projections. A budget is each
conversation's. Without --drafter: plain decoding of all of them in one forward.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import llama_dflash  # noqa: F401  before llama_cpp
import llama_cpp
import numpy as np
from llama_dflash import DFlashDraft
from llama_dflash._lanes import Lanes

import results
from memory import Gpu, MemoryLog
from target import KV_TYPES, log_above_debug, random_tokens

WARMUP = 5  # rounds


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--target", required=True)
    add("--drafter")
    add("--lanes", default="1,2,4,8", help="conversations at once (%(default)s)")
    add("--budgets", default="7", help="nodes of each conversation's tree (%(default)s)")
    add("--length", type=float, default=5.0, help="tokens a round that are accepted in the mean (%(default)s)")
    add("--prompt", type=int, default=128, help="tokens of each conversation before its rounds (%(default)s)")
    add("--ctx", type=int, default=2048, help="window of each conversation (%(default)s)")
    add("--kv", choices=KV_TYPES, default="f16")
    add("--unified", action="store_true", help="all in one cache")
    add("--rounds", type=int, default=30)
    add("--threads", type=int, default=8)
    add("--n-gpu-layers", type=int, default=-1)
    add("--out", type=Path, required=True)
    return parser.parse_args()


def fill(lanes: Lanes, n_lanes: int, n_tokens: int) -> None:
    rng, n_vocab = np.random.default_rng(1), llama_cpp.llama_vocab_n_tokens(lanes.vocab)
    for lane in range(n_lanes):
        lanes.begin({lane: random_tokens(rng, n_tokens, n_vocab)})


def measure(lanes: Lanes, args: argparse.Namespace, n: int) -> dict[str, Any]:
    """Rounds of the first n conversations."""
    seconds, n_tokens, n_nodes = [], [], []
    for _ in range(WARMUP + args.rounds):
        before = sum(len(lanes.texts[lane]) for lane in range(n))
        started = time.perf_counter()
        trees = lanes.round(range(n)) if args.drafter else lanes.plain_round(range(n))
        seconds.append(time.perf_counter() - started)
        n_tokens.append(sum(len(lanes.texts[lane]) for lane in range(n)) - before)
        n_nodes.append(sum(len(tree.tokens) for tree in trees) if trees else n)
    seconds, n_tokens, n_nodes = seconds[WARMUP:], n_tokens[WARMUP:], n_nodes[WARMUP:]
    return {
        "lanes": n,
        "ms": 1000 * statistics.median(seconds),
        "ms_most": 1000 * max(seconds),
        "nodes": statistics.mean(n_nodes),
        "length": sum(n_tokens) / len(n_tokens) / n,
        "tokens_per_second": sum(n_tokens) / sum(seconds),
    }


def main() -> None:
    args = parse_arguments()
    log_above_debug()
    counts = [int(n) for n in args.lanes.split(",")]
    for budget in map(int, args.budgets.split(",") if args.drafter else "0"):
        log = MemoryLog(Gpu())
        drafts = [DFlashDraft(args.drafter, budget=budget)] if args.drafter else []
        settings = dict(n_ctx=args.ctx, unified=args.unified, n_batch=512, n_threads=args.threads, n_gpu_layers=args.n_gpu_layers)
        lanes = Lanes(args.target, drafts, max(counts), kv_type=KV_TYPES[args.kv], **settings)
        try:
            log.mark("after loading")
            if lanes.engine is not None:
                lanes.engine.set_synthetic_length(args.length)
            fill(lanes, max(counts), args.prompt)
            log.mark("after the prompts")
            measured = [measure(lanes, args, n) for n in counts]
            log.mark("after the rounds")
        finally:
            lanes.close()
        found = {"budget": budget, "ctx": args.ctx, "kv": args.kv, "length_asked": args.length, "rounds": measured, "memory_mib": log.close()}
        for row in measured:
            print({"budget": budget, **row}, flush=True)
        print(found["memory_mib"], flush=True)
        results.put(args.out, "lanes", f"budget {budget}, {max(counts)} windows of {args.ctx}, {args.kv}", found)


if __name__ == "__main__":
    main()
