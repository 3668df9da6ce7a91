"""A model whose layers are on workers writes what it writes in one process."""

import itertools

import pytest
from conftest import PROMPT

MODES = ("plain", "chain", "tree")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_workers", [2, 3])
def test_a_text_over_workers_is_one_processs_text(pair, mode, n_workers, workers):
    alone, spread = pair.load(mode), pair.load(mode, workers(n_workers))
    assert pair.tokens(spread) == pair.tokens(alone)
    if mode != "plain":
        assert spread.speculative_stats.accepted == alone.speculative_stats.accepted > 0
    for settings in (dict(temp=0.8, top_k=40), dict(temp=1.0, repeat_penalty=1.2)):
        assert pair.tokens(spread, **settings) == pair.tokens(alone, **settings)
    alone.close()
    spread.close()


@pytest.mark.parametrize("latency", [0.0002, 0.002, 0.02])
def test_a_slow_network_changes_no_text(hybrid, latency, workers, networks):
    ends = networks(workers(2), latency=latency, bandwidth=50e6)
    spread = hybrid.load("tree", ends)
    n = 24 if latency < 0.01 else 8
    assert hybrid.tokens(spread, n) == hybrid.tokens(hybrid.load("tree"), n)
    spread.close()


@pytest.mark.parametrize("mode", ["plain", "tree"])
def test_states_come_back_from_workers_and_go_to_them(pair, mode, workers):
    alone, spread = pair.load(mode), pair.load(mode, workers(2))
    steps = spread.generate(PROMPT, temp=0.0)
    begun = list(itertools.islice(steps, 9))
    state = spread.save_state()
    expected = list(itertools.islice(steps, 20))
    steps.close()

    for llm in (spread, alone):  # a state of workers is one of a single process too
        llm.reset()
        llm.load_state(state)
        text = PROMPT + begun
        assert pair.tokens(llm, 20, prompt=text) == expected
    alone.close()
    spread.close()


def test_a_hybrids_next_turn_goes_on_from_a_checkpoint_on_the_workers(hybrid, workers):
    spread, alone = hybrid.load("tree", workers(2)), hybrid.load("tree")
    first = list(b"a first turn of some length, with words enough to be kept. ")
    for llm in (spread, alone):
        hybrid.tokens(llm, 12, prompt=first)
    second = first + list(b"and another one")
    assert spread.checkpoints and spread.checkpoints == alone.checkpoints
    assert hybrid.tokens(spread, 20, prompt=second) == hybrid.tokens(alone, 20, prompt=second)
    spread.close()
    alone.close()


def test_layers_are_shared_as_tensor_split_says(dense, workers):
    both = workers(2)
    spread = dense.load("tree", both, tensor_split=[1.0, 0.0])
    assert dense.tokens(spread, 8) == dense.tokens(dense.load("tree"), 8)
    spread.close()
    assert any("Accepted" in line for line in both[0].lines)


def test_a_worker_serves_one_process_after_the_other(dense, workers):
    ends = workers(1)
    for _ in range(3):
        llm = dense.load("tree", ends)
        assert len(dense.tokens(llm, 5)) == 5
        llm.close()
