"""Outputs found where the logits are computed (DFlashDraft.device_outputs) against rows of logits on the host."""

import itertools

import numpy as np
import pytest

from llama_cpp import _internals as internals

PROMPT = list(b"the digits: 0123")
SETTINGS = [dict(budget=1), dict(budget=8), dict(budget=22), dict(budget="auto"), dict(budget=12, mode="chain")]


def run(load, pair, n=60, **settings):
    """The tokens and every round's tree, at temperature 0."""
    llm = load(pair, pair.draft(**settings))
    tokens, trees = [], []
    for token in itertools.islice(llm.generate(PROMPT, temp=0.0), n):
        tokens.append(token)
        trees.append(llm.last_tree)
    return tokens, trees


def assert_same_draft(found, expected):
    """The same nodes. Features are injected in batches of another size, whose products may round in another way."""
    if found is None or expected is None:
        assert found is expected
        return
    assert (found.tokens, found.parents, found.path, found.sampled) == (expected.tokens, expected.parents, expected.path, expected.sampled)
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-3)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_tokens_and_the_same_trees(load, any_pair, settings):
    found, found_trees = run(load, any_pair, device_outputs=True, **settings)
    expected, expected_trees = run(load, any_pair, device_outputs=False, **settings)
    assert found == expected
    if settings["budget"] != "auto":  # its choices depend on the clock
        for trees in zip(found_trees, expected_trees):
            assert_same_draft(*trees)


SAMPLING = [
    dict(temp=0.8),
    dict(temp=0.7, top_k=20, top_p=0.8, repeat_penalty=1.1, presence_penalty=0.5),
    dict(temp=1.5, top_k=0, top_p=1.0),
    dict(temp=0.0, repeat_penalty=1.3),
    dict(temp=0.7, mirostat_mode=2),
]


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
def test_the_same_samples(load, pair, sampling):
    """Samplers that begin with a top-k see the best entries, others get whole rows."""
    texts = []
    for on_device in (True, False):
        llm = load(pair, pair.draft(budget=12, device_outputs=on_device))
        llm.set_seed(11)
        texts.append(list(itertools.islice(llm.generate(PROMPT, **sampling), 50)))
    assert texts[0] == texts[1]


def test_rows_of_logits_are_there_when_they_are_asked_for(load, pair):
    rows = []
    for on_device in (True, False):
        llm = load(pair, pair.draft(budget=9, device_outputs=on_device))
        llm.eval(PROMPT)
        sampler = internals.LlamaSampler()
        sampler.add_greedy()
        llm._engine.round(sampler.sampler, 48, len(PROMPT), greedy=True, n_max=100)
        rows.append([np.ctypeslib.as_array(llm._ctx.get_logits_ith(i), (llm._n_vocab,)).copy() for i in (9, 0, 4, 4)])
    assert np.array_equal(rows[0], rows[1])


def test_a_prompt_of_several_ubatches(load, pair):
    prompt = PROMPT * 11
    texts = []
    for on_device in (True, False):
        llm = load(pair, pair.draft(budget=9, device_outputs=on_device))
        texts.append(list(itertools.islice(llm.generate(prompt, temp=0.0), 30)))
    assert texts[0] == texts[1]


def test_anything_else_than_a_bool_or_none_is_refused(pair):
    with pytest.raises(ValueError, match="device_outputs is 1, expected True, False or None"):
        pair.draft(device_outputs=1)
