"""Beams in depth of several lanes, against the same search written out in Python, through a program around
native/engine/tree/beam.cpp."""

from __future__ import annotations

import json
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import pytest

# reads: n_vocab n_requests, then of each: depth width n_nodes chain spine least_mass, then [depth][n_vocab][n_vocab] log-probabilities after
# each token. Writes of every tree its nodes, and as the last item how many parents of each request were asked for at each depth
PROGRAM = r"""
#include "tree/beam.h"
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>

static double number() {
    char word[64];
    return scanf("%63s", word) == 1 ? strtod(word, nullptr) : 0.0;
}

struct tables : beam_scores {
    int n_vocab;
    std::vector<std::vector<float>> logprobs; // [requests] of [depth][n_vocab][n_vocab]
    std::vector<std::vector<int>>   asked;    // [depths][requests]
    std::vector<beam_parent>        last;

    std::vector<position_candidates> children(int32_t depth, const std::vector<beam_parent> & parents, int32_t k) override {
        std::vector<position_candidates> res;
        asked.emplace_back(logprobs.size(), 0);
        for (const beam_parent & parent : parents) {
            asked.back()[parent.request] += 1;
            if (depth > 1 && last.at(parent.before).request != parent.request) { abort(); }
            const float * row = &logprobs[parent.request][((size_t) (depth - 1)*n_vocab + parent.token)*n_vocab];
            std::vector<llama_token> order(n_vocab);
            std::iota(order.begin(), order.end(), 0);
            std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return row[a] > row[b]; });
            res.emplace_back();
            for (int i = 0; i < std::min(k, n_vocab); ++i) {
                res.back().tokens.push_back(order[i]);
                res.back().logprobs.push_back(row[order[i]]);
            }
        }
        last = parents;
        return res;
    }
};

int main() {
    int n_vocab, n_requests;
    while (scanf("%d %d", &n_vocab, &n_requests) == 2) {
        tables scores;
        scores.n_vocab = n_vocab;
        std::vector<beam_request> requests;
        for (int r = 0; r < n_requests; ++r) {
            int depth, width, n_nodes, chain, spine;
            if (scanf("%d %d %d %d %d", &depth, &width, &n_nodes, &chain, &spine) != 5) { return 1; }
            const double least_mass = number();
            requests.push_back({ 0, depth, width, n_nodes, chain != 0, least_mass, spine != 0 });
            scores.logprobs.emplace_back((size_t) depth*n_vocab*n_vocab);
            for (float & x : scores.logprobs.back()) { x = (float) number(); }
        }
        printf("[");
        for (const draft_tree & tree : grow_beams(requests, scores)) {
            printf("[");
            for (int i = 0; i < tree.n_nodes(); ++i) {
                printf("%s[%d,%d,%d,%.9g]", i ? "," : "", tree.tokens[i], tree.parents[i], tree.depth[i], tree.logprob[i]);
            }
            printf("],");
        }
        printf("[");
        for (size_t d = 0; d < scores.asked.size(); ++d) {
            printf("%s[", d ? "," : "");
            for (size_t r = 0; r < requests.size(); ++r) { printf("%s%d", r ? "," : "", scores.asked[d][r]); }
            printf("]");
        }
        printf("]]\n");
        fflush(stdout);
    }
}
"""


@pytest.fixture(scope="module")
def grow(compile_program):
    process = compile_program(PROGRAM, "tree/beam.cpp", "tree/draft-tree.cpp")

    def run(*requests, least_mass=0.0):
        """Each: (logprobs [depth, parent, token], width, n_nodes, chain, spine). Trees, and parents [depths, requests]."""
        words = [requests[0][0].shape[1], len(requests)]
        for logprobs, width, n_nodes, chain, spine in requests:
            words += [len(logprobs), width, n_nodes, int(chain), int(spine), least_mass, *(repr(float(x)) for x in logprobs.ravel())]
        process.stdin.write(" ".join(map(str, words)) + "\n")
        process.stdin.flush()
        *trees, asked = json.loads(process.stdout.readline())
        return trees, asked

    return run


