"""Saved states, caches and pickles carry the drafter's memory along, and survive without it."""

import gc
import itertools
import pickle

import numpy as np
import pytest
from same_text import assert_same_text

import llama_cpp
from llama_dflash import DFlashDraft, Llama

PROMPT = list(b"the digits: 0123")
LONG = PROMPT + [48 + i % 5 for i in range(90)]


def greedy(llm, prompt, n, **settings):
    return list(itertools.islice(llm.generate(prompt, temp=0.0, **settings), n))


def guesses(llm):
    """What the drafter makes of the text so far: depends on every feature it remembers."""
    llm._engine.truncate(llm.n_tokens)
    return llm._engine.logprobs(48, llm.n_tokens, 5, llm._n_vocab)


def test_a_restored_state_goes_on_as_if_nothing_had_been_in_between(drafted, plain):
    for n in (1, 3, 4, 10):
        drafted.reset()
        text = greedy(drafted, LONG, n)
        state = drafted.save_state()
        before = guesses(drafted)
        greedy(drafted, [50, 49], 20)
        drafted.load_state(state)
        assert drafted.n_tokens == len(LONG) + n - 1
        assert np.array_equal(guesses(drafted), before)
        rest = greedy(drafted, LONG + text, 20)
        assert_same_text(plain, LONG + text, greedy(plain, LONG + text, 20), rest)


def test_a_state_saved_in_the_middle_of_an_accepted_path(tree, plain):
    generator = tree.generate(LONG, temp=0.0)
    for n in range(1, 12):
        text = list(itertools.islice(generator, 1))
        state = tree.save_state()
        assert state.n_tokens == len(LONG) + n - 1
    del text, generator
    text = greedy(plain, LONG, 11)
    tree.reset()
    greedy(tree, [51], 5)
    tree.load_state(state)
    assert_same_text(plain, LONG + text, greedy(plain, LONG + text, 20), greedy(tree, LONG + text, 20))


def test_a_state_moves_to_another_object(load, pair, tree, plain):
    greedy(tree, LONG, 10)
    state = pickle.loads(pickle.dumps(tree.save_state()))
    other = load(pair, pair.draft(budget=12))
    other.load_state(state)
    assert np.array_equal(guesses(other), guesses(tree))
    assert_same_text(plain, LONG, greedy(plain, LONG, 30), greedy(other, LONG, 30))


@pytest.mark.parametrize("context", [4096, 16])
def test_a_state_of_another_drafters_context_or_of_none_will_do(load, pair, plain, context):
    other = load(pair, pair.draft(budget=12, context=context))
    for saver in (load(pair), load(pair, pair.draft(context=64)), load(pair, pair.draft(context=8, type_k=8))):
        greedy(saver, LONG, 10)
        state = saver.save_state()
        greedy(other, PROMPT, 9)
        other.load_state(state)
        assert_same_text(plain, LONG, greedy(plain, LONG, 40), greedy(other, LONG, 40))


def test_the_stock_class_loads_a_state_with_a_drafters_memory(pair, tree):
    text = greedy(tree, LONG, 10)
    state = tree.save_state()
    stock = llama_cpp.llama.Llama(str(pair.target), n_ctx=512, n_batch=64, flash_attn=True, verbose=False)
    stock.load_state(state)
    assert greedy(stock, LONG + text, 1) == greedy(tree, LONG + text, 1)
    stock.close()


