"""The suffix index against a search through the text itself, through a program built around native/engine/ngram/."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# One command a line. "look T..." answers what is known about the longest end of T... that occurs.
PROGRAM = r"""
#include "ngram/suffix-index.h"
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <sstream>

static void describe(const suffix_index & index, suffix_index::context c) {
    printf("[%d", c.length);
    if (c.length > 0) {
        const auto shorter = index.shorter(c);
        printf(",%d,%d,%d,[", index.count(c), index.first_end(c), shorter.length);
        const char * comma = "";
        index.each_next(c, [&](int token, int count) { printf("%s[%d,%d]", comma, token, count); comma = ","; return true; });
        printf("]");
    }
    printf("]\n");
}

int main() {
    std::unique_ptr<suffix_index> index;
    std::string line, word;
    while (std::getline(std::cin, line)) {
        std::istringstream in(line);
        in >> word;
        int n, t;
        if (word == "new") {
            in >> n >> t;
            index = std::make_unique<suffix_index>(n, t);
        } else if (word == "append") {
            while (in >> t) { index->append(t); }
        } else if (word == "begin") {
            index->begin_text();
        } else if (word == "truncate") {
            in >> n;
            index->truncate(n);
        } else if (word == "end") {
            describe(*index, index->repeated_end());
        } else if (word == "look") {
            suffix_index::context c;
            while (in >> t) { c = index->advance(c, t); }
            describe(*index, c);
        } else if (word == "late") { // the context was found before the last n tokens came: "late n T..."
            std::vector<int> last, found;
            in >> n;
            while (in >> t) { found.push_back(t); }
            const size_t size = index->size();
            for (size_t i = size - n; i < size; ++i) { last.push_back(index->token(i)); }
            index->truncate(size - n);
            suffix_index::context c;
            for (size_t i = 0; i + 1 < found.size(); ++i) { c = index->advance(c, found[i]); }
            for (const int token : last) { index->append(token); }
            printf("%d ", c.length);
            describe(*index, index->advance(c, found.back()));
        } else if (word == "bytes") {
            printf("%zu\n", index->bytes());
        }
        fflush(stdout);
    }
}
"""


class Reference:
    """The same answers by looking everywhere. texts: those of the index, the last one still growing."""

    def __init__(self, max_context: int) -> None:
        self.max_context = max_context
        self.texts = [[]]

    def ends(self, context: list) -> list:
        """Where `context` ends, in tokens over all texts."""
        found, before = [], 0
        for text in self.texts:
            n = len(context)
            found += [before + i + n for i in range(len(text) - n + 1) if text[i : i + n] == context]
            before += len(text)
        return found

    def longest(self, tokens: list, least_occurrences: int) -> list:
        """The longest end of tokens that occurs so often."""
        for n in range(min(self.max_context, len(tokens)), 0, -1):
            if len(self.ends(tokens[-n:])) >= least_occurrences:
                return tokens[-n:]
        return []

    def describe(self, context: list) -> list:
        if not context:
            return [0]
        ends = self.ends(context)
        shorter = next(n for n in range(len(context) - 1, -1, -1) if n == 0 or len(self.ends(context[-n:])) > len(ends))
        following, before = {}, 0
        for text in self.texts:
            for end in ends:
                if before < end < before + len(text):  # the end of a text is followed by nothing
                    token = text[end - before]
                    following[token] = following.get(token, 0) + 1
            before += len(text)
        newest_first = [[t, n] for t, n in reversed(following.items())]
        return [len(context), len(ends), ends[0], shorter, newest_first]

    def end(self) -> list:
        return self.describe(self.longest(self.texts[-1], 2))

    def look(self, tokens: list) -> list:
        return self.describe(self.longest(tokens, 1))


@pytest.fixture(scope="module")
def index(compile_program):
    process = compile_program(PROGRAM, "ngram/suffix-index.cpp")

    def say(*words):
        process.stdin.write(" ".join(map(str, words)) + "\n")
        process.stdin.flush()

    def ask(*words):
        say(*words)
        return process.stdout.readline()

    say.ask = ask
    return say


def tokens(n_kinds: int, most: int) -> st.SearchStrategy:
    return st.lists(st.integers(0, n_kinds - 1), max_size=most)


@st.composite
def edits(draw):
    """Tokens to append and lengths to cut back to."""
    n_kinds = draw(st.integers(1, 4))
    steps = st.one_of(tokens(n_kinds, 20), st.integers(0, 40))
    return n_kinds, draw(st.lists(steps, min_size=1, max_size=8))


@settings(max_examples=300, deadline=None)
@given(edits=edits(), max_context=st.integers(1, 12), data=st.data())
def test_after_appending_and_cutting_back_the_index_knows_its_text_and_nothing_else(index, edits, max_context, data):
    n_kinds, steps = edits
    reference = Reference(max_context)
    text = reference.texts[0]
    index("new", max_context, 1)
    for step in steps:
        if isinstance(step, int):
            index("truncate", step)
            del text[step:]
        else:
            index("append", *step)
            text += step
        assert json.loads(index.ask("end")) == reference.end()
        query = data.draw(tokens(n_kinds + 1, 15))
        assert json.loads(index.ask("look", *query)) == reference.look(query)


@settings(max_examples=200, deadline=None)
@given(
    texts=st.integers(1, 4).flatmap(lambda kinds: st.lists(tokens(kinds, 20), min_size=1, max_size=6)),
    max_context=st.integers(1, 12),
    query=tokens(5, 15),
)
def test_of_several_texts_none_goes_on_in_the_next(index, texts, max_context, query):
    reference = Reference(max_context)
    reference.texts = texts
    index("new", max_context, 0)
    for text in texts:
        index("begin")
        index("append", *text)
    assert json.loads(index.ask("look", *query)) == reference.look(query)


@settings(max_examples=200, deadline=None)
@given(text=st.integers(1, 3).flatmap(lambda kinds: tokens(kinds, 40)), max_context=st.integers(1, 12), data=st.data())
def test_a_context_that_was_found_before_the_text_grew_goes_on(index, text, max_context, data):
    """It is as long as it was: longer ones may occur by now, which only a new search finds."""
    n_late = data.draw(st.integers(0, len(text)))
    query = data.draw(tokens(3, 15).filter(bool))
    reference = Reference(max_context)
    reference.texts = [text[: len(text) - n_late]]
    found = reference.longest(query[:-1], 1)
    index("new", max_context, 1)
    index("append", *text)
    length, _, description = index.ask("late", n_late, *query).partition(" ")
    assert int(length) == len(found)
    reference.texts = [text]
    assert json.loads(description) == reference.look(found + query[-1:])


@pytest.mark.parametrize("period", [1, 7, 100_000])
def test_a_long_text_takes_the_memory_that_the_header_says(index, period):
    n = 100_000
    index("new", 32, 1)
    index("append", *((i % period) * 7919 % 50_021 for i in range(n)))
    if period < n:
        length, count, *_ = json.loads(index.ask("end"))
        assert (length, count) == (32, (n - 32) // period + 1)
    assert int(index.ask("bytes")) < 400 * n
