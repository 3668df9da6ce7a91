"""Tokens a second of a model on RPC workers, by the network's latency: plain decoding, a chain, a tree; and what that means on
paper for a model that needs several hosts.

    python benchmarks/rpc.py                                  # the shipped pair, 2 workers of this host
    python benchmarks/rpc.py --workers 3 --latency 0 2 20     # milliseconds in one direction
    python benchmarks/rpc.py --paper                          # the model alone, for a 400B target

The workers are processes of this host; the network between is the tests' own (tests/rpc/networks.py). A method's computing time
is what is left of its time without a latency; the model adds round trips and bytes to it, and is compared with what was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "rpc"))

from networks import Network  # noqa: E402
from worker_processes import Worker  # noqa: E402

PROMPT = "def fibonacci(n):\n"


# ---------------------------------------------------------------- the model on paper


@dataclass(frozen=True)
class Round:
    """What one round of a method takes.

    Attributes:
        tokens: That it writes.
        seconds: Of computing, on all workers one after the other, the drafter's included.
        n_nodes: Rows of hidden states that every worker hands on.
        drafts: True if a drafter on the last worker takes part.
    """

    tokens: float
    seconds: float
    n_nodes: int
    drafts: bool


def round_trips(n_workers: int, drafts: bool, n_feature_workers: int) -> int:
    """Answers that a round waits for, one after the other: of each worker in the target's forward pass; with a drafter, its
    candidates, and the accepted tokens' features of every other worker that has some."""
    return n_workers + (1 + n_feature_workers if drafts else 0)


def bytes_on_the_wire(n_workers: int, n_embd: int, round: Round, n_features: int) -> float:
    """Of one round: hidden states (F32) to the first worker, from each to this process and to the next; of a drafter, the
    features of the accepted tokens, twice. Node ids, candidates and numbers of graphs are left out."""
    hidden = (2 * n_workers - 1) * round.n_nodes * n_embd * 4
    features = 2 * round.tokens * n_features * n_embd * 4 if round.drafts else 0
    return hidden + features


def tokens_per_second(
    round: Round, *, n_workers: int, n_embd: int, n_features: int, n_feature_workers: int, latency: float, bandwidth: float
) -> float:
    """
    Args:
        latency: Seconds in one direction.
        bandwidth: Bytes a second.
    """
    waiting = round_trips(n_workers, round.drafts, n_feature_workers) * 2 * latency
    return round.tokens / (round.seconds + waiting + bytes_on_the_wire(n_workers, n_embd, round, n_features) / bandwidth)


def paper() -> None:
    """A dense 400B target in 4 bits (230 GB, hidden size 16384) over GPUs of 3350 GB/s that read 80 % of that."""
    forward = 230e9 / (0.8 * 3350e9)
    methods = {
        # lengths and costs of a DFlash drafter on a 27B hybrid (docs/gpu.md): an assumption for a model of this size
        "plain": Round(1, forward, 1, False),
        "chain of 7": Round(3.5, 1.15 * forward + 0.006, 8, True),
        "tree of 22": Round(5.0, 1.3 * forward + 0.006, 23, True),
    }
    print("| hosts | network | latency, ms | plain, tokens/s | chain of 7 | tree of 22 | tree, times plain |\n|" + " ---: |" * 7)
    for n_hosts, (name, bandwidth), latency in itertools.product(
        (4, 16), (("10 Gbit/s", 1.1e9), ("100 Gbit/s", 11e9)), (0.00005, 0.0002, 0.002, 0.02)
    ):
        speeds = [
            tokens_per_second(
                round,
                n_workers=n_hosts,
                n_embd=16384,
                n_features=5,
                n_feature_workers=min(4, n_hosts - 1),
                latency=latency,
                bandwidth=bandwidth,
            )
            for round in methods.values()
        ]
        cells = " | ".join(f"{speed:.1f}" for speed in speeds)
        print(f"| {n_hosts} | {name} | {latency * 1000:g} | {cells} | {speeds[2] / speeds[0]:.2f} |")


# ---------------------------------------------------------------- measured