def written_out(logprobs, width, n_nodes, chain, spine):
    """The paths of the best n_nodes of all that a beam of this width finds."""
    found = {(): 0.0}
    level = [()]
    kept = [()]
    if spine and n_nodes >= len(logprobs):
        for position in logprobs:
            kept.append((*kept[-1], int(position[kept[-1][-1] if kept[-1] else 0].argmax())))

    def best():
        order = sorted(found, key=lambda path: (-found[path], len(path)))
        there = [path for path in kept if path in found]
        others = [path for path in order if path not in there][: n_nodes + 1 - len(there)]
        return [path for path in order if path in there or path in others]

    for position in logprobs:
        level = sorted((path for path in best() if path in level), key=lambda path: path not in kept[1:])[:width]
        level_scores = {
            (*path, int(token)): found[path] + float(position[path[-1] if path else 0, token])
            for path in level
            for token in np.argsort(-position[path[-1] if path else 0], kind="stable")[: 1 if chain else len(position)]
        }
        found.update(level_scores)
        level = list(level_scores)
    return best()


def paths(tree):
    res = [()]
    for token, parent, *_ in tree[1:]:
        res.append((*res[parent], token))
    return res


REQUESTS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(0, 30), st.booleans(), st.booleans(), st.integers(0, 10**6)), min_size=1, max_size=4
)


def table(depth, seed, n_vocab=5):
    x = np.random.default_rng(seed).normal(0, 2, (depth, n_vocab, n_vocab))
    return (x - np.log(np.exp(x).sum(axis=2, keepdims=True))).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(requests=REQUESTS)
def test_trees_of_several_lanes_are_those_of_the_search_of_each_alone(grow, requests):
    given_ = [(table(depth, seed), *others) for depth, *others, seed in requests]
    trees, asked = grow(*given_)
    for tree, request in zip(trees, given_):
        assert set(paths(tree)) == set(written_out(*request))
    for depth in asked:
        assert all(n <= width for n, (_, width, *_) in zip(depth, given_))


def test_a_narrow_beam_expands_the_best_node_alone(grow):
    """The second-best token of depth 1 has the better child, which nobody looks at."""
    logprobs = np.full((2, 3, 3), -20.0, dtype=np.float32)
    logprobs[0, 0] = np.log([0.1, 0.5, 0.4])
    logprobs[1, 1] = np.log([0.3, 0.3, 0.4])
    logprobs[1, 2] = np.log([0.9, 0.05, 0.05])
    (narrow,), asked = grow((logprobs, 1, 4, False, False))
    assert asked == [[1], [1]] and paths(narrow) == [(), (1,), (2,), (1, 2), (1, 0)]
    (wide,), asked = grow((logprobs, 2, 4, False, False))
    assert asked == [[1], [2]] and paths(wide) == [(), (1,), (2,), (2, 0), (1, 2)]


def test_a_lane_without_room_gets_its_root(grow):
    logprobs = np.full((2, 2, 2), math.log(0.5), dtype=np.float32)
    trees, asked = grow((logprobs, 3, 0, False, False), (logprobs, 3, 2, False, False))
    assert trees[0] == [[0, -1, 0, 0]] and len(trees[1]) == 3 and asked[0] == [0, 1]


@settings(max_examples=50, deadline=None)
@given(depth=st.integers(1, 4), width=st.integers(1, 4), more=st.integers(0, 6), seed=st.integers(0, 10**6))
def test_a_tree_with_a_spine_has_the_chain_of_its_depth(grow, depth, width, more, seed):
    logprobs = table(depth, seed)
    (tree, chain), _ = grow((logprobs, width, depth + more, False, True), (logprobs, 1, depth, True, False))
    assert set(paths(chain)) <= set(paths(tree)) and len(tree) <= depth + more + 1


def test_what_is_not_worth_a_step_is_not_expanded(grow):
    logprobs = np.log(np.full((3, 2, 2), [0.8, 0.2], dtype=np.float32))
    for least_mass, n_steps in ((0.0, 3), (0.79, 2), (0.81, 1), (1.01, 0)):
        _, asked = grow((logprobs, 1, 9, False, True), least_mass=least_mass)
        assert len(asked) == n_steps
