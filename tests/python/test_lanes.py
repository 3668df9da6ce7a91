"""Several conversations in one engine: each one's text is that of plain decoding, whatever the others do."""

import itertools
import random

import numpy as np
import pytest
from same_text import assert_same_text

import llama_cpp
from llama_dflash import NGramDraft
from llama_dflash._engine import Engine
from llama_dflash._lanes import Lanes


@pytest.fixture
def lanes():
    made = []

    def make(*args, **kwargs):
        made.append(Lanes(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.close()


def prompts_of(n, seed=0):
    rng = random.Random(seed)
    return {lane: list(b"the digits: ") + [48 + rng.randrange(10) for _ in range(rng.randrange(1, 20))] for lane in range(n)}


def expected(plain, prompt, n):
    plain.reset()
    return list(itertools.islice(plain.generate(prompt, temp=0.0), n))


def drafts_of(pair, kind, **settings):
    kinds = {"dflash": [pair.draft(**settings)], "ngram": [NGramDraft(**settings)]}
    return kinds.get(kind) or [pair.draft(**settings), NGramDraft(**settings)]


@pytest.mark.parametrize("unified", [True, False], ids=["unified", "streams"])
@pytest.mark.parametrize("kind", ["dflash", "ngram", "both"])
@pytest.mark.parametrize("settings", [dict(budget=7), dict(budget=5, mode="chain"), dict(budget="auto")], ids=str)
def test_each_lanes_text_is_plain_decodings(lanes, kept, pair, kind, settings, unified):
    plain = kept(pair, logits_all=True)
    some = lanes(pair.target, drafts_of(pair, kind, **settings), 4, unified=unified)
    prompts = prompts_of(4)
    some.begin(prompts)
    while min(len(text) for text in some.texts.values()) < 40:
        some.round(list(prompts))
    for lane, prompt in prompts.items():
        assert_same_text(plain, prompt, expected(plain, prompt, 40), some.texts[lane][:40])


@pytest.mark.parametrize("unified", [True, False], ids=["unified", "streams"])
def test_hybrid_lanes(lanes, kept, any_pair, unified):
    plain = kept(any_pair, logits_all=True)
    some = lanes(any_pair.target, [any_pair.draft(budget=6), NGramDraft()], 3, unified=unified)
    prompts = prompts_of(3, seed=2)
    some.begin(prompts)
    while min(len(text) for text in some.texts.values()) < 25:
        some.round(list(prompts))
    for lane, prompt in prompts.items():
        assert_same_text(plain, prompt, expected(plain, prompt, 25), some.texts[lane][:25])


@pytest.mark.parametrize("seed", range(6))
def test_lanes_come_and_go_and_walk_in_any_order(lanes, kept, pair, any_pair, seed):
    """Rounds of some of the lanes, walks that are settled early, lanes that end and begin anew, prompts in between."""
    rng = random.Random(seed)
    used = pair if seed % 2 else any_pair
    plain = kept(used, logits_all=True)
    some = lanes(used.target, [used.draft(budget=rng.choice([3, 8, "auto"])), NGramDraft()], 4, unified=bool(seed % 3))
    prompts, fresh = {}, iter(range(100))
    for _ in range(30):
        free = [lane for lane in range(4) if lane not in prompts]
        if free and (not prompts or rng.random() < 0.3):
            new = {lane: prompts_of(1, seed=next(fresh) + 10 * seed)[0] for lane in rng.sample(free, rng.randint(1, len(free)))}
            some.begin(new)
            prompts.update(new)
        some_of_them = rng.sample(sorted(prompts), rng.randint(1, len(prompts)))
        some.round(some_of_them, choose=rng.choice, stop_after={lane: rng.randint(1, 3) for lane in some_of_them if rng.random() < 0.3})
        for lane in list(prompts):
            if len(some.texts[lane]) > 40 or rng.random() < 0.05:
                prompt = prompts.pop(lane)
                assert some.n_past(lane) == len(prompt) + len(some.texts[lane]) - 1
                text = some.end(lane)
                assert_same_text(plain, prompt, expected(plain, prompt, len(text)), text)


def test_one_forward_verifies_all_lanes(lanes, pair):
    """The budget is one for all: lanes share it by how probable their nodes are."""
    some = lanes(pair.target, [pair.draft(budget=6)], 3)
    some.begin(prompts_of(3))
    for _ in range(8):
        trees = some.round([0, 1, 2])
        assert sum(len(tree.tokens) - 1 for tree in trees) == 18
    stats = [some.engine.stats(lane=lane) for lane in range(3)]
    assert all(s.rounds == 8 for s in stats) and sum(s.nodes for s in stats) == 8 * 18


def test_lanes_that_are_none_are_refused(lanes, pair):
    some = lanes(pair.target, [pair.draft(budget=6)], 2)
    some.begin(prompts_of(2))
    with pytest.raises(RuntimeError, match="there is no lane 2, only 0 to 1"):
        some.engine.start_all([(2, 48, 0, 10)])
    with pytest.raises(RuntimeError, match="lane 1 is named twice in one round"):
        some.engine.start_all([(1, 48, 12, 10), (1, 48, 12, 10)])
    with pytest.raises(ValueError, match="n_lanes is 3, expected 1 to the target's n_seq_max = 2"):
        Engine(some.ctx, [pair.draft()], n_gpu_layers=0, n_lanes=3)


def test_drafts_of_several_lanes_are_those_of_each_alone(lanes, pair):
    """One forward of the drafter for all lanes: its log-probabilities are those that it has for the lane alone."""
    prompts = prompts_of(3, seed=5)
    together = lanes(pair.target, [pair.draft(budget=6)], 3)
    together.begin(prompts)
    n_vocab = llama_cpp.llama_vocab_n_tokens(together.vocab)
    for lane, prompt in prompts.items():
        alone = lanes(pair.target, [pair.draft(budget=6)], 1)
        alone.begin({0: prompt})
        ours = together.engine.logprobs(48, len(prompt), 5, n_vocab, lane=lane)
        assert np.abs(ours - alone.engine.logprobs(48, len(prompt), 5, n_vocab)).max() < 1e-2