@dataclass
class Measured:
    tokens_per_second: float
    length: float  # tokens a round
    answers: float  # a round, of all workers
    bytes_sent: float  # a round, to all workers
    bytes_received: float
    n_nodes: int


def measure(llm, networks: list, n_tokens: int) -> Measured:
    steps = llm.generate(llm.tokenize(PROMPT.encode()), temp=0.0)
    warm = 24
    list(itertools.islice(steps, warm))  # the prompt, and graphs that are sent once
    for network in networks:
        network.reset_counts()
    rounds = llm.speculative_stats.rounds if llm.draft_model else warm
    start = time.monotonic()
    n = sum(1 for _ in itertools.islice(steps, n_tokens))
    seconds = time.monotonic() - start
    n_rounds = (llm.speculative_stats.rounds if llm.draft_model else warm + n) - rounds
    return Measured(
        n / seconds,
        n / n_rounds,
        sum(network.answers for network in networks) / n_rounds,
        sum(sum(network.sent.values()) for network in networks) / n_rounds,
        sum(network.received for network in networks) / n_rounds,
        len(llm.last_tree.tokens) if llm.draft_model else 1,
    )


def measure_all(args: argparse.Namespace) -> None:
    from llama_dflash import DFlashDraft, Llama, demo

    pair = demo.PAIRS["tiny-qwen35"]
    target, drafter = args.target or demo.find_target(pair), args.draft_model or demo.find_shipped(pair.drafter)
    drafts = {"plain": None, "chain of 7": DFlashDraft(drafter, budget=7, mode="chain"), "tree of 15": DFlashDraft(drafter, budget=15)}
    drafts = {name: draft for name, draft in drafts.items() if name.split()[0] in args.methods}
    print("| method | latency, ms | tokens/s | times plain | model | model / measured | answers | KB sent | KB received |\n|" + " ---: |" * 9)
    with contextlib.ExitStack() as stack:
        workers = [Worker() for _ in range(args.workers)]
        for worker in workers:
            stack.callback(worker.kill)
            worker.wait_until_ready()
        plain: dict = {}
        for name, draft in drafts.items():
            computing = None
            for latency in sorted({0.0, *(ms / 1000 for ms in args.latency)}):
                networks = [Network(worker.endpoint, latency=latency) for worker in workers]
                llm = Llama(
                    str(target),
                    draft_model=draft,
                    rpc_servers=",".join(network.endpoint for network in networks),
                    n_gpu_layers=-1,
                    tensor_split=[1.0] * len(networks),
                    n_ctx=1024,
                    n_batch=64,
                    n_threads=1,
                    flash_attn=True,
                    verbose=False,
                )
                runs = [measure(llm, networks, args.tokens) for _ in range(args.repeats)]
                got = max(runs, key=lambda run: run.tokens_per_second)  # other programs only ever take time away
                llm.close()
                for network in networks:
                    network.close()
                plain.setdefault(latency, got.tokens_per_second)
                computing = computing or got.length / got.tokens_per_second
                model = got.length / (computing + got.answers * 2 * latency)
                print(
                    f"| {name} | {latency * 1000:g} | {got.tokens_per_second:.1f} | {got.tokens_per_second / plain[latency]:.2f} | "
                    f"{model:.1f} | {model / got.tokens_per_second:.2f} | {got.answers:.1f} | {got.bytes_sent / 1000:.1f} | "
                    f"{got.bytes_received / 1000:.1f} |",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", help="GGUF file of the target (default: the shipped one)")
    parser.add_argument("--draft-model", help="and of its DFlash drafter")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--latency", type=float, nargs="+", default=[0.2, 2.0, 20.0], metavar="MS", help="in one direction")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--methods", nargs="+", default=["plain", "chain", "tree"], choices=["plain", "chain", "tree"])
    parser.add_argument("--repeats", type=int, default=3, help="of which the fastest counts")
    parser.add_argument("--paper", action="store_true", help="only the model, for a 400B target")
    args = parser.parse_args()
    paper() if args.paper else measure_all(args)


if __name__ == "__main__":
    main()
