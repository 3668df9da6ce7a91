"""Markdown tables from the content of a result file."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence

from .summary import ALL, Table

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


def columns(table: Table) -> List[str]:
    """The prompt sets, and all of them together where there are several."""
    return table.sets if len(table.sets) == 1 else [*table.sets, ALL]


def methods(table: Table, target: str, *kinds: str) -> List[Dict[str, Any]]:
    return [entry for kind in kinds for entry in table.of_kind(target, ALL, kind)]


# ---------------------------------------------------------------- the tables, by their markers' names


def speed(results: Dict[str, Any]) -> str:
    """Tokens per second (and times plain decoding) of everything, per prompt set."""

    def one(table: Table, target: str) -> str:
        rows = []
        for entry in methods(table, target, "plain", "chain", "tree"):
            cells = [rate(table.get(target, s, entry["method"])) for s in columns(table)]
            rows.append([label(entry), *cells, _range(entry)])
        return markdown(["tokens per second (times plain)", *columns(table), "single prompts, times plain"], rows)

    return per_target(results, one)


def _range(entry: Dict[str, Any]) -> str:
    return NONE if entry["budget"] is None or not entry["ratio_range"] else "{:.2f} to {:.2f}".format(*entry["ratio_range"])


def acceptance(results: Dict[str, Any]) -> str:
    """Acceptance length by budget, per prompt set."""

    def one(table: Table, target: str) -> str:
        rows = []
        for entry in methods(table, target, "chain", "tree", "server-chain"):
            found = [table.get(target, s, entry["method"]) for s in columns(table)]
            cells = [number(e and e["acceptance_length"], 2) for e in found]
            rows.append([label(entry), number(entry["nodes_per_round"]), *cells])
        return markdown(["acceptance length", "nodes per round", *columns(table)], rows)

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
            cells = [rate(table.get(target, s, entry["method"])) for s in columns(table)]
            is_best = best is not None and entry["method"] == best["method"]
            name = f"{label(entry)} (its best)" if is_best else label(entry)
            rows.append([name, *cells, number(entry["acceptance_length"], 2)])
        return markdown(["tokens per second (times plain of the same program)", *columns(table), "acceptance length"], rows)

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


TABLES: Dict[str, Callable[[Dict[str, Any]], str]] = {
    "speed": speed,
    "acceptance": acceptance,
    "phases": phases,
    "peers": peers,
    "exactness": exactness,
}
TITLES = {
    "speed": "Speed",
    "acceptance": "Acceptance length",
    "phases": "Where a round's time goes",
    "peers": "Beside llama.cpp's own chain",
    "exactness": "Texts",
}


def page(results: Dict[str, Any]) -> str:
    """All tables of which there is something to show, under titles, and where they come from."""
    kinds = {run["kind"] for run in results["runs"]}
    names = ["speed"]
    if kinds & {"chain", "tree", "server-chain"}:
        names += ["acceptance"]
    if kinds & {"chain", "tree"}:
        names += ["phases"]
    if "server-plain" in kinds:
        names += ["peers"]
    if len(kinds) > 1:
        names += ["exactness"]
    parts = [f"## {TITLES[name]}\n\n{TABLES[name](results)}" for name in names]
    return "\n\n".join([*parts, source(results)]) + "\n"
