"""Lists of drafters: one tree of all proposals, and the text of plain decoding."""

import itertools
import random

import numpy as np
import pytest
from drafter_models import write_drafter
from same_text import assert_same_text

from llama_dflash import DFlashDraft

PROMPT = list(b"the digits: 0123")


@pytest.fixture(scope="module")
def drafters(pair, tmp_path_factory):
    """Of random weights, and the pair's own, which knows the text."""
    folder = tmp_path_factory.mktemp("several")
    others = [write_drafter(folder / f"{i}.gguf", pair.target, std=0.3, seed=i, layers=(1, 2)) for i in range(2)]
    return [DFlashDraft(other, budget=12) for other in others] + [pair.drafter]


def text_of(llm, n, **settings):
    return list(itertools.islice(llm.generate(PROMPT, temp=0.0, **settings), n))


@pytest.mark.parametrize("budget", [1, 12, 40, "auto"])
@pytest.mark.parametrize("mode", ["tree", "chain"])
def test_the_text_is_plain_decodings(kept, pair, plain, drafters, budget, mode):
    llm = kept(pair, tuple(DFlashDraft(getattr(d, "path", d), budget=budget, mode=mode) for d in drafters))
    assert_same_text(plain, PROMPT, text_of(plain, 80), text_of(llm, 80))


def test_the_best_drafters_tokens_are_in_the_tree(kept, pair, drafters):
    """Once it was learned whose tokens are accepted, the list accepts about what its best member does, in any order."""
    alone = kept(pair, pair.draft(budget=12))
    text_of(alone, 200)
    for order in itertools.permutations(drafters):
        llm = kept(pair, tuple(order))
        text_of(llm, 400)
        text_of(llm, 200)
        assert llm.speculative_stats.acceptance_length > 0.9 * alone.speculative_stats.acceptance_length


def test_a_token_of_two_drafters_is_one_node(kept, pair):
    llm = kept(pair, (pair.draft(budget=30), pair.draft(context=64)))
    for _ in text_of(llm, 40):
        tree = llm.last_tree
        if tree is not None:
            nodes = list(zip(tree.parents, tree.tokens))
            assert len(set(nodes)) == len(nodes)
            assert all(parent < i for i, parent in enumerate(tree.parents))
    assert llm.speculative_stats.nodes > 0


def test_a_saved_state_has_what_each_drafter_remembers(kept, pair, plain, drafters):
    llm = kept(pair, tuple(drafters))
    llm.eval(PROMPT)
    expected = llm._memory.engine.logprobs(48, len(PROMPT), 5, llm._n_vocab)
    state = llm.save_state()
    llm.reset()
    llm.eval(list(b"something else altogether"))
    llm.load_state(state)
    assert np.array_equal(llm._memory.engine.logprobs(48, len(PROMPT), 5, llm._n_vocab), expected)
    assert_same_text(plain, PROMPT, text_of(plain, 40), text_of(llm, 40))


def test_settings_that_differ_are_refused(load, pair):
    with pytest.raises(ValueError, match="the drafters of the list have budget 5 and 7, expected one for all"):
        load(pair, [pair.draft(budget=5), pair.draft(budget=7)])


def test_one_drafters_setting_is_for_all(kept, pair):
    llm = kept(pair, (pair.draft(), pair.draft(budget=3)))
    text_of(llm, 30)
    assert len(llm.last_tree.tokens) <= 4 and llm.speculative_stats.nodes == 3 * llm.speculative_stats.rounds


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_called_between_two_tokens(kept, pair, plain, drafters, seed):
    rng = random.Random(seed)
    expected = text_of(plain, 60)
    llm = kept(pair, tuple(drafters))
    text, state = [], None
    for token in itertools.islice(llm.generate(PROMPT, temp=0.0), 60):
        text.append(token)
        call = rng.randrange(6)
        if call == 0:
            state = llm.save_state()
        elif call == 1 and state is not None:
            llm.save_state()
        elif call == 2:
            llm.ctx
    assert_same_text(plain, PROMPT, expected, text)


def test_what_is_done_is_explained(kept, pair):
    llm = kept(pair, pair.draft())
    text_of(llm, 100)
    said = llm.speculative_stats.explain()
    assert said.startswith("A token alone takes ") and said.count(". ") <= 2 and "ms" in said
    assert "Every round verifies 5 draft nodes" in kept(pair, pair.draft(budget=5)).speculative_stats.explain()


def test_what_was_learned_goes_on_elsewhere(kept, load, pair, plain, tmp_path):
    llm = kept(pair, pair.draft())
    text_of(llm, 200)
    llm.save_tuned(tmp_path / "tuned")
    learned = (tmp_path / "tuned").read_text()
    again = load(pair, pair.draft(tuned=tmp_path / "tuned"))
    assert again._memory.engine.learned().splitlines()[1].split()[:2] == learned.splitlines()[1].split()[:2] == ["drafter", "dflash"]
    assert again._memory.engine.explain().startswith("A token alone takes ")  # no plain rounds to learn it
    assert_same_text(plain, PROMPT, text_of(plain, 60), text_of(again, 60))


@pytest.mark.parametrize(
    ("text", "found"),
    [("hello", "it begins with \"hello\""), ("llama-dflash-learned 1\ndrafter ngram 3", "damaged, or of other drafters"),
     ("llama-dflash-learned 1\n", "it is of 0 drafters"), (None, "can't be read")],
)
def test_a_file_of_something_else_is_refused(load, pair, tmp_path, text, found):
    if text is not None:
        (tmp_path / "tuned").write_text(text)
    with pytest.raises(ValueError, match=found):
        load(pair, pair.draft(tuned=tmp_path / "tuned"))


def test_a_drafter_that_does_not_pay_rests_whatever_costs_nothing(kept, random_pair):
    """Random text: nothing is ever accepted, and the n-gram drafter finds nothing. The model is left alone after some trials."""
    llm = kept(random_pair, (random_pair.draft(), "ngram"))
    text_of(llm, 300)
    stats = llm.speculative_stats
    assert stats.rounds > 250 and stats.seconds["draft"] < 0.5 * stats.seconds["verify"]
    assert "drafting is off for" in stats.explain() or "No drafter has had anything" in stats.explain()
