"""Tokens a second of a LlamaBatch, by how many requests are there at once; and what conversations that come back cost.

    python benchmarks/batch.py --target smollm2-F16.gguf --draft-model models/smollm2-135m-instruct-dflash.gguf \
        --prompts ../shared/data/humaneval_dev.jsonl:16 --requests 1,2,4,8 --threads 2
    python benchmarks/batch.py --target smollm2-F16.gguf --conversations 20 --conversation-tokens 4000 --lanes 4 --cache disk

The first: --clients threads each send one request after the other, at temperature 0, until all prompts were answered. The ways take
turns, --repeats times; the best time of each counts. The second: every conversation is evaluated once, then each goes on with
--new-tokens tokens, in turn, on fewer lanes than there are conversations.
"""

import argparse
import contextlib
import io
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from llama_cpp import LlamaDiskCache, LlamaRAMCache
from llama_dflash import Llama, LlamaBatch
from llama_dflash.bench.prompts import read_prompts, tokenize


def load(args, draft, n_parallel, n_ctx):
    threads = dict(n_threads=args.threads, n_threads_batch=args.threads)
    return LlamaBatch(args.target, draft_model=draft, n_parallel=n_parallel, n_ctx=n_ctx, flash_attn=True, verbose=False, **threads)


def tokens_per_second(llm, prompts, n_clients, max_tokens):
    """All prompts, n_clients at a time. Prompts that were there before would be in memory: they are begun anew."""

    def ask(prompt):
        return llm.create_completion(prompt, temperature=0.0, max_tokens=max_tokens)["usage"]["completion_tokens"]

    started = time.perf_counter()
    with ThreadPoolExecutor(n_clients) as clients:
        n_tokens = sum(clients.map(ask, prompts))
    return n_tokens / (time.perf_counter() - started)


def peak_mib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM"))


def compare_clients(args):
    tokenizer = Llama(args.target, vocab_only=True, verbose=False)
    prompts = tokenize(read_prompts(args.prompts), tokenizer)
    numbers = [int(n) for n in args.requests.split(",")]
    ways = {"plain": None, **({"drafts": args.draft_model} if args.draft_model else {})}
    best = {}
    for i in range(args.repeats):
        for n in numbers:
            for name, draft in ways.items():
                with load(args, draft, n, args.context) as llm:
                    llm.create_completion(prompts[-1], max_tokens=4)  # the first forward of a context takes longer
                    speed = tokens_per_second(llm, prompts, n, args.max_tokens)
                best[name, n] = max(best.get((name, n), 0.0), speed)
    print(f"| requests at once | {' | '.join(f'{name}, tokens/s | times one' for name in ways)} |")
    print("| ---: " * (1 + 2 * len(ways)) + "|")
    for n in numbers:
        cells = [f"{best[name, n]:.1f} | {best[name, n] / best[name, numbers[0]]:.2f}" for name in ways]
        print(f"| {n} | {' | '.join(cells)} |")
    print(f"peak memory {peak_mib():.0f} MiB")


def switch_conversations(args):
    rng = np.random.default_rng(0)
    n_ctx = args.conversation_tokens + 4 * (args.new_tokens + args.max_tokens)
    with tempfile.TemporaryDirectory() as folder, load(args, args.draft_model, args.lanes, n_ctx) as llm:
        if args.cache != "none":
            llm.set_cache(LlamaDiskCache(folder, 64 << 30) if args.cache == "disk" else LlamaRAMCache(64 << 30))
        texts = [rng.integers(300, llm.n_vocab(), args.conversation_tokens).tolist() for _ in range(args.conversations)]
        for turn in range(3):
            seconds, before = [], llm._scheduler.n_evaluated
            for text in texts:
                started = time.perf_counter()
                with contextlib.redirect_stderr(io.StringIO()):  # LlamaDiskCache tells all that it does
                    llm.create_completion(text, temperature=0.0, max_tokens=args.max_tokens)
                seconds.append(time.perf_counter() - started)
                text += rng.integers(300, llm.n_vocab(), args.new_tokens).tolist()
            n = llm._scheduler.n_evaluated - before
            what = "first" if turn == 0 else f"turn {turn}"
            print(f"{what}: {n / len(texts):.0f} tokens evaluated and {np.mean(seconds):.2f} s a conversation, {max(seconds):.2f} s at most")
    print(f"peak memory {peak_mib():.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--draft-model", action="append", help="as draft_model= takes it; again for a list")
    parser.add_argument("--prompts", metavar="FILE.jsonl[:N]")
    parser.add_argument("--requests", default="1,2,4,8", help="numbers of requests at once, with commas")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=1024, help="tokens of one request")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--conversations", type=int, default=0)
    parser.add_argument("--conversation-tokens", type=int, default=4000)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--lanes", type=int, default=4)
    parser.add_argument("--cache", choices=["none", "ram", "disk"], default="ram")
    args = parser.parse_args()
    switch_conversations(args) if args.conversations else compare_clients(args)


if __name__ == "__main__":
    main()
