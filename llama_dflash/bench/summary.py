"""From single generations to the numbers that are reported. Pure arithmetic over the `runs` of a result file."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import Any, Dict, List, Optional, Sequence, Tuple

ALL = "all"  # the name of all prompt sets together

Run = Dict[str, Any]


def first_difference(a: Sequence[int], b: Sequence[int]) -> Optional[int]:
    """The first position at which two texts, in tokens, differ; None if they are equal."""
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))


def speed(run: Run) -> Optional[float]:
    """Tokens per second after the first token; None for texts of one token."""
    return run["decoded"] / run["seconds"] if run["decoded"] > 0 and run["seconds"] > 0 else None


def summarise(runs: List[Run]) -> List[Dict[str, Any]]:
    """One entry per target, prompt set (and all of them together) and method, in the order of their first run."""
    groups: Dict[Tuple[str, str, str], List[Run]] = defaultdict(list)
    for set_name in [*dict.fromkeys(run["set"] for run in runs), ALL]:
        for run in runs:
            if set_name in (run["set"], ALL):
                groups[run["target"], set_name, run["method"]].append(run)
    by_case = {(run["target"], run["set"], run["prompt"], run["repeat"], run["method"]): run for run in runs}
    return [
        {"target": target, "set": set_name, "method": method, **_numbers(group, by_case)}
        for (target, set_name, method), group in groups.items()
    ]


def _numbers(group: List[Run], by_case: Dict[Tuple, Run]) -> Dict[str, Any]:
    first = group[0]
    ratios = sorted(r for r in (_ratio(run, by_case) for run in group) if r is not None)
    numbers: Dict[str, Any] = {
        "kind": first["kind"],
        "budget": first["budget"],
        "prompts": len({(run["set"], run["prompt"]) for run in group}),
        "tokens_per_second": _tokens_per_second(group),
        "ratio_to_plain": median(ratios) if ratios else None,
        "ratio_range": [ratios[0], ratios[-1]] if ratios else None,
        "acceptance_length": None,
        "rounds": None,
        "nodes_per_round": None,
        "accepted": None,
        "milliseconds_per_round": None,
        "overhead_share": None,
        "texts": len(group),
        "texts_equal_plain": sum(run["first_difference"] is None for run in group),
    }
    counted = [run for run in group if run["rounds"]]
    rounds = sum(run["rounds"] for run in counted)
    if rounds:
        numbers["rounds"] = rounds
        numbers["acceptance_length"] = sum(run["round_tokens"] for run in counted) / rounds
        numbers["nodes_per_round"] = sum(run["nodes"] for run in counted) / rounds
        numbers["accepted"] = sum(run["accepted"] for run in counted)
    if rounds and all(run["phases"] for run in counted):
        totals: Dict[str, float] = defaultdict(float)
        for run in counted:
            for phase, seconds in run["phases"].items():
                totals[phase] += seconds
        wall = sum(run["seconds"] for run in counted)
        numbers["milliseconds_per_round"] = {phase: 1000 * s / rounds for phase, s in totals.items()}
        numbers["milliseconds_per_round"]["wall"] = 1000 * wall / rounds
        numbers["overhead_share"] = 1 - (totals["draft"] + totals["verify"]) / wall if wall > 0 else None
    return numbers


def _tokens_per_second(group: List[Run]) -> Optional[float]:
    """All tokens over all seconds, of every prompt the repeat of median speed."""
    prompts: Dict[Tuple[str, int], List[Run]] = defaultdict(list)
    for run in group:
        if speed(run) is not None:
            prompts[run["set"], run["prompt"]].append(run)
    decoded = seconds = 0.0
    for repeats in prompts.values():
        decoded += repeats[0]["decoded"]
        seconds += repeats[0]["decoded"] / median(speed(run) for run in repeats)
    return decoded / seconds if seconds > 0 else None


def _ratio(run: Run, by_case: Dict[Tuple, Run]) -> Optional[float]:
    """The speed over that of the same program's plain decoding, after the same prompt and in the same repeat."""
    baseline = by_case.get((run["target"], run["set"], run["prompt"], run["repeat"], run["baseline"]))
    if baseline is None or speed(run) is None or speed(baseline) is None:
        return None
    return speed(run) / speed(baseline)


class Table:
    """Looks up summaries by target, set and method."""

    def __init__(self, results: Dict[str, Any]) -> None:
        self.results = results
        self.targets = [target["name"] for target in results["targets"]]
        self.sets = [prompts["name"] for prompts in results["sets"]]
        self._entries = {(s["target"], s["set"], s["method"]): s for s in results["summary"]}

    def get(self, target: str, set_name: str, method: str) -> Optional[Dict[str, Any]]:
        return self._entries.get((target, set_name, method))

    def of_kind(self, target: str, set_name: str, kind: str) -> List[Dict[str, Any]]:
        """The methods of a kind, smallest budget first, "auto" last."""
        found = [s for (t, n, _), s in self._entries.items() if (t, n, s["kind"]) == (target, set_name, kind)]
        return sorted(found, key=lambda s: float("inf") if s["budget"] == "auto" else s["budget"] or 0)

    def best(self, target: str, set_name: str, kind: str) -> Optional[Dict[str, Any]]:
        """The fastest method of a kind."""
        found = [s for s in self.of_kind(target, set_name, kind) if s["tokens_per_second"] is not None]
        return max(found, key=lambda s: s["tokens_per_second"], default=None)
