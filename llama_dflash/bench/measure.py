"""Every way of decoding on every prompt: one target at a time, all of its methods loaded, prompt by prompt."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from .methods import Generation, Method, Models, Ours, TopTwo, load
from .progress import Progress
from .prompts import PromptSet, tokenize
from .results import Results
from .summary import first_difference

WARM_UP_TOKENS = 16


@dataclass(frozen=True)
class Wanted:
    """What is measured of every target. max_tokens: per prompt. repeats: of every prompt."""

    methods: List[Method]
    sets: List[PromptSet]
    max_tokens: int
    repeats: int


class TargetBench:
    """All methods over one target, loaded once and kept: threads of idle ones sleep."""

    def __init__(self, models: Models, wanted: Wanted) -> None:
        self.models, self.wanted = models, wanted
        self.methods, self.sets = wanted.methods, wanted.sets
        self.name = models.target.stem
        self.loaded: Dict[str, Any] = {}

    def __enter__(self) -> "TargetBench":
        return self

    def __exit__(self, *_: Any) -> None:
        for program in self.loaded.values():
            program.close()

    @property
    def plain(self) -> Ours:
        return self.loaded["plain"]

    def load(self, progress: Progress) -> None:
        for method in self.methods:
            started = time.monotonic()
            progress.now(f"{self.name}: loading {method.name}")
            program = self.loaded[method.name] = load(self.models, method)
            if method.kind == "plain":
                self.prompts = {s.name: tokenize(s, program.llm) for s in self.sets}
                self._check_lengths()
            first = self.prompts[self.sets[0].name][0]
            program.generate(first, min(WARM_UP_TOKENS, self.wanted.max_tokens))  # the weights are read; auto learns
            progress.say(f"{self.name}: {method.name} loaded in {time.monotonic() - started:.1f} s")

    def _check_lengths(self) -> None:
        for name, prompts in self.prompts.items():
            if not all(prompts):
                raise ValueError(f"{name}: prompt {prompts.index([])} is empty")
            longest = max(map(len, prompts))
            if longest + self.wanted.max_tokens + 64 > self.models.n_ctx:
                raise ValueError(
                    f"{name}: a prompt of {longest} tokens and {self.wanted.max_tokens} more do not fit: "
                    f"use --ctx {math.ceil((longest + self.wanted.max_tokens + 64) / 256) * 256}"
                )

    def describe(self) -> Dict[str, Any]:
        model = self.plain.llm._model
        arch, _, quantisation = (model.desc() + "  ").split(" ", 2)  # "llama 135M Q8_0"
        parts = [arch, f"{model.n_params() / 1e6:.0f}M parameters", quantisation.strip()]
        return {
            "name": self.name,
            "type": ", ".join(filter(None, parts)),
            "bytes": self.models.target.stat().st_size,
        }

    def estimate(self) -> float:
        """Seconds that a prompt would take with every method as slow as plain decoding, from a few tokens of it."""
        started = time.monotonic()
        written = self.plain.generate(self.prompts[self.sets[0].name][0], WARM_UP_TOKENS)
        evaluating = time.monotonic() - started - written.seconds
        per_token = written.seconds / max(1, len(written.tokens) - 1)
        return len(self.methods) * (evaluating + per_token * self.wanted.max_tokens)

    def cells(self) -> Iterator[Tuple[int, int, PromptSet]]:
        """(repeat, row, set): the sets take turns, so that a run that is cut short has as many prompts of each."""
        for repeat in range(self.wanted.repeats):
            for row in range(max(len(s.texts) for s in self.sets)):
                for prompts in self.sets:
                    if row < len(prompts.texts):
                        yield repeat, row, prompts

    def measure(
        self, repeat: int, row: int, prompts: PromptSet, turn: int, progress: Progress
    ) -> List[Dict[str, Any]]:
        """Every method on one prompt, one right after the other; which comes first changes from prompt to prompt."""
        prompt = self.prompts[prompts.name][row]
        start = turn % len(self.methods)
        written: Dict[str, Generation] = {}
        for method in self.methods[start:] + self.methods[:start]:
            progress.now(f"{self.name}: {prompts.name}[{row}] {method.name}")
            written[method.name] = self.loaded[method.name].generate(prompt, self.wanted.max_tokens)

        reference = written["plain"].tokens
        if any(first_difference(reference, g.tokens) is not None for g in written.values()):
            top = self.plain.top_two(prompt, reference)
        else:
            top = TopTwo()
        return [self._run(repeat, row, prompts, m, written[m.name], reference, top) for m in self.methods]

    def _run(
        self,
        repeat: int,
        row: int,
        prompts: PromptSet,
        method: Method,
        generation: Generation,
        reference: List[int],
        top: TopTwo,
    ) -> Dict[str, Any]:
        at = first_difference(reference, generation.tokens)
        both = at is not None and at < min(len(reference), len(generation.tokens))
        return {
            "target": self.name,
            "set": prompts.name,
            "prompt": row,
            "repeat": repeat,
            "method": method.name,
            "kind": method.kind,
            "budget": method.budget,
            "baseline": method.baseline,
            "prompt_tokens": len(self.prompts[prompts.name][row]),
            "tokens": len(generation.tokens),
            "decoded": len(generation.tokens) - 1,
            "seconds": generation.seconds,
            "rounds": generation.rounds,
            "nodes": generation.nodes,
            "accepted": generation.accepted,
            "round_tokens": generation.round_tokens,
            "phases": generation.phases,
            "first_difference": at,
            "top_two_gap": top.gaps[at] if at is not None and at < len(top.gaps) else None,
            "is_second_best": generation.tokens[at] == top.seconds[at] if both else None,
        }


def run_target(
    bench: TargetBench,
    results: Results,
    progress: Progress,
    share: float,
    n_left: int,
    before_prompt: Callable[[], None],
) -> bool:
    """Measures one target. False if the time was too short for all prompts.

    share: The seconds that it may take.
    n_left: How many targets there are with this one.
    before_prompt: Is called before every prompt; what it raises ends the run.
    """
    started = time.monotonic()
    bench.load(progress)
    results.content["targets"].append(bench.describe())
    cells = list(bench.cells())
    limit = f" of {share / 60:.1f} min allowed" if math.isfinite(share) else ""
    others = f"; then {n_left - 1} more" if n_left > 1 else ""
    progress.say(
        f"{bench.name} ({bench.describe()['type']}): {len(cells)} prompts x {len(bench.methods)} methods, "
        f"about {bench.estimate() * len(cells) / 60:.1f} min if nothing were gained{limit}{others}"
    )
    begun = time.monotonic()
    for done, (repeat, row, prompts) in enumerate(cells, 1):
        if prompts is bench.sets[0] and done > 1 and time.monotonic() - started > share:
            progress.say(f"{bench.name}: time is up after {done - 1} of {len(cells)} prompts")
            return False
        before_prompt()
        runs = bench.measure(repeat, row, prompts, turn=done, progress=progress)
        for run in runs:
            results.add(run)
        results.save()
        left = (time.monotonic() - begun) / done * (len(cells) - done)
        progress.say(f"{bench.name}: {done}/{len(cells)} {prompts.name}[{row}] {brief(runs)}; {left / 60:.1f} min left")
    return True


def brief(runs: List[Dict[str, Any]]) -> str:
    """Plain decoding's tokens per second and the fastest method of each other kind as a multiple."""
    rates = {run["method"]: run["decoded"] / run["seconds"] if run["seconds"] > 0 else 0.0 for run in runs}
    best: Dict[str, Tuple[float, str]] = {}
    for run in runs:
        base = rates[run["baseline"]]
        if run["budget"] is not None and base > 0:
            best[run["kind"]] = max(best.get(run["kind"], (0.0, "")), (rates[run["method"]] / base, run["method"]))
    return ", ".join([f"plain {rates['plain']:.1f} tok/s", *(f"{name} x{ratio:.2f}" for ratio, name in best.values())])
