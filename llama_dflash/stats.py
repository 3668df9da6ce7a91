"""What speculation did: numbers of a generation, and the draft tree of a round."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, List

from . import pictures

PHASES = ("draft", "build", "verify", "sample", "commit", "other")


@dataclass(frozen=True)
class SpeculativeStats:
    """Numbers of one generation, from the token after its first one on.

    Attributes:
        rounds: Forwards of the target over a draft tree (in a plain round, over its root alone).
        nodes: Draft nodes that were verified, roots not counted.
        accepted: Of these, nodes that became text.
        tokens: Tokens sampled in rounds: the accepted ones and one more per round. A stop string can end the
            text before the last of them.
        seconds: Time by phase. "draft": the drafter's forward; "build": choosing the nodes; "verify": the
            target's forward; "sample": the sampler along the accepted path; "commit": keeping that path;
            "other": the rest of a round, Python included.
        acceptance_length: Mean tokens per round; plain decoding has 1. 0 before the first round.
        tokens_per_second: Tokens over the time of the rounds, without the prompt and what the caller does
            between tokens.
        why: What `explain()` says.
    """

    rounds: int = 0
    nodes: int = 0
    accepted: int = 0
    tokens: int = 0
    seconds: Dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    acceptance_length: float = field(init=False)
    tokens_per_second: float = field(init=False)
    why: str = ""

    def __post_init__(self) -> None:
        total = sum(self.seconds.values())
        object.__setattr__(self, "acceptance_length", self.tokens / self.rounds if self.rounds else 0.0)
        object.__setattr__(self, "tokens_per_second", self.tokens / total if total > 0 else 0.0)

    def explain(self) -> str:
        """In two sentences, what a budget of "auto" did at last and why, in numbers."""
        return self.why

    def __str__(self) -> str:
        total = sum(self.seconds.values()) or 1.0
        phases = ", ".join(f"{name} {100 * value / total:.1f}%" for name, value in self.seconds.items())
        return (
            f"{self.tokens} tokens in {self.rounds} rounds: acceptance length {self.acceptance_length:.2f}, "
            f"{self.accepted} of {self.nodes} draft nodes accepted, {self.tokens_per_second:.1f} tokens per second ({phases})"
        )

    def _repr_html_(self) -> str:
        return pictures.stats_html(self)


def _number(token: int) -> str:
    return f"#{token}"


@dataclass(frozen=True)
class DraftTree:
    """The draft tree of one round and what the target made of it. While the round's tokens are handed out, `path` and
    `sampled` grow.

    Attributes:
        tokens: [n_nodes] The token of every node. Node 0 is the root: the last token sampled before the round.
        parents: [n_nodes] The parent of every node, which comes before it; -1 for the root.
        logprobs: [n_nodes] The drafter's log-probability of the node's token at its depth; 0 for the root.
        path: The accepted path, the root first: the nodes whose tokens became text.
        sampled: The target's own choice at the nodes of the path, so far. `sampled[i]` was drafted if the path goes on
            after node `path[i]`, to a node that carries it; the last token of a round, which no node carries, is the
            bonus token.
        text_of: What `str()` and notebooks show of a token. `Llama.last_tree` sets it.
    """

    tokens: List[int]
    parents: List[int]
    logprobs: List[float]
    path: List[int]
    sampled: List[int]
    text_of: Callable[[int], str] = field(default=_number, compare=False, repr=False)

    def drafted(self, i: int) -> bool:
        """Was the i-th sampled token of the round a node of the tree?"""
        return i + 1 < len(self.path)

    def __str__(self) -> str:
        return "\n".join(pictures.tree_lines(self))

    def _repr_html_(self) -> str:
        return pictures.tree_html(self)
