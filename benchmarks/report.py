"""Markdown tables from a result file, printed or put between their markers in a page.

    python benchmarks/report.py results.json --into docs/MEASUREMENTS.md

A page says where a table goes with two lines: <!-- begin speed --> and <!-- end speed -->.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from llama_dflash.bench import tables
from llama_dflash.bench.summary import ALL, Table
from llama_dflash.bench.tables import markdown, methods, source

# ---------------------------------------------------------------- what only this repository's pages show


def pictures(results: Dict[str, Any]) -> str:
    """The pictures that plot.py puts into images/ beside the page."""
    alt = "acceptance length and tokens per second against budget"
    return "\n\n".join(f"![{t['name']}: {alt}](images/{t['name']}.png)" for t in results["targets"])


def bars(results: Dict[str, Any]) -> str:
    """What is required of the numbers (see docs/MEASUREMENTS.md), and what was measured."""
    table, rows = Table(results), []
    for target in table.targets:
        for set_name in table.sets:
            rows += _acceptance_bars(table, target, set_name)
        auto = table.get(target, ALL, "tree auto")
        if auto is not None and auto["ratio_to_plain"] is not None:
            per_set = [table.get(target, s, "tree auto") for s in table.sets]
            worst = min(e["ratio_to_plain"] for e in per_set if e is not None and e["ratio_to_plain"] is not None)
            rows.append(_bar(f"{target}: tree auto, times plain, worst prompt set", worst, 0.97))
            if re.search(r"Q8_0|F16", target, re.I):
                rows.append(_bar(f"{target}: tree auto, times plain (one of Q8_0 and F16 suffices)", auto["ratio_to_plain"], 1.3))
            server = table.best(target, ALL, "server-chain")
            if server is not None:
                name = f"{target}: tree auto, tokens per second, against llama-server's best chain"
                rows.append(_bar(name, auto["tokens_per_second"], server["tokens_per_second"]))
                if server["ratio_to_plain"] is not None:
                    name = f"{target}: tree auto, times plain, against llama-server's best chain, times its plain"
                    rows.append(_bar(name, auto["ratio_to_plain"], server["ratio_to_plain"]))
        shares = [e["overhead_share"] for e in methods(table, target, "tree") if e["overhead_share"] is not None]
        if shares:
            rows.append(_bar(f"{target}: % of a round that is neither draft nor verify, worst budget", 100 * max(shares), 5, most=True))
    return markdown(["", "measured", "required", ""], rows)


def _acceptance_bars(table: Table, target: str, set_name: str) -> List[List[str]]:
    rows = []
    trees = {e["budget"]: e for e in table.of_kind(target, set_name, "tree") if e["budget"] != "auto"}
    chains = {e["budget"]: e for e in table.of_kind(target, set_name, "chain") if e["budget"] != "auto"}
    for budget in sorted(set(trees) & set(chains)):
        tree, chain = trees[budget]["acceptance_length"], chains[budget]["acceptance_length"]
        if tree is not None and chain is not None:
            rows.append(_bar(f"{target}, {set_name}: acceptance of a tree of {budget} against a chain of {budget}", tree, chain))
    longest = chains[max(chains)]["acceptance_length"] if chains else None
    if longest is not None:
        style = next(s["style"] for s in table.results["sets"] if s["name"] == set_name)
        required = {"raw": 3.0, "chat": 2.5}[style]  # code, and GSM8K's questions
        rows.append(_bar(f"{target}, {set_name}: acceptance of the longest chain", longest, required))
    return rows


def _bar(name: str, measured: float, required: float, most: bool = False) -> List[str]:
    met = measured <= required if most else measured >= required
    return [name, f"{measured:.2f}", f"{'at most' if most else 'at least'} {required:.2f}", "yes" if met else "**no**"]


TABLES: Dict[str, Callable[[Dict[str, Any]], str]] = {
    "bars": bars,
    "speed": tables.speed,
    "pictures": pictures,
    "acceptance": tables.acceptance,
    "phases": tables.phases,
    "peers": tables.peers,
    "exactness": tables.exactness,
}


# ---------------------------------------------------------------- into a page


def insert(page: str, name: str, text: str) -> str:
    """Replaces what is between the markers of a table; a page without them is left as it is."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    if begin not in page:
        return page
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{begin} has no {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description="Markdown tables from what bench.py wrote.")
    parser.add_argument("results", type=Path)
    parser.add_argument("--into", type=Path, metavar="PAGE.md", help="default: print them")
    parser.add_argument("--prefix", default="", help='of the markers: "invariant-" fills <!-- begin invariant-speed -->')
    parser.add_argument("--tables", default=",".join(TABLES), metavar="LIST", help="default: %(default)s")
    args = parser.parse_args(argv)
    names = args.tables.split(",")
    if unknown := set(names) - set(TABLES):
        parser.error(f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")

    results = json.loads(args.results.read_text(encoding="utf-8"))
    texts = {name: f"{TABLES[name](results)}\n\n{source(results)}" for name in names}
    if args.into is None:
        print("\n\n".join(f"### {name}\n\n{text}" for name, text in texts.items()))
        return 0
    page = args.into.read_text(encoding="utf-8")
    for name, text in texts.items():
        page = insert(page, args.prefix + name, text)
    args.into.write_text(page, encoding="utf-8")
    print(f"{args.into}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
