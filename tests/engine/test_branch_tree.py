"""The choice of nodes where a token's probability depends on the one before, against a brute-force search, through a
program built around native/engine/tree/branch-tree.cpp."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# reads: n_positions n_vocab budget chain, then for every position the log-probabilities after each token; writes the tree
# as JSON and, as its last item, how many parents were asked for at each depth
PROGRAM = r"""
#include "tree/branch-tree.h"
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>

static double number() {
    char word[64];
    return scanf("%63s", word) == 1 ? strtod(word, nullptr) : 0.0;
}

struct table : branch_scores {
    int n_vocab;
    std::vector<float> logprobs; // [n_positions][n_vocab][n_vocab]
    std::vector<int>   asked;

    std::vector<position_candidates> children(int32_t depth, const std::vector<branch_parent> & parents, int32_t k) override {
        std::vector<position_candidates> res;
        asked.push_back((int) parents.size());
        for (const branch_parent & parent : parents) {
            const float * row = &logprobs[((size_t) (depth - 1)*n_vocab + parent.token)*n_vocab];
            std::vector<llama_token> order(n_vocab);
            std::iota(order.begin(), order.end(), 0);
            std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return row[a] > row[b]; });
            res.emplace_back();
            for (int i = 0; i < std::min(k, n_vocab) && std::isfinite(row[order[i]]); ++i) {
                res.back().tokens.push_back(order[i]);
                res.back().logprobs.push_back(row[order[i]]);
            }
        }
        return res;
    }
};

int main() {
    int n, budget, chain;
    table scores;
    while (scanf("%d %d %d %d", &n, &scores.n_vocab, &budget, &chain) == 4) {
        scores.asked.clear();
        scores.logprobs.resize((size_t) n*scores.n_vocab*scores.n_vocab);
        for (float & x : scores.logprobs) { x = (float) number(); }
        const draft_tree tree = build_tree(0, scores, n, budget, chain);
        printf("[");
        for (int i = 0; i < tree.n_nodes(); ++i) {
            printf("[%d,%d,%d,%.9g,%.17g],", tree.tokens[i], tree.parents[i], tree.depth[i], tree.logprob[i], tree.prob[i]);
        }
        printf("[");
        for (size_t i = 0; i < scores.asked.size(); ++i) { printf("%s%d", i ? "," : "", scores.asked[i]); }
        printf("]]\n");
        fflush(stdout);
    }
}
"""


@pytest.fixture(scope="module")
def build(compile_program):
    process = compile_program(PROGRAM, "tree/branch-tree.cpp", "tree/beam.cpp", "tree/draft-tree.cpp")

    def run(logprobs: np.ndarray, budget: int, chain: bool = False) -> tuple[list, list]:
        """logprobs: [n_positions, parent, token]"""
        n, n_vocab, _ = logprobs.shape
        numbers = " ".join(repr(float(x)) for x in logprobs.ravel())
        process.stdin.write(f"{n} {n_vocab} {budget} {int(chain)} {numbers}\n")
        process.stdin.flush()
        *nodes, asked = json.loads(process.stdout.readline())
        return nodes, asked

    return run


def random_table(n, n_vocab, seed, spread=2.0):
    x = np.random.default_rng(seed).normal(0, spread, (n, n_vocab, n_vocab))
    return (x - np.log(np.exp(x).sum(axis=2, keepdims=True))).astype(np.float32)


def score(logprobs, path):
    return sum(float(logprobs[i, parent, token]) for i, (parent, token) in enumerate(zip((0, *path), path)))


SHAPES = st.tuples(st.integers(1, 5), st.integers(2, 5), st.integers(1, 40), st.integers(0, 10**6), st.sampled_from([0.3, 2, 8]))


@settings(max_examples=200, deadline=None)
@given(shape=SHAPES)
def test_the_nodes_are_the_most_probable_branches_of_all(build, shape):
    n, n_vocab, budget, seed, spread = shape
    logprobs = random_table(n, n_vocab, seed, spread)
    tree, _ = build(logprobs, budget)
    paths = (path for depth in range(1, n + 1) for path in itertools.product(range(n_vocab), repeat=depth))
    every = sorted((score(logprobs, path) for path in paths), reverse=True)
    chosen = [math.log(node[4]) for node in tree[1:]]
    assert len(chosen) == min(budget, len(every))
    np.testing.assert_allclose(chosen, every[: len(chosen)], atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(shape=SHAPES)
def test_a_node_has_the_probability_after_its_own_parent(build, shape):
    n, n_vocab, budget, seed, spread = shape
    logprobs = random_table(n, n_vocab, seed, spread)
    tree, _ = build(logprobs, budget)
    assert tree[0] == [0, -1, 0, 0, 1]
    assert len({(parent, token) for token, parent, *_ in tree}) == len(tree)
    for i, (token, parent, depth, given_parent, prob) in enumerate(tree[1:], 1):
        assert 0 <= parent < i and depth == tree[parent][2] + 1 <= n
        assert given_parent == logprobs[depth - 1, tree[parent][0], token]
        assert prob == pytest.approx(tree[parent][4] * math.exp(given_parent), rel=1e-5)
        assert prob <= tree[i - 1][4] * (1 + 1e-9)


@settings(max_examples=50, deadline=None)
@given(shape=SHAPES)
def test_a_chain_follows_the_best_token_after_the_best_token(build, shape):
    n, n_vocab, budget, seed, spread = shape
    logprobs = random_table(n, n_vocab, seed, spread)
    tree, asked = build(logprobs, budget, chain=True)
    expected = [0]
    for position in logprobs[:budget]:
        expected.append(int(position[expected[-1]].argmax()))
    assert [node[0] for node in tree] == expected and [node[1] for node in tree] == list(range(-1, len(expected) - 1))
    assert set(asked) == {1}


@settings(max_examples=100, deadline=None)
@given(shape=SHAPES)
def test_a_depth_is_asked_for_once_and_for_its_likely_nodes_alone(build, shape):
    n, n_vocab, budget, seed, spread = shape
    tree, asked = build(random_table(n, n_vocab, seed, spread), budget)
    assert asked[0] == 1 and len(asked) <= n and max(asked) <= budget
    assert len(asked) >= max(node[2] for node in tree)


def test_a_certain_branch_is_not_left_for_its_equals(build):
    """Probability 1 all the way: parents and children are equally probable, and parents come first."""
    logprobs = np.full((6, 3, 3), -math.inf, dtype=np.float32)
    for i in range(6):
        logprobs[i, :, (i + 1) % 3] = 0.0
    tree, _ = build(logprobs, 4)
    assert [node[:2] for node in tree] == [[0, -1], [1, 0], [2, 1], [0, 2], [1, 3]]


def test_no_candidates_and_no_budget(build):
    assert build(np.full((3, 4, 4), -math.inf, dtype=np.float32), 5) == ([[0, -1, 0, 0, 1]], [1])
    assert build(random_table(3, 4, 0), 0) == ([[0, -1, 0, 0, 1]], [])
