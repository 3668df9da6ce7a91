"""Acceptance length and tokens per second against budget: one picture per target of a result file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List

import matplotlib

from .summary import Table

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  # after its backend is chosen

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
PANELS = {"acceptance_length": "acceptance length", "tokens_per_second": "tokens per second"}


def plot(results: Dict[str, Any], folder: Path) -> List[Path]:
    """Draws FOLDER/TARGET.png for every target of a result file."""
    table = Table(results)
    return [plot_target(table, target, folder / f"{target['name']}.png") for target in results["targets"]]


def plot_target(table: Table, target: Dict[str, Any], path: Path) -> Path:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), constrained_layout=True)
    for axis, (key, label) in zip(axes, PANELS.items()):
        for colour, set_name in zip(COLOURS * len(table.sets), table.sets):
            _plot_set(axis, table, target["name"], set_name, key, colour)
        axis.set_xlabel("draft nodes per round (auto: their mean)")
        axis.set_ylabel(label)
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    axes[0].axhline(1, color="#777777", linestyle=":", linewidth=1)
    axes[1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
    settings, machine = table.results["settings"], table.results["machine"]
    figure.suptitle(
        f"{target['name']} ({target['type']}), greedy, {settings['max_tokens']} tokens per prompt; "
        f"{machine['cpu']}, {settings['threads']} of {machine['cores']} cores",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
    return path


def _plot_set(axis: Any, table: Table, target: str, set_name: str, key: str, colour: str) -> None:
    """Lines for tree and chain, a star for auto, horizontal lines for what has no budget of ours."""
    for kind, style, marker in (("tree", "-", "o"), ("chain", "--", "s")):
        entries = [s for s in table.of_kind(target, set_name, kind) if s[key] is not None]
        fixed = [s for s in entries if s["budget"] != "auto"]
        if fixed:
            x, y = [s["budget"] for s in fixed], [s[key] for s in fixed]
            axis.plot(x, y, style, marker=marker, markersize=4, color=colour, label=f"{set_name}: {kind}")
        for auto in (s for s in entries if s["budget"] == "auto"):
            label = f"{set_name}: {kind}, auto"
            face = colour if kind == "tree" else "white"
            x = [auto["nodes_per_round"]]
            axis.plot(x, [auto[key]], "*", markersize=12, color=colour, markerfacecolor=face, label=label)
    plain = table.get(target, set_name, "plain")
    if key == "tokens_per_second" and plain is not None and plain[key] is not None:
        axis.axhline(plain[key], color=colour, linestyle=":", linewidth=1.2, label=f"{set_name}: plain")
    server = table.best(target, set_name, "server-chain")
    if server is not None and server[key] is not None:
        label = f"{set_name}: llama-server's chain of {server['budget']}"
        axis.axhline(server[key], color=colour, linestyle="-.", linewidth=1.2, label=label)
