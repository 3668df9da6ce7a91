"""The tables of serving.py's results, printed or put into a page.

    python benchmarks/serving_tables.py benchmarks/results/serving-*.json --into docs/MEASUREMENTS.md

A page says where they go with two lines: <!-- begin serving-TARGET --> and <!-- end serving-TARGET -->.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Dict, List, Optional

from llama_dflash.bench.tables import markdown
from report import insert

KINDS = ("plain", "chain", "tree", "python")


class Best:
    """Of each way and number of clients, the best of the repeats."""

    def __init__(self, results: Dict[str, Any]) -> None:
        self.runs = results["runs"]
        self.clients = sorted({run["clients"] for run in self.runs})
        self.ways = list(dict.fromkeys(run["way"] for run in self.runs))

    def _of(self, clients: int, way: Optional[str], kind: Optional[str]) -> List[Dict[str, Any]]:
        return [r for r in self.runs if r["clients"] == clients and way in (None, r["way"]) and kind in (None, r["kind"])]

    def speed(self, clients: int, way: Optional[str] = None, kind: Optional[str] = None) -> float:
        """Tokens a second of all clients together; of the fastest way of a kind."""
        return max(run["tokens"] / run["seconds"] for run in self._of(clients, way, kind))

    def first(self, clients: int, which: str, way: Optional[str] = None, kind: Optional[str] = None) -> float:
        """Seconds to the first token, "median" or "worst" of the requests; of the way of a kind with the least."""
        return min(run[f"first_token_{which}"] for run in self._of(clients, way, kind))

    def fastest(self, clients: int, kind: str) -> str:
        return max(self._of(clients, None, kind), key=lambda run: run["tokens"] / run["seconds"])["way"]


def table(results: Dict[str, Any]) -> str:
    best = Best(results)
    rows = []
    for way in best.ways:
        cells = [f"{best.speed(n, way):.1f}" for n in best.clients]
        cells += [f"{best.first(n, 'median', way):.2f} / {best.first(n, 'worst', way):.2f}" for n in best.clients]
        rows.append([way, *cells])
    head = [f"{n}: tokens/s" for n in best.clients] + [f"{n}: first token, s" for n in best.clients]
    differ = sum(run["texts_differ"] for run in results["runs"])
    wrong = sum(run["texts_wrong"] for run in results["runs"])
    n_texts = len(results["runs"]) * results["n_prompts"]
    return (
        f"**{results['target']}**, by number of clients; first token: median / worst\n\n{markdown(['', *head], rows)}\n\n"
        f"Of {n_texts} texts {differ} differ from those of the plain server asked by one client, {wrong} of them by more than rounding."
    )


def bars(results: Dict[str, Any]) -> str:
    """What is required, and what was measured; kinds that were not run are left out."""
    best = Best(results)
    kinds = {run["kind"] for run in best.runs}
    rows: List[List[str]] = []

    def bar(name: str, measured: float, required: float, most: bool = False) -> None:
        met = measured <= required if most else measured >= required
        rows.append([name, f"{measured:.2f}", f"{'at most' if most else 'at least'} {required:.2f}", "yes" if met else "**no**"])

    if "tree" in kinds and {1, 4} <= set(best.clients):
        bar("4 clients of trees, times 1 client", best.speed(4, kind="tree") / best.speed(1, kind="tree"), 2)
    if {"tree", "chain"} <= kinds:
        for n in best.clients:
            tree, chain = best.fastest(n, "tree"), best.fastest(n, "chain")
            bar(f"{n} clients: {tree} against {chain}, tokens/s", best.speed(n, tree) / best.speed(n, chain), 1.15)
        for n in best.clients:
            tree, chain = best.fastest(n, "tree"), best.fastest(n, "chain")
            bar(f"{n} clients: worst first token, {tree} against {chain}", best.first(n, "worst", tree) / best.first(n, "worst", chain), 1.5, most=True)
    return markdown(["", "measured", "required", ""], rows)


def source(results: Dict[str, Any]) -> str:
    machine, versions = results["machine"], results["versions"]
    return (
        f"{machine['cpu']}, {results['threads']} of {machine['cores']} cores; {results['date']}; llama-dflash {versions['git_commit']}; "
        f"{results['n_prompts']} prompts, {results['max_tokens']} tokens each, greedy:\n`{results['command']}`"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, metavar="PAGE.md", help="default: print them")
    args = parser.parse_args()
    for file in args.results:
        results = json.loads(file.read_text(encoding="utf-8"))
        text = "\n\n".join((table(results), bars(results), source(results)))
        if args.into:
            page = args.into.read_text(encoding="utf-8")
            args.into.write_text(insert(page, f"serving-{results['target']}", text), encoding="utf-8")
        else:
            print(text)


if __name__ == "__main__":
    main()
