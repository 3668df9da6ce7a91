"""Acceptance lengths with the drafter's whole block and with one no longer than the tree can use (DFlashDraft(block=)).

    python benchmarks/block_length.py --pair smollm2 --prompts HUMANEVAL.jsonl:8 --prompts GSM8K.jsonl:8
"""

import argparse
import itertools

from llama_dflash import DFlashDraft, Llama, demo
from llama_dflash.bench.prompts import read_prompts

SETTINGS = [(2, "chain"), (4, "chain"), (7, "chain"), (4, "tree"), (8, "tree"), (15, "tree")]


def acceptance_length(llm, texts, n_tokens):
    rounds = tokens = 0
    for text in texts:
        llm.reset()
        prompt = llm.tokenize(text.encode(), add_bos=False, special=True)
        list(itertools.islice(llm.generate(prompt, temp=0.0), n_tokens))
        rounds += llm.speculative_stats.rounds
        tokens += llm.speculative_stats.tokens
    return tokens / rounds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=demo.PAIRS, default=next(iter(demo.PAIRS)))
    parser.add_argument("--prompts", action="append", required=True, metavar="FILE.jsonl[:N]")
    parser.add_argument("--max-tokens", type=int, default=96)
    args = parser.parse_args()
    pair = demo.PAIRS[args.pair]
    sets = [read_prompts(spec, "raw", None) for spec in args.prompts]
    print("| " + " | ".join(["budget", *(f"{s.name}, {block}" for s in sets for block in ("whole", "short"))]) + " |")
    print("| --- " * (1 + 2 * len(sets)) + "|")
    for budget, mode in SETTINGS:
        row = {}
        for block in ("whole", "short"):
            draft = DFlashDraft(demo.find_shipped(pair.drafter), budget=budget, mode=mode, block=block)
            settings = dict(n_ctx=1024, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
            llm = Llama(str(demo.find_target(pair)), draft_model=draft, **settings)
            for s in sets:
                row[s.name, block] = acceptance_length(llm, s.texts, args.max_tokens)
            llm.close()
        cells = [f"{row[s.name, block]:.2f}" for s in sets for block in ("whole", "short")]
        print("| " + " | ".join([f"{mode} of {budget}", *cells]) + " |", flush=True)


if __name__ == "__main__":
    main()
