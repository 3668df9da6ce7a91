"""Which words of `llama-dflash serve` are ours, and what becomes of the others."""

import pytest

from llama_dflash import drafts
from llama_dflash.serve import command, options

ALL = ["--host", "127.0.0.1", "--port", "8080", "--parallel", "4", "--flash-attn", "on", "--kv-unified", "--metrics"]


def read(*words, **environment):
    return options.read(words, environment)


def test_what_is_not_ours_passes_unchanged_and_in_order():
    words = ["-mg", "0", "-m", "t.gguf", "-np", "2", "--draft-model", "a.gguf", "-n", "-1", "--alias", "--verbose-name"]
    found = read(*words)
    assert found.passed == ["-mg", "0", "-np", "2", "-n", "-1", "--alias", "--verbose-name"]
    assert (found.draft_model, found.model, found.verbose) == (["a.gguf"], "t.gguf", False)


def test_defaults_are_there_until_somebody_says_otherwise():
    assert read("-m", "t").defaults == ALL
    given = ["--port", "1", "-np", "1", "-fa", "off", "-no-kvu", "--metrics", "--host", "::"]
    assert read("-m", "t", *given).defaults == []
    assert read("-m", "t", LLAMA_ARG_HOST="0.0.0.0", LLAMA_ARG_N_PARALLEL="2").defaults == [*ALL[2:4], *ALL[6:]]
    assert read(LLAMA_ARG_MODEL="t").model == "t"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no model: name one with -m"),
        (("-m",), "-m needs a value"),
        (("-m", "t", "--draft-model"), "--draft-model needs a value"),
        (("-m", "t", "--draft-model", "a,,b"), "--draft-model is 'a,,b', expected a file, mtp, ngram"),
        (("-m", "t", "--draft-model", "a", "--budget", "0"), "--budget is '0', expected auto or a number"),
        (("-m", "t", "--draft-model", "a", "--budget=many"), "--budget is 'many'"),
        (("-m", "t", "--verbose=1"), "--verbose takes no value"),
        (("-m", "t", "--draft-model", "a", "--spec-type", "draft-dflash"), "both --draft-model and llama.cpp's --spec-type"),
        (("-m", "t", "--draft-model", "a", "-md", "b"), "both --draft-model and llama.cpp's --spec-draft-model"),
    ],
    ids=str,
)
def test_wrong_words_are_named(words, message):
    with pytest.raises(options.WrongUsage) as found:
        read(*words)
    assert message in str(found.value)


def test_drafters_become_words_of_the_server():
    files = [drafts.DFlashDraft("a.gguf"), drafts.ModelDraft("b.gguf")]
    words = [drafts.MTPDraft(), drafts.NGramDraft()]
    assert command.tree_words([], None) == []
    trees = ["--spec-type", "tree"]
    of_files = ["--spec-draft-model", "a.gguf", "--spec-draft", "b.gguf"]
    assert command.tree_words(files, "12") == [*trees, *of_files, "--spec-tree-budget", "12"]
    assert command.tree_words(words, None) == [*trees, "--spec-draft", "mtp,ngram", "--spec-tree-budget", "auto"]


def test_several_drafters_may_be_named_in_several_ways():
    assert read("-m", "t", "--draft-model", "a, ngram", "--draft-model=mtp").draft_model == ["a, ngram", "mtp"]
    assert read("-m", "t").draft_model is None
