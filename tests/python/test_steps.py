"""A round whose tokens somebody else samples, as llama.cpp's server does: rows are asked for, tokens are told."""

import ctypes
import itertools

import pytest

import llama_cpp
from llama_dflash import _engine
from llama_dflash._engine import TOP_K, WHOLE_ROW
from llama_dflash._lanes import Lanes

PROMPT = list(b"the digits: 0123")


def chain_of(temperature, seed):
    chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for sampler in (llama_cpp.llama_sampler_init_top_k(20), llama_cpp.llama_sampler_init_temp(temperature), llama_cpp.llama_sampler_init_dist(seed)):
        llama_cpp.llama_sampler_chain_add(chain, sampler)
    return chain


def step(lanes, chain, choice):
    """One token of lane 0's round, and whether it goes on."""
    functions, pointer = lanes.engine._c, lanes.engine._engine
    row = functions.row(pointer, 0)
    assert row >= 0
    token = functions.decided(pointer, 0, chain, choice)
    was_decided = token >= 0
    if not was_decided:
        token = llama_cpp.llama_sampler_sample(chain, lanes.ctx, row)
    else:
        llama_cpp.llama_sampler_accept(chain, token)
    sampled = _engine._Token()
    assert functions.sampled(pointer, 0, token, ctypes.byref(sampled)) == 0
    assert (sampled.token, sampled.row) == (token, row)
    return token, sampled.child >= 0, was_decided


def text_in_steps(lanes, temperature, n, choice=TOP_K):
    chain, n_decided = chain_of(temperature, 5), 0
    lanes.begin({0: PROMPT})
    text = lanes.texts[0]
    while len(text) < n:
        lanes.engine.start_all([(0, text[-1], lanes.n_past(0), 2**30)])
        goes_on = True
        while goes_on:
            token, goes_on, was_decided = step(lanes, chain, choice)
            text.append(token)
            n_decided += was_decided
    llama_cpp.llama_sampler_free(chain)
    return text[:n], n_decided


@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_the_text_is_the_same_from_best_entries_and_from_whole_rows(pair, temperature):
    texts, counts = {}, {}
    for on_device, choice in itertools.product((True, False), (TOP_K, WHOLE_ROW)):
        lanes = Lanes(pair.target, [pair.draft(budget=7, device_outputs=on_device)], 1)
        key = on_device, choice
        texts[key], counts[key] = text_in_steps(lanes, temperature, 50, choice)
        with pytest.raises(RuntimeError, match="no round is going on"):
            lanes.engine._check(lanes.engine._c.row(lanes.engine._engine, 0))
        lanes.close()
    assert len(set(map(tuple, texts.values()))) == 1, texts
    assert counts.pop((True, TOP_K)) > 20 and not any(counts.values())


def test_the_kind_of_a_file_is_told(pair, tmp_path):
    functions = _engine._library_functions()
    assert functions.kind_of(str(pair.drafter).encode()) == b"dflash"
    assert functions.kind_of(str(pair.target).encode()) == b"model"
    assert functions.kind_of(str(tmp_path / "nothing").encode()) is None
    assert "no such draft model" in _engine._last_error(functions)
