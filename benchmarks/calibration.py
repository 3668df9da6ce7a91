"""What a drafter says of its nodes against what was accepted, and what correcting it brings.

    python benchmarks/calibration.py --pair tiny-qwen35 --prompts GSM8K.jsonl:60 --prompts HUMANEVAL.jsonl:60

Prints the reliability of nodes by where they are (a wide tree's nodes whose parent was accepted), then acceptance lengths of
trees of the budget, chosen by the drafter's own probabilities (DDTree) and by calibrated ones, learned from nothing in the run.
"""

import argparse
import itertools
import math
from collections import defaultdict

from llama_dflash import DFlashDraft, Llama, demo
from llama_dflash.bench.prompts import read_prompts, tokenize

WIDE = 60  # nodes, of the trees whose nodes are looked at


def rounds_of(pair, sets, n_tokens, **draft):
    """The trees of all rounds, and the mean tokens of one."""
    draft = DFlashDraft(demo.find_shipped(pair.drafter), **draft)
    settings = dict(n_ctx=2048, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
    llm = Llama(str(demo.find_target(pair)), draft_model=draft, **settings)
    trees, rounds, tokens = [], 0, 0
    for prompt in itertools.chain.from_iterable(tokenize(s, llm) for s in sets):
        llm.reset()
        for _ in itertools.islice(llm.generate(prompt, temp=0.0), n_tokens):
            if llm.last_tree is not None and (not trees or trees[-1] is not llm.last_tree):
                trees.append(llm.last_tree)
        rounds += llm.speculative_stats.rounds
        tokens += llm.speculative_stats.tokens
    llm.close()
    return trees, tokens / rounds


def places(tree):
    """Of every node: where it is, in words."""
    rank, off = [0] * len(tree.tokens), [0] * len(tree.tokens)
    n_children = defaultdict(int)
    for node, parent in enumerate(tree.parents[1:], 1):
        rank[node] = n_children[parent]
        n_children[parent] += 1
        off[node] = 1 if parent and rank[parent] else 2 * (off[parent] > 0)
    where = ("on the spine", "after a second-best token", "further off the spine")
    best = ("best", "second", "third or later")
    return [f"{where[off[node]]}, {best[min(rank[node], 2)]}" for node in range(len(tree.tokens))]


def reliability(trees):
    """{place: [nodes, said, accepted]}"""
    table = defaultdict(lambda: [0, 0.0, 0])
    for tree in trees:
        place = places(tree)
        sampled = dict(zip(tree.path, tree.sampled))
        for node, parent in enumerate(tree.parents[1:], 1):
            if parent in sampled:
                cell = table[place[node]]
                cell[0] += 1
                cell[1] += math.exp(tree.logprobs[node])
                cell[2] += tree.tokens[node] == sampled[parent]
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=demo.PAIRS, default=next(iter(demo.PAIRS)))
    parser.add_argument("--prompts", action="append", required=True, metavar="FILE.jsonl[:N]")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--budget", type=int, default=15)
    args = parser.parse_args()
    pair, sets = demo.PAIRS[args.pair], [read_prompts(spec) for spec in args.prompts]
    trees, _ = rounds_of(pair, sets, args.max_tokens, budget=WIDE, calibrated=False)
    print("| node | seen | said | accepted |\n| --- | --- | --- | --- |")
    for place, (n, said, accepted) in sorted(reliability(trees).items()):
        print(f"| {place} | {n} | {said / n:.3f} | {accepted / n:.3f} |")
    lengths = [rounds_of(pair, sets, args.max_tokens, budget=args.budget, calibrated=c)[1] for c in (False, True)]
    print(f"\ntrees of {args.budget}: DDTree {lengths[0]:.3f}, calibrated {lengths[1]:.3f} tokens a round")


if __name__ == "__main__":
    main()
