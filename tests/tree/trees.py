"""Random draft trees for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from models import N_VOCAB

TOKENS = st.integers(0, N_VOCAB - 5)


@st.composite
def parent_arrays(draw, max_nodes: int = 64, max_depth: int = 16) -> list[int]:
    """parents[0] = -1, 0 <= parents[i] < i: chains, stars, bushes and everything between, in any topological order."""
    n = draw(st.integers(1, max_nodes))
    shape = draw(st.sampled_from(["any", "chain", "star", "deep", "wide"]))
    parents, depth = [-1], [0]
    for i in range(1, n):
        open_nodes = [j for j in range(i) if depth[j] < max_depth]
        if shape == "chain":
            p = i - 1 if depth[i - 1] < max_depth else open_nodes[-1]
        elif shape == "star":
            p = 0
        elif shape == "deep":
            p = open_nodes[-1 - draw(st.integers(0, min(2, len(open_nodes) - 1)))]
        elif shape == "wide":
            p = open_nodes[draw(st.integers(0, min(3, len(open_nodes) - 1)))]
        else:
            p = draw(st.sampled_from(open_nodes))
        parents.append(p)
        depth.append(depth[p] + 1)
    return parents


@st.composite
def token_trees(draw, **kwargs) -> tuple[list[int], list[int]]:
    """(tokens, parents). Few different tokens, so that subtrees of siblings share them."""
    parents = draw(parent_arrays(**kwargs))
    alphabet = draw(st.lists(TOKENS, min_size=2, max_size=8, unique=True))
    tokens = [draw(st.sampled_from(alphabet)) for _ in parents]
    return tokens, parents


def path_to(node: int, parents: list[int]) -> list[int]:
    """The nodes from the root to `node`."""
    path = []
    while node >= 0:
        path.append(node)
        node = parents[node]
    return path[::-1]


def leaves(parents: list[int]) -> list[int]:
    return [i for i in range(len(parents)) if i not in parents]
