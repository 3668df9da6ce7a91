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
from typing import Any, Callable, Dict, List, Optional, Sequence

from summary import ALL, Table

PHASES = ("draft", "build", "verify", "sample", "commit", "other")
NONE = "–"


# ---------------------------------------------------------------- cells and tables


def number(value: Optional[float], digits: int = 1, suffix: str = "") -> str:
    return NONE if value is None else f"{value:.{digits}f}{suffix}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns are numbers, except the first."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def label(entry: Dict[str, Any]) -> str:
    """What readers call a method."""
    names = {"plain": "plain", "server-plain": "llama-server, plain", "server-chain": "llama-server, chain"}
    name = names.get(entry["kind"], entry["kind"])
    return name if entry["budget"] is None else f"{name} {entry['budget']}"


def rate(entry: Optional[Dict[str, Any]]) -> str:
    """"61.2 (1.38)": tokens per second, and times plain decoding."""
    if entry is None or entry["tokens_per_second"] is None:
        return NONE
    text = number(entry["tokens_per_second"])
    return text if entry["budget"] is None else f"{text} ({number(entry['ratio_to_plain'], 2)})"


def source(results: Dict[str, Any]) -> str:
    """The line under every table: where its numbers come from."""
    machine, settings, versions = results["machine"], results["settings"], results["versions"]
    count = ", ".join(f"{_measured(results, s['name'])} of {s['name']}" for s in results["sets"])
    parts = [
        f"{machine['cpu']}, {settings['threads']} of {machine['cores']} cores",
        results["date"][:10],
        f"llama-dflash {versions['git_commit'] or versions['llama_dflash']}",
        f"prompts: {count}" + ("" if settings["repeats"] == 1 else f", each {settings['repeats']} times"),
    ]
    if settings["batch_invariant"]:
        parts.append("GGML_CPU_BATCH_INVARIANT=1")
    if not results["complete"]:
        parts.append("not all prompts that were asked for")
    return f"{'; '.join(parts)}:\n`{results['command']}`"


def _measured(results: Dict[str, Any], set_name: str) -> str:
    """How many prompts of a set were measured; per target, if not all the same."""
    names = [t["name"] for t in results["targets"]]
    counts = [len({r["prompt"] for r in results["runs"] if (r["target"], r["set"]) == (n, set_name)}) for n in names]
    return "/".join(map(str, counts if len(set(counts)) > 1 else counts[:1])) or "none"


def per_target(results: Dict[str, Any], one: Callable[[Table, str], str]) -> str:
    """The same table for every target, each under its name."""
    table = Table(results)
    return "\n\n".join(f"**{t['name']}** ({t['type']})\n\n{one(table, t['name'])}" for t in results["targets"])


def methods(table: Table, target: str, *kinds: str) -> List[Dict[str, Any]]:
    return [entry for kind in kinds for entry in table.of_kind(target, ALL, kind)]


# ---------------------------------------------------------------- the tables, by their markers' names


def speed(results: Dict[str, Any]) -> str:
    """Tokens per second (and times plain decoding) of everything, per prompt set."""

    def one(table: Table, target: str) -> str:
        rows = []
        for entry in methods(table, target, "plain", "chain", "tree"):
            cells = [rate(table.get(target, s, entry["method"])) for s in (*table.sets, ALL)]
            rows.append([label(entry), *cells, _range(entry)])
        return markdown(["tokens per second (times plain)", *table.sets, ALL, "single prompts, times plain"], rows)

    return per_target(results, one)


def _range(entry: Dict[str, Any]) -> str:
    return NONE if entry["budget"] is None or not entry["ratio_range"] else "{:.2f} to {:.2f}".format(*entry["ratio_range"])


def acceptance(results: Dict[str, Any]) -> str:
    """Acceptance length by budget, per prompt set."""

    def one(table: Table, target: str) -> str:
        rows = []
        for entry in methods(table, target, "chain", "tree", "server-chain"):
            found = [table.get(target, s, entry["method"]) for s in (*table.sets, ALL)]
            cells = [number(e and e["acceptance_length"], 2) for e in found]
            rows.append([label(entry), number(entry["nodes_per_round"]), *cells])
        return markdown(["acceptance length", "nodes per round", *table.sets, ALL], rows)

    return per_target(results, one)


def phases(results: Dict[str, Any]) -> str:
    """Milliseconds of a round by phase, over all prompts."""

    def one(table: Table, target: str) -> str:
        rows = []
        for entry in methods(table, target, "chain", "tree"):
            ms = entry["milliseconds_per_round"]
            if ms:
                cells = [number(ms[p], 2 if p in ("draft", "verify") else 3) for p in PHASES]
                share = number(100 * entry["overhead_share"], 1, " %")
                rows.append([label(entry), *cells, number(ms["wall"], 2), share])
        return markdown(["milliseconds per round", *PHASES, "as the caller sees it", "neither draft nor verify"], rows)

    return per_target(results, one)


def peers(results: Dict[str, Any]) -> str:
    """llama.cpp's own chain beside ours, each against plain decoding by the same program."""

    def one(table: Table, target: str) -> str:
        rows = []
        entries = methods(table, target, "server-plain", "server-chain", "plain")
        best = table.best(target, ALL, "server-chain")
        entries += [e for kind in ("chain", "tree") for e in _best_and_auto(table, target, kind)]
        for entry in entries:
            cells = [rate(table.get(target, s, entry["method"])) for s in (*table.sets, ALL)]
            is_best = best is not None and entry["method"] == best["method"]
            name = f"{label(entry)} (its best)" if is_best else label(entry)
            rows.append([name, *cells, number(entry["acceptance_length"], 2)])
        return markdown(["tokens per second (times plain of the same program)", *table.sets, ALL, "acceptance length"], rows)

    return per_target(results, one)


def _best_and_auto(table: Table, target: str, kind: str) -> List[Dict[str, Any]]:
    best, auto = table.best(target, ALL, kind), table.get(target, ALL, f"{kind} auto")
    return [e for e in ([best] if best == auto else [best, auto]) if e is not None]


def exactness(results: Dict[str, Any]) -> str:
    """How many texts equal plain decoding's, and what happened at the first token of the others."""

    def one(table: Table, target: str) -> str:
        rows = []
        for entry in methods(table, target, "chain", "tree", "server-plain", "server-chain"):
            runs = [r for r in results["runs"] if (r["target"], r["method"]) == (target, entry["method"])]
            differing = [r for r in runs if r["first_difference"] is not None]
            gaps = [r["top_two_gap"] for r in differing if r["top_two_gap"] is not None]
            second = sum(r["is_second_best"] is True for r in differing)
            rows.append(
                [
                    label(entry),
                    f"{entry['texts_equal_plain']} of {entry['texts']}",
                    number(max(gaps), 4) if gaps else NONE,
                    f"{second} of {len(differing)}" if differing else NONE,
                ]
            )
        head = ["", "texts equal to plain's", "largest gap of plain's two best logits at a first difference"]
        return markdown([*head, "plain's second best token there"], rows)

    return per_target(results, one)


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
    "speed": speed,
    "pictures": pictures,
    "acceptance": acceptance,
    "phases": phases,
    "peers": peers,
    "exactness": exactness,
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
    tables = {name: f"{TABLES[name](results)}\n\n{source(results)}" for name in names}
    if args.into is None:
        print("\n\n".join(f"### {name}\n\n{text}" for name, text in tables.items()))
        return 0
    page = args.into.read_text(encoding="utf-8")
    for name, text in tables.items():
        page = insert(page, args.prefix + name, text)
    args.into.write_text(page, encoding="utf-8")
    print(f"{args.into}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
