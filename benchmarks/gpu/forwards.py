"""Milliseconds of one forward of the target over n tokens, in each of the ways that decoding uses."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from target import Target

# How many of every row's best entries come to the host (0: the row itself), and what is timed.
# "one": the last token's row; "all": every row; "best": of every row its best entry, as in a round at temperature 0.
KINDS: dict[str, tuple[int, Callable[[Target, int], float]]] = {
    "batch, one": (0, lambda target, n: target.batch(n, all_outputs=False)),
    "batch, all": (0, lambda target, n: target.batch(n, all_outputs=True)),
    "verify, all": (0, lambda target, n: target.verify(n)),
    "verify, best": (1, lambda target, n: target.verify(n)),
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
        for top in (0, 1):  # a change of it lays out the context's buffers anew
            target.set_top(top)
            kinds = {kind: run for kind, (kind_top, run) in KINDS.items() if kind_top == top}
            for n in plan.sizes:
                for kind, run in kinds.items():
                    if target.n_past() + n * (plan.warmup + plan.repeats) > n_start + plan.room:
                        target.load(state)
                    times = [run(target, n) for _ in range(plan.warmup + plan.repeats)]
                    seconds.setdefault((n, kind), []).extend(times[plan.warmup :])
    target.set_top(0)
    return [_entry(n, kind, times) for (n, kind), times in seconds.items()]


def measure_commit(target: Target, n: int = 23, n_path: int = 8, repeats: int = 10) -> dict[str, Any]:
    """Milliseconds of a commit that is waited for. In a round it runs on the GPU beside what comes next."""
    times = [target.commit(n, n_path) for _ in range(repeats + 3)][3:]
    return {"n": n, "path": n_path, "ms": 1000 * statistics.median(times)}


def _entry(n: int, kind: str, times: list[float]) -> dict[str, Any]:
    ms = [1000 * t for t in times]
    return {"n": n, "kind": kind, "ms": statistics.median(ms), "ms_least": min(ms), "ms_most": max(ms), "runs": len(ms)}
