"""Made-up acceptance lengths, for timing with random weights."""

import itertools

import pytest

PROMPT = list(b"the digits: 0123")


@pytest.mark.parametrize("length", [1, 2.5, 5.31])
def test_rounds_accept_what_was_asked_for(load, random_pair, length):
    """Nothing that this drafter proposes would be accepted by itself (acceptance length about 1)."""
    llm = load(random_pair, random_pair.draft(budget=22, synthetic_length=length))
    tokens = list(itertools.islice(llm.generate(PROMPT, temp=0.0), 300))
    stats = llm.speculative_stats
    assert len(tokens) == 300
    assert stats.acceptance_length == pytest.approx(length, rel=0.02)


def test_trees_are_as_deep_as_with_a_good_drafter(load, random_pair):
    llm = load(random_pair, random_pair.draft(budget=22, synthetic_length=4))
    list(itertools.islice(llm.generate(PROMPT, temp=0.0), 20))
    depths = [0]
    for parent in llm.last_tree.parents[1:]:
        depths.append(depths[parent] + 1)
    assert max(depths) >= 8 and len(set(llm.last_tree.parents)) > 8


def test_a_length_below_one_is_refused(random_pair):
    with pytest.raises(ValueError, match="synthetic_length is 0.5, expected a number of tokens"):
        random_pair.draft(synthetic_length=0.5)
