"""Milliseconds of one forward of the target over n tokens, in each of the ways that decoding uses."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from target import Target

# "plain" is a batch of 1. "all": every row of logits comes to the host; "one": the last token's row; "best": of every
# row its best entry, which is what a round at temperature 0 asks for.
KINDS: dict[str, Callable[[Target, int], float]] = {
    "batch, one": lambda target, n: target.batch(n, all_outputs=False),
    "batch, all": lambda target, n: target.batch(n, all_outputs=True),
    "verify, all": lambda target, n: target.verify(n),
    "verify, best": lambda target, n: target.verify(n),
}


@dataclass(frozen=True)
class Plan:
    """Which sizes, and how often. A turn goes through all sizes and kinds; each gets a block of its own in it, because a
    CUDA graph is captured by the first forwards of a size and lost with the next size."""

    sizes: list[int]
    turns: int = 3
    warmup: int = 3
    repeats: int = 4  # timed, per block
    room: int = 1024  # tokens that batches may add before the memory is put back


def measure(target: Target, plan: Plan, state: np.ndarray) -> list[dict[str, Any]]:
    """One entry per size and kind. `state`: what the memory holds before."""
    n_start = target.n_past()
    seconds: dict[tuple[int, str], list[float]] = {}
    for _ in range(plan.turns):
        for n in plan.sizes:
            for kind in KINDS:
                if target.n_past() + n * (plan.warmup + plan.repeats) > n_start + plan.room:
                    target.load(state)
                seconds.setdefault((n, kind), []).extend(_block(target, n, kind, plan))
    return [_entry(n, kind, times) for (n, kind), times in seconds.items()]


def _block(target: Target, n: int, kind: str, plan: Plan) -> list[float]:
    target.set_top(1 if kind == "verify, best" else 0)
    times = [KINDS[kind](target, n) for _ in range(plan.warmup + plan.repeats)]
    target.set_top(0)
    return times[plan.warmup :]


def _entry(n: int, kind: str, times: list[float]) -> dict[str, Any]:
    ms = [1000 * t for t in times]
    return {"n": n, "kind": kind, "ms": statistics.median(ms), "ms_least": min(ms), "ms_most": max(ms), "runs": len(ms)}
