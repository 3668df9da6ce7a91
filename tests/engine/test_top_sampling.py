"""Sampling from the best entries of a row against sampling from the whole row: the same seed, the same tokens."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llama_dflash  # noqa: F401  before llama_cpp
import llama_cpp
from llama_dflash import _engine
from llama_dflash._engine import ARGMAX, TOP_K, WHOLE_ROW
from llama_dflash.samplers import choice_of

N_VOCAB = 1000
N_TOP = 128

CHAINS = [
    dict(),
    dict(top_k=20, top_p=0.8, temp=0.7),
    dict(top_k=40, top_p=1.0, min_p=0.1, temp=1.5),
    dict(top_k=64, typical_p=0.7),
    dict(top_k=1),
    dict(repeat_penalty=1.3),
    dict(frequency_penalty=0.6, presence_penalty=0.4, temp=1.2),
    dict(repeat_penalty=1.1, frequency_penalty=0.2, top_k=100),
]


def chain_of(seed, top_k=40, top_p=0.95, min_p=0.05, typical_p=1.0, temp=0.8, repeat_penalty=1.0, frequency_penalty=0.0,
             presence_penalty=0.0):
    """The chain of llama_cpp.Llama._init_sampler()."""
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for sampler in (
        llama_cpp.llama_sampler_init_penalties(64, repeat_penalty, frequency_penalty, presence_penalty)
        if len(llama_cpp.llama_sampler_init_penalties.argtypes) == 4
        else llama_cpp.llama_sampler_init_penalties(N_VOCAB, 64, repeat_penalty, frequency_penalty, presence_penalty),
        llama_cpp.llama_sampler_init_top_k(top_k),
        llama_cpp.llama_sampler_init_typical(typical_p, 1),
        llama_cpp.llama_sampler_init_top_p(top_p, 1),
        llama_cpp.llama_sampler_init_min_p(min_p, 1),
        llama_cpp.llama_sampler_init_temp(temp),
        llama_cpp.llama_sampler_init_dist(seed),
    ):
        llama_cpp.llama_sampler_chain_add(chain, sampler)
    return chain


def from_row(chain, row):
    """As llama_sampler_sample()."""
    candidates = (llama_cpp.llama_token_data * len(row))(*((i, float(x), 0.0) for i, x in enumerate(row)))
    array = llama_cpp.llama_token_data_array(candidates, len(row), -1, False)
    llama_cpp.llama_sampler_apply(chain, ctypes.byref(array))
    token = array.data[array.selected].id
    llama_cpp.llama_sampler_accept(chain, token)
    return token


def from_top(chain, row, n_top=N_TOP):
    """The token, or -1. Entries as ggml_top_logits() finds them: of equal ones the smaller id first; -inf and NaN are none."""
    best = [i for i in np.lexsort((np.arange(len(row)), -row)) if row[i] > -np.inf][:n_top]
    entries = np.full(2 * n_top, -1, np.float32)
    entries[:n_top] = -np.inf
    entries[: len(best)], entries[n_top : n_top + len(best)] = row[best], best
    return _engine._library_functions().sample_from_top(chain, entries.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), n_top)


@pytest.fixture
def two_chains():
    chains = []

    def make(seed, **chain):
        chains.extend(chain_of(seed, **chain) for _ in range(2))
        return chains[-2:]

    yield make
    for chain in chains:
        llama_cpp.llama_sampler_free(chain)


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_the_same_seed_gives_the_same_tokens(two_chains, chain):
    """Also of texts in which few entries decide: what the entries leave open is sampled from the whole row, and no random
    number was drawn before."""
    rng = np.random.default_rng(5)
    whole, top = two_chains(77, **chain)
    decided = 0
    for _ in range(300):
        row = (rng.standard_normal(N_VOCAB) * rng.choice([0.5, 2, 6])).astype(np.float32)
        expected, found = from_row(whole, row), from_top(top, row)
        if found < 0:
            found = from_row(top, row)
        else:
            decided += 1
        assert found == expected
    assert decided > 250


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(-3, 12), min_size=160, max_size=160),
    st.integers(0, 2**31),
    st.sampled_from(CHAINS),
    st.integers(2, 160),
)
def test_equal_logits_are_never_guessed_at(levels, seed, chain, n_top):
    """Rows of few different values: mostly the whole row has to decide, and never is the token another one."""
    row = np.array(levels, np.float32)
    row[row == -3] = -np.inf
    if not (row > -np.inf).any():
        return
    row[:40] += np.random.default_rng(seed).standard_normal(40).astype(np.float32)
    whole, top = chain_of(seed, **chain), chain_of(seed, **chain)
    try:
        for _ in range(3):
            expected, found = from_row(whole, row), from_top(top, row, n_top)
            assert (from_row(top, row) if found < 0 else found) == expected
    finally:
        llama_cpp.llama_sampler_free(whole)
        llama_cpp.llama_sampler_free(top)


def test_what_a_penalty_moved_below_the_entries_is_left_to_the_row(two_chains):
    """Every entry but one was said before; behind the entries are others that were not."""
    row = np.linspace(5, 4, N_VOCAB, dtype=np.float32)
    _, top = two_chains(3, top_k=40, presence_penalty=5.0)
    for token in range(64):
        llama_cpp.llama_sampler_accept(top, token)
    assert from_top(top, row, n_top=80) == -1
    assert from_top(top, row, n_top=128) >= 64


@pytest.mark.parametrize("top_k", [0, -1, N_TOP, N_TOP + 1, N_VOCAB])
def test_a_top_k_of_all_entries_or_more_is_left_to_the_row(two_chains, top_k):
    _, top = two_chains(3, top_k=top_k)
    assert from_top(top, np.linspace(5, -5, N_VOCAB, dtype=np.float32)) == -1


def test_a_chain_that_begins_otherwise_is_left_to_the_row():
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_temp(0.7))
    llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_top_k(5))
    llama_cpp.llama_sampler_chain_add(chain, llama_cpp.llama_sampler_init_dist(1))
    assert from_top(chain, np.linspace(5, -5, N_VOCAB, dtype=np.float32)) == -1
    llama_cpp.llama_sampler_free(chain)


@pytest.mark.parametrize(
    "settings, choice",
    [
        (dict(), TOP_K),
        (dict(temp=0.7, top_k=20, top_p=0.8, repeat_penalty=1.05), TOP_K),
        (dict(temp=0.7, grammar=object()), TOP_K),  # it only forbids
        (dict(temp=0.0), ARGMAX),
        (dict(temp=0.0, repeat_penalty=1.1), WHOLE_ROW),
        (dict(temp=0.0, grammar=object()), WHOLE_ROW),
        (dict(temp=0.7, top_k=0), WHOLE_ROW),
        (dict(temp=0.7, top_k=500), WHOLE_ROW),
        (dict(temp=0.7, mirostat_mode=2), WHOLE_ROW),
        (dict(temp=-1.0), WHOLE_ROW),  # all logits, none left out
        (dict(temp=0.7, repeat_penalty=0.9), WHOLE_ROW),  # raises logits
        (dict(temp=0.7, frequency_penalty=-0.1), WHOLE_ROW),
        (dict(temp=0.7, presence_penalty=-0.1), WHOLE_ROW),
    ],
    ids=str,
)
def test_what_a_sampler_has_to_see(settings, choice):
    assert choice_of(settings, has_processors=False) == choice
    assert choice_of(settings, has_processors=True) == WHOLE_ROW
