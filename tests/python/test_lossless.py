"""Speculation changes nothing in a text but the time it takes."""

import itertools

import numpy as np
import pytest
from same_text import TOLERANCE, assert_same_text, logits_after

PROMPT = list(b"the digits: 0123")
BUDGETS = [1, 2, 3, 5, 8, 13, 16, 22, 32, "auto"]


def greedy(llm, prompt, n, **settings):
    return list(itertools.islice(llm.generate(prompt, temp=0.0, **settings), n))


@pytest.mark.parametrize("mode", ["tree", "chain"])
@pytest.mark.parametrize("budget", BUDGETS)
def test_greedy_text_is_plain_decodings(kept, pair, budget, mode):
    plain = kept(pair, logits_all=True)
    llm = kept(pair, pair.draft(budget=budget, mode=mode))
    a, b = greedy(plain, PROMPT, 100), greedy(llm, PROMPT, 100)
    assert_same_text(plain, PROMPT, a, b)
    stats = llm.speculative_stats
    assert stats.tokens >= 99 and stats.acceptance_length == stats.tokens / stats.rounds
    if mode == "tree" and budget != "auto" and budget >= 8:
        assert stats.acceptance_length > 1.5, "the drafter guesses, or this test shows nothing"


@pytest.mark.parametrize("flash_attn", [True, False])
@pytest.mark.parametrize("budget", [4, 12, 32, "auto"])
def test_greedy_text_is_plain_decodings_on_every_architecture(kept, any_pair, budget, flash_attn):
    plain = kept(any_pair, logits_all=True, flash_attn=flash_attn)
    llm = kept(any_pair, any_pair.draft(budget=budget), flash_attn=flash_attn)
    a, b = greedy(plain, PROMPT, 80), greedy(llm, PROMPT, 80)
    assert_same_text(plain, PROMPT, a, b)
    assert budget == "auto" or llm.speculative_stats.accepted > 0


@pytest.mark.parametrize("budget", [6, 20, "auto"])
def test_a_useless_drafter_changes_no_text(kept, random_pair, budget):
    plain = kept(random_pair, logits_all=True)
    llm = kept(random_pair, random_pair.draft(budget=budget))
    a, b = greedy(plain, PROMPT, 60), greedy(llm, PROMPT, 60)
    assert_same_text(plain, PROMPT, a, b)


@pytest.mark.parametrize("flash_attn", [True, False])
def test_logits_of_accepted_tokens_are_plain_decodings(kept, any_pair, flash_attn):
    plain = kept(any_pair, logits_all=True, flash_attn=flash_attn)
    llm = kept(any_pair, any_pair.draft(budget=20), flash_attn=flash_attn)
    seen = []

    def look(input_ids, logits):
        seen.append((input_ids.tolist(), logits.copy()))
        return False

    greedy(llm, PROMPT, 40, stopping_criteria=look)
    worst = max(np.abs(logits - logits_after(plain, prefix)).max() for prefix, logits in seen[:40:3])
    assert worst < TOLERANCE / 2


def test_a_tree_accepts_at_least_as_much_as_a_chain(kept, pair):
    for budget in (16, 22, 32):
        lengths = {}
        for mode in ("tree", "chain"):
            llm = kept(pair, pair.draft(budget=budget, mode=mode))
            rounds = tokens = 0
            for start in range(8):
                greedy(llm, PROMPT + [48 + start], 40)
                rounds += llm.speculative_stats.rounds
                tokens += llm.speculative_stats.tokens
            lengths[mode] = tokens / rounds
        assert lengths["tree"] >= lengths["chain"]


def chi_square(a, b):
    """Statistic and degrees of freedom for two samples of counts being of one distribution."""
    both = {k: a.get(k, 0) + b.get(k, 0) for k in {*a, *b}}
    rare = {k for k, n in both.items() if n < 10}
    cells = [({k}) for k in both if k not in rare] + ([rare] if rare else [])
    n_a, n_b = sum(a.values()), sum(b.values())
    statistic = 0.0
    for cell in cells:
        x, y = (sum(counts.get(k, 0) for k in cell) for counts in (a, b))
        for seen, n in ((x, n_a), (y, n_b)):
            expected = (x + y) * n / (n_a + n_b)
            statistic += (seen - expected) ** 2 / expected
    return statistic, len(cells) - 1


@pytest.mark.parametrize(
    "settings",
    [
        dict(temp=1.0, top_k=0, top_p=1.0, min_p=0.0),
        dict(temp=0.8, top_k=4, top_p=0.9, min_p=0.05, repeat_penalty=1.1),
        dict(temp=1.0, mirostat_mode=2, mirostat_tau=3.0),
    ],
    ids=["temperature", "usual", "mirostat"],
)
def test_sampled_texts_have_the_targets_distribution(kept, pair, settings):
    """The first three tokens of many samples with and without the drafter: a chi-square test on their joint counts.

    Different seeds on both sides, so that the samples are independent. The limit is 5 standard deviations.
    """
    counts = []
    for first_seed, llm in ((0, kept(pair)), (100_000, kept(pair, pair.draft(budget=12)))):
        seen = {}
        for seed in range(first_seed, first_seed + 1200):
            llm.set_seed(seed)
            text = tuple(itertools.islice(llm.generate(PROMPT, **settings), 3))
            seen[text] = seen.get(text, 0) + 1
        counts.append(seen)
    assert llm.speculative_stats.nodes > 0
    statistic, freedom = chi_square(*counts)
    assert freedom > 5
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5
