"""Tokens a second of several conversations in one context, with drafts and plainly, against one conversation.

    python benchmarks/lanes.py --target smollm2-F16.gguf --draft-model models/smollm2-135m-instruct-dflash.gguf \
        --prompts ../shared/data/humaneval_dev.jsonl:8 --lanes 1,2,4,8 --threads 2

Every lane writes --max-tokens tokens at temperature 0 after a prompt of its own. The ways take turns, --repeats times; the
best time of each counts.
"""

import argparse
import time

from llama_cpp import Llama
from llama_dflash._lanes import Lanes
from llama_dflash.bench.prompts import read_prompts, tokenize
from llama_dflash.drafts import parse


def tokens_per_second(target, drafts, prompts, n_lanes, args):
    lanes = Lanes(target, drafts, n_lanes, n_ctx=args.context, n_batch=512, n_threads=args.threads)
    step = lanes.round if drafts else lanes.plain_round
    n_tokens, seconds = 0, 0.0
    for start in range(0, len(prompts), n_lanes):
        some = dict(enumerate(prompts[start : start + n_lanes]))
        if len(some) < n_lanes:
            break
        for lane, prompt in some.items():
            lanes.begin({lane: prompt})
        started = time.perf_counter()
        writing = list(some)
        while writing:
            step(writing)
            writing = [lane for lane in writing if len(lanes.texts[lane]) < args.max_tokens]
        seconds += time.perf_counter() - started
        n_tokens += sum(len(lanes.end(lane)) - 1 for lane in some)
    lanes.close()
    return n_tokens / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--draft-model", action="append", required=True, help="as draft_model= takes it; again for a list")
    parser.add_argument("--prompts", required=True, metavar="FILE.jsonl[:N]")
    parser.add_argument("--lanes", default="1,4", help="numbers of conversations, with commas")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=1024, help="tokens of one lane")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    tokenizer = Llama(args.target, vocab_only=True, verbose=False)
    prompts = tokenize(read_prompts(args.prompts), tokenizer)
    best = {}
    for _ in range(args.repeats):
        for n_lanes in map(int, args.lanes.split(",")):
            for name, drafts in (("plain", []), ("drafts", parse(args.draft_model))):
                speed = tokens_per_second(args.target, drafts, prompts, n_lanes, args)
                best[name, n_lanes] = max(best.get((name, n_lanes), 0.0), speed)
    base = {name: speed for (name, n_lanes), speed in best.items() if n_lanes == min(n for _, n in best)}
    print("| conversations | plain, tokens/s | with drafts, tokens/s | plain, times one | with drafts, times one |")
    print("| --- " * 5 + "|")
    for n_lanes in sorted({n for _, n in best}):
        plain, drafts = best["plain", n_lanes], best["drafts", n_lanes]
        print(f"| {n_lanes} | {plain:.1f} | {drafts:.1f} | {plain / base['plain']:.2f} | {drafts / base['drafts']:.2f} |")


if __name__ == "__main__":
    main()
