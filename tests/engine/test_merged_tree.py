"""Several drafters' trees as one, against a plain reference, and what is learned of their probabilities; through a program
built around native/engine/tree/."""

from __future__ import annotations

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# reads "m" n_proposals, then for each n_nodes and (token parent logprob) of every node beside the root; writes the merged tree
# as JSON: [token, parent, depth, probability of the path, [[drafter, depth, rank, steps off the spine], ...]] a node.
# Or "c" n, then n times (logprob depth rank off accepted); then prints what is said of a node at depth 1, rank 0, off 0 and of
# one at depth 2, rank 0, off 1, both of probability 0.5, and of the same two after saving and loading.
PROGRAM = r"""
#include "tree/merged-tree.h"
#include <cmath>
#include <cstdio>

static void merge_some() {
    int n = 0;
    scanf("%d", &n);
    std::vector<draft_tree> trees(n);
    std::vector<proposal>   proposals;
    for (int i = 0; i < n; ++i) {
        int n_nodes = 0;
        scanf("%d", &n_nodes);
        draft_tree & tree = trees[i] = build_tree(7, {}, 0, true);
        for (int k = 1; k < n_nodes; ++k) {
            int token, parent; double logprob;
            scanf("%d %d %lf", &token, &parent, &logprob);
            tree.tokens.push_back(token);
            tree.parents.push_back(parent);
            tree.depth.push_back(tree.depth[parent] + 1);
            tree.logprob.push_back((float) logprob);
            tree.prob.push_back(tree.prob[parent]*std::exp(logprob));
        }
    }
    for (int i = 0; i < n; ++i) {
        proposals.push_back({ &trees[i], nullptr, i });
    }
    const merged_tree res = merge(7, proposals);
    printf("[");
    for (int i = 0; i < res.tree.n_nodes(); ++i) {
        printf("%s[%d,%d,%d,%.17g,[", i ? "," : "", res.tree.tokens[i], res.tree.parents[i], res.tree.depth[i], res.tree.prob[i]);
        for (size_t k = 0; k < res.offers[i].size(); ++k) {
            const node_offer & offer = res.offers[i][k];
            printf("%s[%d,%d,%d,%d]", k ? "," : "", offer.drafter, offer.place.depth, offer.place.rank, offer.place.off_spine);
        }
        printf("]]");
    }
    printf("]\n");
}

static void learn() {
    int n = 0;
    scanf("%d", &n);
    calibration odds;
    for (int i = 0; i < n; ++i) {
        double logprob; node_place place; int accepted;
        scanf("%lf %d %d %d %d", &logprob, &place.depth, &place.rank, &place.off_spine, &accepted);
        odds.record((float) logprob, place, accepted != 0);
    }
    calibration again;
    const bool loaded = again.load(odds.save()), damaged = again.load("12 nonsense");
    for (const calibration * c : { &odds, &again }) {
        printf("%.9g %.9g ", c->probability(std::log(0.5f), { 1, 0, 0 }), c->probability(std::log(0.5f), { 2, 0, 1 }));
    }
    printf("%d %d\n", loaded, damaged);
}

int main() {
    char what[8];
    while (scanf("%7s", what) == 1) {
        what[0] == 'm' ? merge_some() : learn();
        fflush(stdout);
    }
}
"""


@pytest.fixture(scope="module")
def program(compile_program):
    process = compile_program(PROGRAM, "tree/merged-tree.cpp", "tree/calibration.cpp", "tree/draft-tree.cpp")

    def run(*words) -> str:
        process.stdin.write(" ".join(map(str, words)) + "\n")
        process.stdin.flush()
        return process.stdout.readline()

    return run


@st.composite
def trees(draw):
    """One drafter's tree: (token, parent, probability given the parent) of each node beside the root, siblings of different
    tokens in descending probability, which are at most 1 together."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    nodes, room, last, used = [], {0: 1.0}, {0: 1.0}, {0: set()}
    for _ in range(draw(st.integers(0, 12))):
        parent = rng.choice(list(room))
        free = [token for token in range(6) if token not in used[parent]]
        p = min(last[parent], room[parent]) * rng.uniform(0.05, 0.95)
        if not free or p < 1e-6:
            continue
        token, node = rng.choice(free), len(nodes) + 1
        nodes.append((token, parent, p))
        room[parent] -= p
        last[parent] = p
        used[parent].add(token)
        room[node], last[node], used[node] = 1.0, 1.0, set()
    return nodes


def reference(proposals):
    """{path of tokens: probability}, {path: offers}."""
    said, offers = {}, {}
    for drafter, nodes in enumerate(proposals):
        paths, off, n_children = {0: ()}, {0: 0}, {}
        for i, (token, parent, p) in enumerate(nodes, 1):
            paths[i] = (*paths[parent], token)
            rank = n_children.get(parent, 0)
            n_children[parent] = rank + 1
            off[i] = off[parent] + (rank > 0)
            said[paths[i]] = max(said.get(paths[i], 0.0), p)
            offers.setdefault(paths[i], []).append([drafter, len(paths[i]), rank, off[i]])
    prob = {(): 1.0}
    for path in sorted(said, key=len):
        together = sum(p for other, p in said.items() if other[:-1] == path[:-1])
        prob[path] = prob[path[:-1]] * said[path] / max(1.0, together)
    return prob, offers


@settings(max_examples=300, deadline=None)
@given(st.lists(trees(), max_size=3))
def test_every_proposed_path_is_there_once_and_as_probable_as_the_surest_says(program, proposals):
    words = ["m", len(proposals)]
    for nodes in proposals:
        words += [len(nodes) + 1, *(word for token, parent, p in nodes for word in (token, parent, repr(math.log(p))))]
    merged = json.loads(program(*words))
    prob, offers = reference(proposals)
    paths = [()]
    for token, parent, depth, _, _ in merged[1:]:
        paths.append((*paths[parent], token))
        assert parent < len(paths) - 1 and depth == len(paths[-1])
    assert sorted(paths) == sorted(prob)
    for path, (_, _, _, p, said) in zip(paths, merged):
        assert p == pytest.approx(prob[path], rel=1e-5)
        assert said == offers.get(path, [])
    assert all(a[3] >= b[3] for a, b in zip(merged, merged[1:]))


def test_nothing_learned_is_no_correction(program):
    assert [float(x) for x in program("c", 0).split()][:2] == pytest.approx([0.5, 0.5])


def test_a_drafter_that_is_too_sure_off_the_spine_is_believed_less_there(program):
    """On the spine half of what it says 0.5 of comes true, off it a fifth."""
    rng, words = random.Random(1), []
    for _ in range(3000):
        off = rng.randrange(2)
        words += [math.log(0.5), 1 + off, 0, off, int(rng.random() < (0.2 if off else 0.5))]
    on, off, on_again, off_again, loaded, damaged = (float(x) for x in program("c", 3000, *words).split())
    assert on == pytest.approx(0.5, abs=0.06) and off == pytest.approx(0.2, abs=0.06)
    assert (on, off) == pytest.approx((on_again, off_again)) and loaded == 1 and damaged == 0
