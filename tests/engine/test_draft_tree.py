"""The choice of nodes, against a brute-force search, through a program built around native/engine/tree/draft-tree.cpp."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# reads: n_positions n_vocab budget chain k, then the logits; writes the tree as JSON
PROGRAM = r"""
#include "tree/draft-tree.h"
#include <cstdio>
#include <cstdlib>
#include <cmath>

static double number() {
    char word[64];
    return scanf("%63s", word) == 1 ? strtod(word, nullptr) : 0.0;
}

int main() {
    int n, n_vocab, budget, chain, k;
    while (scanf("%d %d %d %d %d", &n, &n_vocab, &budget, &chain, &k) == 5) {
        std::vector<position_candidates> positions;
        for (int i = 0; i < n; ++i) {
            std::vector<float> logits(n_vocab);
            for (float & x : logits) { x = (float) number(); }
            positions.push_back(top_candidates(logits.data(), n_vocab, k));
        }
        const draft_tree tree = build_tree(7, positions, budget, chain);
        printf("[");
        for (int i = 0; i < tree.n_nodes(); ++i) {
            printf("%s[%d,%d,%d,%.9g,%.17g]", i ? "," : "", tree.tokens[i], tree.parents[i], tree.depth[i], tree.logprob[i], tree.prob[i]);
        }
        printf("]\n");
        fflush(stdout);
    }
}
"""


@pytest.fixture(scope="module")
def build(compile_program):
    process = compile_program(PROGRAM, "tree/draft-tree.cpp")

    def run(logits: np.ndarray, budget: int, chain: bool = False, k: int | None = None) -> list:
        n, n_vocab = logits.shape
        numbers = " ".join(repr(float(x)) for x in logits.ravel())
        process.stdin.write(f"{n} {n_vocab} {budget} {int(chain)} {k or n_vocab} {numbers}\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline().replace("nan", "NaN"))

    return run


def log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    m = x.max(axis=1, keepdims=True)
    return x - m - np.log(np.exp(x - m).sum(axis=1, keepdims=True))


SHAPES = st.tuples(st.integers(1, 5), st.integers(2, 5), st.integers(1, 40), st.integers(0, 10**6))


@settings(max_examples=200, deadline=None)
@given(shape=SHAPES)
def test_the_nodes_are_the_most_probable_prefixes_of_all(build, shape):
    n, n_vocab, budget, seed = shape
    logits = np.random.default_rng(seed).normal(0, 2, (n, n_vocab)).astype(np.float32)
    tree = build(logits, budget)
    logprob = log_softmax(logits)
    every = sorted(
        (
            sum(logprob[i, t] for i, t in enumerate(path))
            for depth in range(1, n + 1)
            for path in itertools.product(range(n_vocab), repeat=depth)
        ),
        reverse=True,
    )
    chosen = [math.log(node[4]) for node in tree[1:]]
    assert len(chosen) == min(budget, len(every))
    np.testing.assert_allclose(chosen, every[: len(chosen)], atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(shape=SHAPES)
def test_parents_come_first_and_siblings_differ(build, shape):
    n, n_vocab, budget, seed = shape
    logits = np.random.default_rng(seed).normal(0, 2, (n, n_vocab)).astype(np.float32)
    logprob = log_softmax(logits)
    tree = build(logits, budget)
    assert tree[0][:3] == [7, -1, 0]
    assert len({(parent, token) for token, parent, *_ in tree}) == len(tree)
    for i, (token, parent, depth, given_parent, prob) in enumerate(tree[1:], 1):
        assert 0 <= parent < i and depth == tree[parent][2] + 1 <= n
        assert given_parent == pytest.approx(logprob[depth - 1, token], abs=1e-5)
        assert prob == pytest.approx(tree[parent][4] * math.exp(given_parent), rel=1e-5)
        assert prob <= tree[i - 1][4] * (1 + 1e-9)


@settings(max_examples=50, deadline=None)
@given(shape=SHAPES)
def test_a_chain_takes_the_best_token_of_every_position(build, shape):
    n, n_vocab, budget, seed = shape
    logits = np.random.default_rng(seed).normal(0, 2, (n, n_vocab)).astype(np.float32)
    tree = build(logits, budget, chain=True)
    assert [node[0] for node in tree[1:]] == logits.argmax(axis=1)[:budget].tolist()
    assert [node[1] for node in tree] == list(range(-1, len(tree) - 1))


def test_probabilities_are_of_the_whole_vocabulary_not_of_the_candidates(build):
    logits = np.random.default_rng(3).normal(0, 1, (3, 1000)).astype(np.float32)
    tree = build(logits, 5, k=2)
    for token, _parent, depth, given_parent, _prob in tree[1:]:
        assert given_parent == pytest.approx(log_softmax(logits)[depth - 1, token], abs=1e-5)


@pytest.mark.parametrize("hole", [-math.inf, math.nan])
def test_tokens_outside_a_reduced_vocabulary_and_broken_logits_are_no_candidates(build, hole):
    logits = np.full((2, 50), hole, dtype=np.float32)
    logits[:, [3, 30, 49]] = [[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]
    tree = build(logits, 40)
    assert {node[0] for node in tree[1:]} == {3, 30, 49}
    assert sum(node[4] for node in tree[1:] if node[2] == 1) == pytest.approx(1.0)
    assert build(np.full((2, 50), hole, dtype=np.float32), 4) == [[7, -1, 0, 0, 1]]
