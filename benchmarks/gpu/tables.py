"""Prints a result file as tables.

    python benchmarks/gpu/tables.py results.json
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import results

NONE = "–"
KINDS = ("batch, one", "batch, all", "verify, all", "verify, best")
HEAD_OF_ROUNDS = ["budget, length", "ms", "most", "tokens/s", "/ batch", "draft", "build", "verify", "sample", "commit",
                  "other", "not forwards", "draft share"]
LABEL = """\
Random weights of the real shape; accepted tokens are made up, so tokens per second are projections, and texts mean nothing.
"""


def cell(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def forward_ms(found: dict[str, Any], kind: str, n: int) -> float | None:
    return next((e["ms"] for e in found.get("forwards", []) if (e["kind"], e["n"]) == (kind, n)), None)


def not_forwards(r: dict[str, Any]) -> float:
    """Milliseconds of a round that are neither draft nor verify."""
    return sum(ms for phase, ms in r["phases_ms"].items() if phase not in ("draft", "verify"))


def ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or not b else a / b


def forwards(found: dict[str, Any]) -> str:
    """Milliseconds; times plain decoding; times the batch of as many tokens whose rows come to the host alike."""
    plain = forward_ms(found, "batch, one", 1)
    rows = []
    for n in sorted({e["n"] for e in found["forwards"]}):
        one, all_, whole, best = (forward_ms(found, kind, n) for kind in KINDS)
        rows.append([str(n), *map(cell, (one, all_, whole, best)), cell(ratio(all_, plain)), cell(ratio(best, plain)),
                     cell(ratio(whole, all_), 3), cell(ratio(best, all_), 3), cell(ratio(best, one), 3)])
    head = ["n", "batch, 1 row", "batch, n rows", "verify, n rows", "verify, best", "batch n rows / plain",
            "verify best / plain", "verify n rows / batch n rows", "verify best / batch n rows", "verify best / batch 1 row"]
    return markdown(head, rows)


def rounds(found: dict[str, Any]) -> str:
    """Medians. "/ batch": the round over llama_decode of as many tokens (the root included), all rows to the host."""
    rows = []
    for r in found["rounds"]:
        phases = r["phases_ms"]
        batch = forward_ms(found, "batch, all", r["budget"] + 1)
        rows.append([f"{r['budget']}, {r['length']:.2f}", cell(r["ms"]), cell(r["ms_most"]), cell(r["tokens_per_second"], 1),
                     cell(ratio(r["ms"], batch), 3), *map(cell, phases.values()),
                     f"{100 * not_forwards(r) / r['ms']:.1f}%", f"{100 * phases['draft'] / r['ms']:.1f}%"])
    return markdown(HEAD_OF_ROUNDS, rows)


def sampled(found: dict[str, Any]) -> str:
    """Rounds at temperature, beside the first one at temperature 0."""
    greedy = found["rounds"][0]
    rows = [[r["sampler"], cell(r["ms"]), cell(ratio(r["ms"], greedy["ms"]), 3), cell(r["phases_ms"]["verify"]),
             cell(r["phases_ms"]["sample"])] for r in [{"sampler": "temperature 0", **greedy}, *found["sampled"]]]
    return markdown([f"budget {greedy['budget']}", "ms", "/ temperature 0", "verify", "sample"], rows)


def timeline(found: dict[str, Any]) -> str:
    """One round of the first setting, phase after phase."""
    r = found["rounds"][0]
    lines, done, scale = [], 0.0, 60 / sum(r["phases_ms"].values())
    for phase, ms in r["phases_ms"].items():
        bar = " " * round(done * scale) + "█" * max(1, round(ms * scale))
        lines.append(f"{phase:>7} {ms:7.2f} ms  {bar}")
        done += ms
    return "```\n" + "\n".join(lines) + "\n```"


def bars(found: dict[str, Any]) -> str:
    """What was asked for, at budget 22 and the first acceptance length."""
    r = next((r for r in found["rounds"] if r["budget"] == 22), None)
    one, all_, whole, best = (forward_ms(found, kind, 23) for kind in KINDS)
    if r is None or not all_:
        return "no round of budget 22, or no batch of 23 tokens, was measured"
    draft = r["phases_ms"]["draft"]
    limits = [
        ("round / batch of 23, all rows", ratio(r["ms"], all_), 1.14),
        ("round / batch of 23, 1 row", ratio(r["ms"], one), 1.14),
        ("verify(23), all rows / batch of 23, all rows", ratio(whole, all_), 1.05),
        ("verify(23), best / batch of 23, 1 row", ratio(best, one), 1.05),
        ("neither draft nor verify, of the round", not_forwards(r) / r["ms"], 0.06),
        ("draft, of the round", draft / r["ms"], 0.12),
    ]
    peak = found["memory_mib"]["peak"]
    if peak is not None and found["context"] >= 131072:
        limits.append(("peak GPU memory, GiB", peak / 1024, 24.0))
    rows = [[name, cell(value, 3), cell(most), "yes" if value <= most else "**no**"] for name, value, most in limits]
    return markdown(["", "measured", "at most", ""], rows)


def context_facts(found: dict[str, Any]) -> str:
    facts = [f"{found['filled']} tokens in memory"]
    for key, words in (("prefill_with_drafter_seconds", "with the drafter"), ("prefill_without_drafter_seconds", "without")):
        if found.get(key):
            facts.append(f"prompt {words}: {found[key]:.2f} s, {found['filled'] / found[key]:.0f} tokens/s")
    if "commit" in found:
        facts.append("a commit of {path} of {n} nodes that is waited for: {ms:.2f} ms".format(**found["commit"]))
    return "; ".join(facts) + "."


def memory(content: dict[str, Any]) -> str:
    """MiB of the GPU beyond what was in use before."""
    entries = {f"llama-dflash, {f['kv']}, {f['context']} tokens": f for f in content.get("contexts", {}).values()}
    entries.update({f"llama-server, {name}": f for name, f in content.get("llama-server", {}).items()})
    moments = ["after loading", "after the prompt", "after the rounds", "peak"]
    rows = [[name, *(cell(f["memory_mib"].get(m), 0) for m in moments)] for name, f in entries.items() if "memory_mib" in f]
    return markdown(["MiB", *moments], rows)


def server(content: dict[str, Any]) -> str:
    rows = [[name, cell(f["tokens_per_second"], 1), cell(f["ms_per_token"]), cell(f.get("ms")), cell(f.get("length"))]
            for name, f in content["llama-server"].items()]
    return markdown(["llama-server", "tokens/s", "ms a token", "ms a round", "length"], rows)


def kernels(found: dict[str, Any]) -> str:
    total = sum(k["us"] for k in found["kernels"])
    rows = []
    for k in found["kernels"][:16]:
        share, speed = k["us"] / total, 1000 * k["mb"] / max(k["us"], 1e-9)
        rows.append([f"`{k['kernel'][:60]}`", str(k["launches"]), cell(k["us"], 0), f"{100 * share:.1f}%", cell(k["mb"], 1),
                     cell(speed, 0), f"{k['bandwidth_percent']:.0f}%"])
    return markdown(["kernel", "launches", "µs", "of all", "MB", "GB/s", "of peak"], rows)


def steps(content: dict[str, Any]) -> str:
    rows = [[name, "done" if s["exit"] == 0 else "out of time" if s["exit"] in (124, 137) else f"**failed ({s['exit']})**",
             f"{s['seconds']:.0f} s"] for name, s in content["steps"].items()]
    return markdown(["step", "", "took"], rows)


def page(content: dict[str, Any]) -> str:
    parts = [LABEL]
    for found in content.get("contexts", {}).values():
        where = found["device"] or "no GPU"
        parts += [f"## {found['context']} tokens of {found['kv']} KV ({where})", context_facts(found), rounds(found), timeline(found)]
        if "sampled" in found:
            parts.append(sampled(found))
        if "forwards" in found:
            parts += [forwards(found), bars(found)]
    for section, table in (("llama-server", server), ("contexts", memory)):
        if section in content:
            parts.append(table(content))
    for name, found in content.get("kernels", {}).items():
        parts += [f"## Kernels: {name}, {found['layers']} layers", kernels(found)]
    if "steps" in content:
        parts.append(steps(content))
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(page(results.read(Path(sys.argv[1]))))
