"""llama.cpp's own chain, as an unpatched llama-server runs it: milliseconds a round, tokens per second, memory.

    python benchmarks/gpu/chain.py --llama-server PATH --target T.gguf --drafter D.gguf --ctx 4096 --out results.json

Its accepted tokens are made up too (--spec-synth-len). Times and counts are the server's own.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import llama_dflash  # noqa: F401  before llama_cpp
import numpy as np
from llama_dflash import DFlashDraft
from llama_dflash.bench.methods import LlamaServer, Method, Models

import results
from memory import Gpu, MemoryLog
from target import random_tokens


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--llama-server", type=Path, required=True)
    add("--target", type=Path, required=True)
    add("--drafter", type=Path, required=True)
    add("--ctx", type=int, default=4096, help="the server's window (%(default)s)")
    add("--kv", default="f16", choices=["f16", "q8_0", "q4_0"])
    add("--prompt", type=int, default=512, help="tokens before the ones that are timed (%(default)s)")
    add("--vocab", type=int, default=2000, help="the prompt's tokens are below this (%(default)s)")
    add("--length", type=float, default=7.67, help="tokens a round that are accepted in the mean (%(default)s)")
    add("--n-max", type=int, default=15, help="tokens of its chain; 0 for plain decoding (%(default)s)")
    add("--tokens", type=int, default=400, help="of the text that is timed (%(default)s)")
    add("--threads", type=int, default=8)
    add("--n-gpu-layers", type=int, default=-1)
    add("--out", type=Path, required=True)
    return parser.parse_args()


def start(args: argparse.Namespace) -> LlamaServer:
    models = Models(args.target, (DFlashDraft(args.drafter),), args.threads, args.ctx, args.llama_server, args.n_gpu_layers)
    options = ["--fit", "off", "--cache-type-k", args.kv, "--cache-type-v", args.kv]
    if args.n_max == 0:
        return LlamaServer(models, Method("server-plain"), options)
    options += ["--spec-synth-len", str(args.length)]
    return LlamaServer(models, Method("server-chain", args.n_max), options)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    log = MemoryLog(Gpu())
    server = start(args)
    try:
        log.mark("after loading")
        prompt = random_tokens(np.random.default_rng(3), args.prompt, args.vocab)
        server.generate(prompt, 32)  # warm-up
        text = server.generate(prompt, args.tokens)
        log.mark("after the rounds")
    finally:
        server.close()
    n = len(text.tokens) - 1
    found = {"n_max": args.n_max, "ctx": args.ctx, "kv": args.kv, "prompt": args.prompt, "memory_mib": log.close()}
    found.update(tokens=n, tokens_per_second=n / text.seconds, ms_per_token=1000 * text.seconds / n)
    if text.rounds:
        found.update(rounds=text.rounds, ms=1000 * text.seconds / text.rounds, length=n / text.rounds)
        found["length_asked"] = args.length
    return found


def main() -> None:
    args = parse_arguments()
    found = measure(args)
    print({key: value for key, value in found.items() if key != "memory_mib"}, flush=True)
    what = f"chain {args.n_max}" if args.n_max else "plain"
    results.put(args.out, "llama-server", f"{what}, {args.kv}, window {args.ctx}", found)


if __name__ == "__main__":
    main()
