"""Draft trees and statistics to look at: as text, and as HTML for notebooks."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Callable, Dict, Iterator, List, NamedTuple, Tuple

if TYPE_CHECKING:
    from .stats import DraftTree, SpeculativeStats

TextOf = Callable[[int], str]

_GREEN, _GREY, _AMBER = "#1a9850", "#8888", "#d08700"
_CELL = "padding:1px 8px 1px 0;text-align:left;border:0;background:transparent"


class Plain:
    """How parts of a picture are marked on a terminal: here not at all."""

    drafted = own = bold = dim = end = ""


class Node(NamedTuple):
    """A line of the picture. branch: What is drawn in front of it. probability: In the drafter's eyes, given its parent."""

    branch: str
    token: int
    probability: float
    is_accepted: bool


def nodes(tree: DraftTree) -> Iterator[Node]:
    """Every node but the root, each after its parent, siblings in their order."""
    children: Dict[int, List[int]] = {}
    for node, parent in enumerate(tree.parents):
        children.setdefault(parent, []).append(node)
    accepted = set(tree.path[1:])
    waiting: List[Tuple[int, str, bool]] = [(child, "", child == children[0][-1]) for child in reversed(children.get(0, []))]
    while waiting:
        node, indent, is_last = waiting.pop()
        yield Node(indent + ("└─ " if is_last else "├─ "), tree.tokens[node], math.exp(tree.logprobs[node]), node in accepted)
        below = children.get(node, [])
        deeper = indent + ("   " if is_last else "│  ")
        waiting += [(child, deeper, child == below[-1]) for child in reversed(below)]


def tree_lines(tree: DraftTree, style: object = Plain) -> Iterator[str]:
    """One line a node: its token, the drafter's probability for it there, and whether the target accepted it."""
    s, name = style, _quoted(tree.text_of)
    yield f"{s.bold}{name(tree.tokens[0])}{s.end}  root: the token sampled before this round"  # type: ignore[attr-defined]
    for node in nodes(tree):
        text = f"{name(node.token)} {node.probability:.2f}"
        mark = f"{s.bold}{s.drafted}{text}  <- accepted{s.end}" if node.is_accepted else text  # type: ignore[attr-defined]
        yield f"{s.dim}{node.branch}{s.end}{mark}"  # type: ignore[attr-defined]
    if tree.sampled and not tree.drafted(len(tree.sampled) - 1):
        yield f"{s.own}{name(tree.sampled[-1])}{s.end}  sampled by the target where the accepted path ends"  # type: ignore[attr-defined]


def tree_html(tree: DraftTree) -> str:
    """The same as a table: branches and tokens, probabilities with bars, the accepted path in green."""
    name = _quoted(tree.text_of)
    rows = [_row("", name(tree.tokens[0]), "", "root: sampled before this round", "font-weight:bold")]
    for node in nodes(tree):
        note = "accepted" if node.is_accepted else ""
        style = f"font-weight:bold;color:{_GREEN}" if node.is_accepted else ""
        rows.append(_row(node.branch, name(node.token), _bar(node.probability, node.is_accepted), note, style))
    if tree.sampled and not tree.drafted(len(tree.sampled) - 1):
        rows.append(_row("", name(tree.sampled[-1]), "", "sampled by the target where the path ends", f"color:{_AMBER}"))
    n_nodes, n_accepted = len(tree.tokens) - 1, len(tree.path) - 1
    return f"<div>Draft tree: {n_accepted} of {n_nodes} nodes accepted</div>{_table(rows)}"


def stats_html(stats: SpeculativeStats) -> str:
    """Numbers and where the time went."""
    total = sum(stats.seconds.values())
    numbers = {
        "tokens per second": f"{stats.tokens_per_second:.1f}",
        "acceptance length": f"{stats.acceptance_length:.2f} tokens a round",
        "tokens, rounds": f"{stats.tokens} in {stats.rounds}",
        "draft nodes accepted": f"{stats.accepted} of {stats.nodes}",
    }
    rows = [_row("", name, "", value, "") for name, value in numbers.items()]
    for phase, seconds in stats.seconds.items():
        rows.append(_row("", phase, _bar(seconds / total if total else 0.0, False), f"{1000 * seconds:.1f} ms", ""))
    explained = f"<div>{html.escape(stats.explain())}</div>" if stats.explain() else ""
    return _table(rows) + explained


def _quoted(text_of: TextOf) -> TextOf:
    return lambda token: repr(text_of(token))


def _row(branch: str, text: str, bar: str, note: str, style: str) -> str:
    branch = html.escape(branch).replace(" ", "&nbsp;")
    first = f'<span style="color:{_GREY}">{branch}</span><span style="{style}">{html.escape(text)}</span>'
    return f'<tr style="background:transparent"><td style="{_CELL}">{first}</td><td style="{_CELL}">{bar}</td><td style="{_CELL}">{html.escape(note)}</td></tr>'


def _bar(share: float, is_accepted: bool) -> str:
    width, colour = max(1, round(80 * min(share, 1.0))), _GREEN if is_accepted else _GREY
    return f'<span style="display:inline-block;height:.7em;width:{width}px;background:{colour}"></span> {share:.2f}'


def _table(rows: List[str]) -> str:
    return f'<table style="font-family:monospace;line-height:1.25;border-collapse:collapse">{"".join(rows)}</table>'
