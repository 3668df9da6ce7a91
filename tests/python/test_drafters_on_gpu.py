"""Every kind of drafter, lists of them and several conversations, with the target and the drafters on a GPU."""

import itertools

import numpy as np
import pytest
from conftest import SETTINGS, write_pair
from drafter_models import write_eagle3
from mtp_models import shipped
from same_text import assert_same_text, measured_tolerance

from llama_dflash import DFlashDraft, Eagle3Draft, Llama, ModelDraft, MTPDraft, NGramDraft
from llama_dflash._lanes import Lanes

pytestmark = pytest.mark.gpu

PROMPT = list(b"the digits: 0123")
LONG = PROMPT * 11  # of several ubatches
CODE = 'def is_prime(n: int) -> bool:\n    """True if n is a prime number."""\n'
TARGETS = {"llama": (7, dict(head_dim=64)), "qwen35": (8, dict(head_dim=128, state_size=128))}  # with kernels on a GPU


class Files:
    """A target, and a file for each kind of drafter that has one."""

    def __init__(self, folder, arch):
        seed, sizes = TARGETS[arch]
        self.pair = write_pair(folder, arch, seed, sizes, head_dim=64)
        self.target = self.pair.target
        self.head = write_eagle3(folder / "head.gguf", self.target, head_dim=64)

    def drafts(self, kind, **settings):
        kinds = {
            "dflash": [DFlashDraft(self.pair.drafter, **settings)],
            "eagle3": [Eagle3Draft(self.head, **settings)],
            "model": [ModelDraft(self.target, **settings)],
            "ngram": [NGramDraft(**settings)],
        }
        kinds["all"] = [draft for drafts in kinds.values() for draft in drafts]
        return kinds[kind]


@pytest.fixture(scope="module", params=TARGETS)
def files(request, tmp_path_factory):
    return Files(tmp_path_factory.mktemp("drafters"), request.param)


@pytest.fixture
def plain(kept, files):
    return kept(files, logits_all=True, n_gpu_layers=-1)


@pytest.fixture
def tolerance(plain):
    return measured_tolerance(plain, LONG)


def greedy(llm, prompt=PROMPT, n=60):
    llm.reset()
    return list(itertools.islice(llm.generate(prompt, temp=0.0), n))


@pytest.mark.parametrize("kind", ["eagle3", "model", "ngram", "all"])
@pytest.mark.parametrize("settings", [dict(budget=12), dict(budget=5, mode="chain"), dict(budget="auto")], ids=str)
def test_greedy_text_is_plain_decodings(kept, files, plain, tolerance, kind, settings):
    llm = kept(files, tuple(files.drafts(kind, **settings)), n_gpu_layers=-1)
    text = greedy(llm, n=80)
    assert_same_text(plain, PROMPT, greedy(plain, n=80), text, tolerance)
    if settings["budget"] == 12 and kind != "ngram":
        assert llm.speculative_stats.accepted > 0, "something was drafted well, or this test shows nothing"


@pytest.mark.parametrize("unified", [True, False], ids=["unified", "streams"])
@pytest.mark.parametrize("n_lanes", [2, 4, 8])
@pytest.mark.parametrize("kind", ["dflash", "all"])
def test_each_conversations_text_is_plain_decodings(files, plain, tolerance, kind, n_lanes, unified):
    lanes = Lanes(files.target, files.drafts(kind, budget=7), n_lanes, unified=unified, n_batch=256, n_gpu_layers=-1)
    try:
        prompts = {lane: PROMPT + [48 + lane] * (1 + 3 * lane) for lane in range(n_lanes)}
        lanes.begin(prompts)
        while min(len(text) for text in lanes.texts.values()) < 30:
            lanes.round(list(prompts))
        for lane, prompt in prompts.items():
            assert_same_text(plain, prompt, greedy(plain, prompt, 30), lanes.texts[lane][:30], tolerance)
    finally:
        lanes.close()


def test_an_eagle3_head_predicts_on_the_gpu_what_it_predicts_on_the_cpu(load, files):
    found = []
    for n_gpu_layers in (0, -1):
        llm = load(files, Eagle3Draft(files.head, budget=12), n_gpu_layers=n_gpu_layers)
        list(itertools.islice(llm.generate(PROMPT, temp=0.0), 2))
        tree = llm.last_tree
        found.append({token: np.exp(p) for token, p, parent in zip(tree.tokens, tree.logprobs, tree.parents) if parent == 0})
    both = found[0].keys() & found[1].keys()
    assert both and max(abs(found[0][token] - found[1][token]) for token in both) < 0.02


@pytest.mark.parametrize("draft", [dict(budget=8), dict(budget=15), dict(budget=4, mode="chain"), dict(budget="auto")], ids=str)
def test_the_shipped_layer_for_next_tokens_guesses_on_a_gpu(tmp_path_factory, draft):
    settings = dict(SETTINGS, n_ctx=1024, n_gpu_layers=-1)
    target = shipped(tmp_path_factory.mktemp("trained"))
    plain, llm = Llama(str(target), logits_all=True, **settings), Llama(str(target), draft_model=MTPDraft(**draft), **settings)
    try:
        prompt = plain.tokenize(CODE.encode(), add_bos=False, special=True)
        tolerance = measured_tolerance(plain, prompt)
        assert_same_text(plain, prompt, greedy(plain, prompt), greedy(llm, prompt), tolerance)
        if draft["budget"] != "auto":
            assert llm.speculative_stats.acceptance_length > 1.7, "the layer guesses, or this test shows nothing"
    finally:
        plain.close()
        llm.close()