@pytest.mark.parametrize("junk", [b"", b"x", b"\0" * 4, b"\xff" * 400, bytes(range(256)) * 40], ids=len)
def test_a_damaged_draft_state_costs_acceptance_only(tree, plain, junk):
    greedy(tree, LONG, 10)
    state = tree.save_state()
    for draft_state in (junk, state.draft_state[: len(state.draft_state) // 2], state.draft_state + junk):
        state.draft_state = draft_state
        tree.load_state(state)
        assert_same_text(plain, LONG, greedy(plain, LONG, 30), greedy(tree, LONG, 30))


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_cache_brings_back_text_and_features(load, pair, plain, tmp_path, kind, stream):
    cache = llama_cpp.LlamaRAMCache() if kind == "ram" else llama_cpp.LlamaDiskCache(str(tmp_path))
    llm = load(pair, pair.draft(budget=12))
    llm.set_cache(cache)
    evaluated = []
    stock_eval = llm.eval
    llm.eval = lambda tokens: (evaluated.append(len(tokens)), stock_eval(tokens))[1]

    def complete(prompt):
        answer = llm.create_completion(prompt, max_tokens=20, temperature=0.0, stream=stream)
        return "".join(c["choices"][0]["text"] for c in (answer if stream else [answer]))

    long = bytes(LONG).decode()
    first = complete(long)
    complete("321")
    evaluated.clear()
    second = complete(long + first + "77")
    assert evaluated[0] < 10  # the prompt came from the cache
    expected = plain.create_completion(long + first + "77", max_tokens=20, temperature=0.0)["choices"][0]["text"]
    assert_same_text(plain, list((long + first + "77").encode()), list(expected.encode()), list(second.encode()))


def test_reset_forgets(drafted, plain):
    greedy(drafted, LONG, 20)
    drafted.reset()
    assert drafted.n_tokens == 0
    assert_same_text(plain, PROMPT, greedy(plain, PROMPT, 30), greedy(drafted, PROMPT, 30))


def test_a_pickled_object_keeps_its_drafter(load, pair, plain):
    llm = load(pair, pair.draft(budget=9, mode="chain", context=100, type_k=8))
    copy = pickle.loads(pickle.dumps(llm))
    assert copy.draft_model == llm.draft_model and not copy._logits_all
    assert_same_text(plain, PROMPT, greedy(plain, PROMPT, 30), greedy(copy, PROMPT, 30))
    assert copy.speculative_stats.nodes > 0
    copy.close()
    without = pickle.loads(pickle.dumps(load(pair)))
    assert without.draft_model is None and without.speculative_stats is None
    without.close()


def test_close_frees_everything_and_may_be_called_twice(pair):
    llm = Llama(str(pair.target), draft_model=DFlashDraft(pair.drafter), n_ctx=256, verbose=False)
    generator = llm.generate(PROMPT, temp=0.0)
    next(generator), next(generator)
    llm.close()
    llm.close()
    assert llm._engine.closed and llm.speculative_stats is None
    generator.close()


def test_the_last_reference_frees_everything_at_once(pair):
    """Without waiting for the garbage collector: a model is gigabytes."""
    llm = Llama(str(pair.target), draft_model=DFlashDraft(pair.drafter), n_ctx=256, verbose=False)
    greedy(llm, PROMPT, 10)
    engine, ctx = llm._engine, llm._ctx
    gc.disable()
    try:
        del llm
        assert engine.closed and ctx.ctx is None
    finally:
        gc.enable()


def test_a_state_saved_without_flash_attention_is_refused_and_forgotten(load, pair, plain):
    state = load(pair, flash_attn=False)
    greedy(state, LONG, 5)
    old = state.save_state()
    llm = load(pair, pair.draft(budget=8))
    greedy(llm, LONG, 5)
    with pytest.raises(RuntimeError, match="flash_attn"):
        llm.load_state(old)
    assert llm.n_tokens == 0
    assert_same_text(plain, LONG, greedy(plain, LONG, 12), greedy(llm, LONG, 12))


def test_a_cached_state_that_does_not_fit_is_a_cache_miss(load, pair, plain, tmp_path):
    from llama_cpp import LlamaDiskCache

    old = load(pair, flash_attn=False)
    old.set_cache(LlamaDiskCache(str(tmp_path)))
    old.create_completion(LONG, max_tokens=4, temperature=0)
    llm = load(pair, pair.draft(budget=8))
    llm.set_cache(LlamaDiskCache(str(tmp_path)))
    text = llm.create_completion(LONG, max_tokens=12, temperature=0)["choices"][0]["text"]
    assert text == plain.create_completion(LONG, max_tokens=12, temperature=0)["choices"][0]["text"]
