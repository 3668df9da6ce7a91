"""Several conversations in one engine: each one's text is that of plain decoding, whatever the others do."""

import ctypes
import itertools
import random

import numpy as np
import pytest
from same_text import assert_same_text

import llama_cpp
from llama_cpp import _internals as internals
from llama_dflash import DFlashDraft, NGramDraft
from llama_dflash._engine import DONE, Engine

N_CTX = 512  # of a lane


class Lanes:
    """Conversations in the sequences of one context, as a program that serves many would run them."""

    def __init__(self, target, drafts, n_lanes, *, unified=False, n_ubatch=128):
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(target).encode(), params)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = N_CTX * n_lanes
        params.n_batch = params.n_ubatch = n_ubatch
        params.n_seq_max = n_lanes
        params.kv_unified = unified
        params.n_threads = params.n_threads_batch = 1
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.engine = Engine(self.ctx, drafts, n_gpu_layers=0, n_lanes=n_lanes)
        self.sampler = internals.LlamaSampler()
        self.sampler.add_greedy()
        self.texts = {}
        self.roots = {}

    def close(self):
        self.engine.close()
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    def evaluate(self, prompts, n_past=0):
        """Decodes the prompts of some lanes in one batch, and samples the token after each."""
        n = sum(map(len, prompts.values()))
        batch = llama_cpp.llama_batch_init(n, 0, 1)
        batch.n_tokens, i, rows = n, 0, {}
        for lane, tokens in prompts.items():
            rows[lane] = i
            for k, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, n_past + k, 1, k == len(tokens) - 1
                batch.seq_id[i][0] = lane
                i += 1
        assert llama_cpp.llama_decode(self.ctx, batch) == 0
        llama_cpp.llama_batch_free(batch)
        self.engine.observe_batch([(lane, n_past, tokens, rows[lane]) for lane, tokens in prompts.items()])
        for lane, tokens in prompts.items():
            self.roots[lane] = self.sampler.sample_ctx(self.ctx, rows[lane] + len(tokens) - 1)
            self.texts[lane] = [self.roots[lane]]

    def n_past(self, lane):
        return llama_cpp.llama_memory_seq_pos_max(self.memory, lane) + 1

    def remove(self, lane):
        assert llama_cpp.llama_memory_seq_rm(self.memory, lane, -1, -1)
        self.engine.truncate(0, lane=lane)
        del self.texts[lane], self.roots[lane]

    def round(self, lanes, order=None, stop_after=None):
        """stop_after: of a lane, how many tokens are taken before its walk is settled."""
        status, trees = self.engine.start_all([(lane, self.roots[lane], self.n_past(lane), 64) for lane in lanes])
        assert status == DONE
        walking = dict(zip(lanes, trees))
        taken = dict.fromkeys(lanes, 0)
        while walking:
            lane = (order or next)(iter(walking)) if order is None else order(list(walking))
            token, goes_on = self.engine.next(self.sampler.sampler, True, walking[lane], lane=lane)
            self.texts[lane].append(token)
            taken[lane] += 1
            if goes_on and stop_after and taken[lane] >= stop_after.get(lane, 1 << 30):
                self.engine.settle(lane=lane)
                goes_on = False
            if not goes_on:
                del walking[lane]
                self.roots[lane] = token
        return trees


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
    some.evaluate(prompts)
    while min(len(text) for text in some.texts.values()) < 40:
        some.round(list(prompts))
    for lane, prompt in prompts.items():
        assert_same_text(plain, prompt, expected(plain, prompt, 40), some.texts[lane][:40])


@pytest.mark.parametrize("unified", [True, False], ids=["unified", "streams"])
def test_hybrid_lanes(lanes, kept, any_pair, unified):
    plain = kept(any_pair, logits_all=True)
    some = lanes(any_pair.target, [any_pair.draft(budget=6), NGramDraft()], 3, unified=unified)
    prompts = prompts_of(3, seed=2)
    some.evaluate(prompts)
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
            some.evaluate(new)
            prompts.update(new)
        some_of_them = rng.sample(sorted(prompts), rng.randint(1, len(prompts)))
        some.round(some_of_them, order=rng.choice, stop_after={lane: rng.randint(1, 3) for lane in some_of_them if rng.random() < 0.3})
        for lane in list(prompts):
            if len(some.texts[lane]) > 40 or rng.random() < 0.05:
                text, prompt = some.texts[lane], prompts.pop(lane)
                assert some.n_past(lane) == len(prompt) + len(text) - 1
                some.remove(lane)
                assert_same_text(plain, prompt, expected(plain, prompt, len(text)), text)


def test_one_forward_verifies_all_lanes(lanes, pair):
    """The budget is one for all: lanes share it by how probable their nodes are."""
    some = lanes(pair.target, [pair.draft(budget=6)], 3)
    some.evaluate(prompts_of(3))
    for _ in range(8):
        trees = some.round([0, 1, 2])
        assert sum(len(tree.tokens) - 1 for tree in trees) == 18
    stats = [some.engine.stats(lane=lane) for lane in range(3)]
    assert all(s.rounds == 8 for s in stats) and sum(s.nodes for s in stats) == 8 * 18


def test_lanes_that_are_none_are_refused(lanes, pair):
    some = lanes(pair.target, [pair.draft(budget=6)], 2)
    some.evaluate(prompts_of(2))
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
    together.evaluate(prompts)
    n_vocab = llama_cpp.llama_vocab_n_tokens(together.vocab)
    for lane, prompt in prompts.items():
        alone = lanes(pair.target, [pair.draft(budget=6)], 1)
        alone.evaluate({0: prompt})
        ours = together.engine.logprobs(48, len(prompt), 5, n_vocab, lane=lane)
        assert np.abs(ours - alone.engine.logprobs(48, len(prompt), 5, n_vocab)).max() < 1e-2
