"""Made-up acceptance lengths, for timing with random weights."""

import itertools

import pytest
from conftest import Pair
from drafter_models import write_drafter

PROMPT = list(b"the digits: 0123")


@pytest.fixture(params=[None, "markov", "selector"])
def useless_pair(request, random_pair, tmp_path):
    """Nothing that these drafters propose would be accepted by itself (acceptance length about 1)."""
    if request.param is None:
        return random_pair
    drafter = write_drafter(tmp_path / "drafter.gguf", random_pair.target, std=0.3, seed=8, head=request.param)
    return Pair(random_pair.target, drafter)


@pytest.fixture
def llm(load, useless_pair):
    return load(useless_pair, useless_pair.draft(budget=22))


@pytest.mark.parametrize("length", [1, 2.5, 5.31])
def test_rounds_accept_what_was_asked_for(llm, length):
    llm._engine.set_synthetic_length(length)
    tokens = list(itertools.islice(llm.generate(PROMPT, temp=0.0), 300))
    stats = llm.speculative_stats
    assert len(tokens) == 300
    assert stats.acceptance_length == pytest.approx(length, rel=0.04)  # the last round was left early


def test_trees_are_as_deep_as_with_a_good_drafter(llm):
    llm._engine.set_synthetic_length(4)
    list(itertools.islice(llm.generate(PROMPT, temp=0.0), 20))
    depths = [0]
    for parent in llm.last_tree.parents[1:]:
        depths.append(depths[parent] + 1)
    assert max(depths) >= 8 and len(set(llm.last_tree.parents)) > 8


def test_a_length_below_one_is_refused(llm):
    with pytest.raises(RuntimeError, match="synthetic length is 0.5.*, expected 0 .off. or at least 1"):
        llm._engine.set_synthetic_length(0.5)


def test_zero_ends_it(llm):
    expected = list(itertools.islice(llm.generate(PROMPT, temp=0.0), 20))
    llm._engine.set_synthetic_length(4)
    made_up = list(itertools.islice(llm.generate(PROMPT, temp=0.0), 20))
    llm._engine.set_synthetic_length(0)
    assert list(itertools.islice(llm.generate(PROMPT, temp=0.0), 20)) == expected != made_up
