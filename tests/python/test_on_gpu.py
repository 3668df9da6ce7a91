"""Speculation with the target, and its drafter, on a GPU. The real pairs are in test_real_pair.py, trees in tests/tree."""

import itertools

import numpy as np
import pytest
from conftest import write_pair
from same_text import assert_same_text, measured_tolerance

from llama_cpp import _internals as internals

pytestmark = pytest.mark.gpu

ON_GPU = dict(n_gpu_layers=-1)
PROMPT = list(b"the digits: 0123")
LONG = PROMPT * 11  # of several ubatches
TARGETS = {  # seed, and head sizes for which GPU backends have kernels
    "llama": (7, dict(head_dim=64)),
    "qwen3": (7, dict(head_dim=64)),
    "qwen35": (8, dict(head_dim=128, state_size=128)),
    "qwen35moe": (4, dict(head_dim=64, state_size=64)),
}


@pytest.fixture(scope="module", params=TARGETS)
def gpu_pair(request, tmp_path_factory):
    seed, sizes = TARGETS[request.param]
    return write_pair(tmp_path_factory.mktemp("gpu"), request.param, seed, sizes, head_dim=64)


@pytest.fixture
def plain(kept, gpu_pair):
    return kept(gpu_pair, logits_all=True, **ON_GPU)


@pytest.fixture
def tolerance(plain):
    return measured_tolerance(plain, LONG)


def greedy(llm, prompt=PROMPT, n=80):
    return list(itertools.islice(llm.generate(prompt, temp=0.0), n))


@pytest.mark.parametrize("draft", [dict(budget=1), dict(budget=8), dict(budget=22), dict(budget=32), dict(budget="auto"),
                                   dict(budget=12, mode="chain")], ids=str)
def test_greedy_text_is_plain_decodings(kept, gpu_pair, plain, tolerance, draft):
    llm = kept(gpu_pair, gpu_pair.draft(**draft), **ON_GPU)
    assert_same_text(plain, PROMPT, greedy(plain), greedy(llm), tolerance)
    assert draft["budget"] == "auto" or llm.speculative_stats.accepted > 0


@pytest.mark.parametrize("draft", [dict(device_outputs=False), dict(n_gpu_layers=0)], ids=str)
def test_rows_on_the_host_and_a_drafter_on_the_cpu_give_the_same_text(kept, gpu_pair, plain, tolerance, draft):
    llm = kept(gpu_pair, gpu_pair.draft(budget=20, **draft), **ON_GPU)
    assert_same_text(plain, PROMPT, greedy(plain), greedy(llm), tolerance)
    assert llm.speculative_stats.accepted > 0


def test_a_prompt_longer_than_what_the_drafter_remembers(kept, gpu_pair, plain, tolerance):
    llm = kept(gpu_pair, gpu_pair.draft(budget=12, context=64), **ON_GPU)
    assert_same_text(plain, LONG, greedy(plain, LONG), greedy(llm, LONG), tolerance)
    assert llm.speculative_stats.accepted > 0


def test_the_drafter_predicts_on_the_gpu_what_it_predicts_on_the_cpu(kept, gpu_pair):
    probabilities = []
    for n_gpu_layers in (0, -1):
        llm = kept(gpu_pair, gpu_pair.draft(budget=12), n_gpu_layers=n_gpu_layers)
        llm.eval(LONG)
        probabilities.append(np.exp(llm._engine.logprobs(ord("0"), len(LONG), 15, llm.n_vocab())))
    assert probabilities[0].max() > 0.1, "it predicts something, or this test shows nothing"
    assert np.abs(probabilities[0] - probabilities[1]).max() < 0.02


def test_a_drafter_waits_for_the_features_of_a_batch_that_nobody_has_read(kept, gpu_pair):
    """Of full batches: their features are injected at once, while the target may still be computing them."""
    prompt = PROMPT * 96
    probabilities = []
    for on_device in (False, True):
        llm = kept(gpu_pair, gpu_pair.draft(budget=12, device_outputs=on_device), n_ctx=2048, n_batch=512, n_ubatch=512, **ON_GPU)
        llm.eval(prompt)
        probabilities.append(np.exp(llm._engine.logprobs(ord("0"), len(prompt), 15, llm.n_vocab())))
    assert probabilities[0].max() > 0.1, "it predicts something, or this test shows nothing"
    assert np.abs(probabilities[0] - probabilities[1]).max() < 0.02


@pytest.fixture(scope="module", params=itertools.product(["markov", "selector"], ["llama", "qwen35"]), ids="-".join)
def headed_pair(request, tmp_path_factory):
    """Of DSpark and DFlash2 drafters."""
    head, arch = request.param
    seed, sizes = TARGETS[arch]
    return write_pair(tmp_path_factory.mktemp("heads"), arch, seed, sizes, head_dim=64, head=head, head_std=0.1)


@pytest.mark.parametrize("draft", [dict(budget=8), dict(budget=22), dict(budget="auto"), dict(budget=12, mode="chain"),
                                   dict(budget=12, device_outputs=False), dict(budget=12, n_gpu_layers=0)], ids=str)
def test_greedy_text_of_a_drafter_with_a_head_is_plain_decodings(kept, headed_pair, draft):
    plain = kept(headed_pair, logits_all=True, **ON_GPU)
    tolerance = measured_tolerance(plain, LONG)
    llm = kept(headed_pair, headed_pair.draft(**draft), **ON_GPU)
    assert_same_text(plain, PROMPT, greedy(plain), greedy(llm), tolerance)
    assert draft["budget"] == "auto" or llm.speculative_stats.accepted > 0


def test_a_head_scores_branches_on_the_gpu_as_on_the_cpu(kept, headed_pair):
    found = []
    for n_gpu_layers in (0, -1):
        llm = kept(headed_pair, headed_pair.draft(budget=30), n_gpu_layers=n_gpu_layers)
        llm.eval(LONG)
        sampler = internals.LlamaSampler()
        sampler.add_greedy()
        _, tree = llm._engine.round(sampler.sampler, ord("0"), len(LONG), greedy=True, n_max=100)
        paths = [()]
        for parent, token in zip(tree.parents[1:], tree.tokens[1:]):
            paths.append((*paths[parent], token))
        found.append(dict(zip(paths, np.exp(tree.logprobs))))
    both = found[0].keys() & found[1].keys()
    assert len(both) > 20, "branches that are nearly as good as the last one may differ"
    assert max(abs(found[0][path] - found[1][path]) for path in both) < 0.02


def test_a_saved_state_goes_on_as_plain_decoding_does(load, gpu_pair, plain, tolerance):
    first, second = (load(gpu_pair, gpu_pair.draft(budget=12), **ON_GPU) for _ in range(2))
    begun = greedy(first, n=20)
    first.reset()
    first.eval(PROMPT + begun)
    second.load_state(first.save_state())
    assert_same_text(plain, PROMPT, greedy(plain, n=60), begun + greedy(second, PROMPT + begun, 40), tolerance)
