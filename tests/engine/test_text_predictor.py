"""The trees that are grown from a text's own repetitions, through a program built around native/engine/ngram/."""

from __future__ import annotations

import json
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

PROGRAM = r"""
#include "ngram/text-predictor.h"
#include <cstdio>
#include <iostream>
#include <memory>
#include <sstream>

int main() {
    suffix_index corpus(text_predictor::max_context, false);
    std::unique_ptr<text_predictor> text;
    std::string line, word;
    while (std::getline(std::cin, line)) {
        std::istringstream in(line);
        in >> word;
        int n, t, depth, chain;
        double least;
        if (word == "new") {
            corpus = suffix_index(text_predictor::max_context, false);
            text   = std::make_unique<text_predictor>(text_predictor::texts{ &corpus });
        } else if (word == "corpus") {
            corpus.begin_text();
            while (in >> t) { corpus.append(t); }
            text->others_changed();
        } else if (word == "prompt" || word == "answer") {
            while (in >> t) { text->append(t, word == "answer"); }
        } else if (word == "truncate") {
            in >> n;
            text->truncate(n);
        } else if (word == "grow") {
            in >> n >> depth >> least >> chain;
            printf("[");
            const char * comma = "";
            for (const predicted_node & node : text->grow(n, depth, least, chain)) {
                printf("%s[%d,%d,%.9g]", comma, node.token, node.parent, node.prob);
                comma = ",";
            }
            printf("]\n");
            fflush(stdout);
        }
    }
}
"""


@pytest.fixture(scope="module")
def text(compile_program):
    process = compile_program(PROGRAM, *(f"ngram/{name}.cpp" for name in ("text-predictor", "suffix-index", "match-trust")))

    def say(*words):
        process.stdin.write(" ".join(map(str, words)) + "\n")
        process.stdin.flush()

    def grow(nodes=20, depth=20, least=0.0, chain=False):
        say("grow", nodes, depth, least, int(chain))
        return json.loads(process.stdout.readline())

    say.grow = grow
    return say


def paths(tree: list) -> list[list]:
    """Of every node its path from the root, as nodes."""
    res = []
    for node in tree:
        res.append([*(res[node[1]] if node[1] >= 0 else []), node])
    return res


def tokens(n_kinds: int, most: int = 60) -> st.SearchStrategy:
    return st.lists(st.integers(0, n_kinds - 1), max_size=most)


TEXTS = st.integers(1, 5).flatmap(lambda kinds: st.tuples(tokens(kinds), tokens(kinds), tokens(kinds)))


@settings(max_examples=300, deadline=None)
@given(texts=TEXTS, n=st.integers(0, 40), depth=st.integers(1, 12), least=st.sampled_from([0, 0.02, 0.3]), chain=st.booleans())
def test_a_tree_has_its_parents_first_and_no_more_probability_than_there_is(text, texts, n, depth, least, chain):
    corpus, prompt, answer = texts
    text("new")
    text("corpus", *corpus)
    text("prompt", *prompt)
    text("answer", *answer)
    tree = text.grow(n, depth, least, chain)
    assert len(tree) <= n and all(parent < i for i, (_, parent, _) in enumerate(tree))
    assert len({(parent, token) for token, parent, _ in tree}) == len(tree)
    for parent in range(-1, len(tree)):
        children = [prob for _, p, prob in tree if p == parent]
        assert all(0 < prob <= 1 for prob in children) and sum(children) <= 1 + 1e-6
        assert not chain or len(children) <= 1
    odds = [prod(node[2] for node in path) for path in paths(tree)]
    assert all(a >= b * (1 - 1e-6) and b >= least * (1 - 1e-6) for a, b in zip(odds, odds[1:]))
    assert all(len(path) <= depth for path in paths(tree))
    known = {*corpus, *prompt, *answer}
    assert all(token in known for token, _, _ in tree)


@settings(max_examples=200, deadline=None)
@given(texts=TEXTS)
def test_a_text_that_was_cut_back_is_drafted_for_as_if_it_had_never_been_longer(text, texts):
    corpus, prompt, more = texts
    trees = []
    for appended in ([*prompt, *more], prompt):
        text("new")
        text("corpus", *corpus)
        text("prompt", *appended)
        text("truncate", max(0, len(prompt) - 1))  # where to copy from is found anew
        trees.append(text.grow())
    assert trees[0] == trees[1]


def test_a_repeated_passage_is_drafted_to_its_end(text):
    passage = list(range(100, 130))
    text("new")
    text("prompt", *passage, 1, 2, 3)
    text("answer", *passage[:6])
    tree = text.grow()
    assert [token for token, _, _ in tree] == passage[6:26]
    assert [parent for _, parent, _ in tree] == list(range(-1, 19))


def test_what_followed_more_often_is_more_probable(text):
    text("new")
    text("prompt", 7, 1, 91, 7, 1, 92, 7, 1, 93, 7, 2, 94, 7)
    tree = text.grow(depth=1)
    assert [token for token, _, _ in tree][:2] == [1, 2] and tree[0][2] == pytest.approx(3 * tree[1][2])


def test_after_a_replaced_token_the_copy_goes_on(text):
    """No two tokens after the edit are together anywhere, so that only the place in the copied text can say what comes."""
    passage = list(range(100, 140))
    text("new")
    text("prompt", *passage)
    text("answer", *passage[:8], 55)
    assert [token for token, _, _ in text.grow(nodes=6, chain=True)] == passage[9:15]


def test_after_tokens_that_were_left_out_the_copy_goes_on(text):
    passage = list(range(100, 140))
    text("new")
    text("prompt", *passage, *[110, 60] * 3)  # so that 110 alone is followed by 60, mostly
    text("answer", *passage[:8], 110)
    assert 111 in {token for token, parent, _ in text.grow(depth=1)}


def test_what_only_the_corpus_knows_is_drafted(text):
    text("new")
    text("corpus", 1, 2, 3, 4, 5, 6, 7)
    text("corpus", 3, 4, 50)
    text("prompt", 90, 2, 3, 4)
    assert [token for token, _, _ in text.grow(nodes=3, chain=True)] == [5, 6, 7]


def test_a_text_that_never_does_what_it_did_is_soon_not_drafted_for(text):
    """Pairs come again, each time followed by something new: what they promise falls."""
    text("new")
    promised = []
    for i in range(40):
        text("answer", 1, 2)
        promised.append(sum(prob for _, parent, prob in text.grow(least=0) if parent == -1))
        text("answer", 1000 + i)
    assert promised[1] > 0.3 and promised[-1] < 0.1
