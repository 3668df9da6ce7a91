"""Two drafters of one target at once: each has features of its own, and one's end takes nothing from the other."""

import itertools

import numpy as np
import pytest
from drafter_models import write_drafter

from llama_dflash._engine import Engine

PROMPT = list(b"the digits: 0123")


@pytest.fixture(scope="module")
def drafters(pair, tmp_path_factory):
    """Of other weights and other layers."""
    folder = tmp_path_factory.mktemp("two")
    return [
        write_drafter(folder / f"{i}.gguf", pair.target, std=0.2, seed=i, layers=layers)
        for i, layers in enumerate([(1, 2), (0, 2), (2,)])
    ]


def logprobs(engine, llm):
    return engine.logprobs(48, len(PROMPT), 5, llm._n_vocab)


def observe(llm, engines):
    llm.reset()
    llm._memory.engine = None
    llm.eval(PROMPT)
    for engine in engines:
        engine.observe(0, PROMPT, 0)


@pytest.mark.parametrize("on_device", [(True, True), (True, False), (False, True), (False, False)], ids=str)
def test_each_has_its_own_features(load, pair, drafters, on_device):
    llm = load(pair)

    def engine(i, device):
        draft = pair.draft(budget=8).__class__(drafters[i], budget=8, device_outputs=device)
        return Engine(llm.ctx, [draft], n_gpu_layers=0)

    alone = []
    for i, device in enumerate(on_device):
        only = engine(i, device)
        observe(llm, [only])
        alone.append(logprobs(only, llm))
        only.close()
    for closed_first in (0, 1):
        both = [engine(i, device) for i, device in enumerate(on_device)]
        observe(llm, both)
        for i in (1, 0, 1):
            assert np.array_equal(logprobs(both[i], llm), alone[i])
        both[closed_first].close()
        other = 1 - closed_first
        observe(llm, [both[other]])
        assert np.array_equal(logprobs(both[other], llm), alone[other])
        both[other].close()
    assert list(itertools.islice(llm.generate(PROMPT, temp=0.0), 5))
