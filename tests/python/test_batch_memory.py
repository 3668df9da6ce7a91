"""LlamaBatch evaluates what is new: beginnings that requests share, conversations that go on, and those that come back."""

import contextlib
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import llama_cpp
import models
import numpy as np
import pytest
from conftest import write_pair
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_dflash import Llama, LlamaBatch, NGramDraft
from llama_dflash.checkpoints import NEAR

# Batches of fewer than 64 tokens round as single tokens do: texts are equal however their prompts are cut into pieces.
SETTINGS = dict(n_ctx=1024, n_batch=48, n_ubatch=48, n_threads=1, n_threads_batch=1, flash_attn=True, seed=1, verbose=False)
TURN, END = models.BOS, models.PAD  # special tokens, as in "<|im_start|>assistant\n" and "<|im_end|>"
ASKED = dict(temperature=0.0, max_tokens=12)


@pytest.fixture(scope="module", params=["dense", "hybrid", "recurrent"])
def target(request, tmp_path_factory):
    """A target and what may draft for it."""
    folder = tmp_path_factory.mktemp("batch-memory")
    if request.param == "recurrent":
        return models.write_recurrent(folder / "mamba.gguf"), None
    pair = write_pair(folder, *{"dense": ("llama", 0), "hybrid": ("qwen35", 8)}[request.param])
    return pair.target, [pair.draft(budget=4), NGramDraft()]


@pytest.fixture(scope="module")
def alone(target):
    path, _ = target
    llm = Llama(str(path), **SETTINGS)

    def text(prompt, stream=False, **request):
        llm.reset()
        answer = llm.create_completion(prompt, **{**ASKED, **request}, stream=stream)
        return "".join(texts_of(answer)) if stream else answer["choices"][0]["text"]

    yield text
    llm.close()


@pytest.fixture
def load(target):
    with contextlib.ExitStack() as stack:

        def get(n_parallel=4, drafts=True, **more):
            path, draft = target
            llm = LlamaBatch(str(path), draft_model=draft if drafts else None, n_parallel=n_parallel, **{**SETTINGS, **more})
            return stack.enter_context(llm)

        yield get


@pytest.fixture(scope="module")
def lasting(target):
    """One that has seen much."""
    path, draft = target
    with LlamaBatch(str(path), draft_model=draft, n_parallel=3, **SETTINGS) as llm:
        yield llm


@pytest.fixture
def near(target):
    """A recurrent memory goes back to checkpoints only, and none are made closer together than this."""
    path, _ = target
    return 0 if "llama" in path.name else NEAR


def words(n, seed):
    return np.random.default_rng(seed).integers(48, 58, n).tolist()


def message(n, seed):
    return [*words(n, seed), END, TURN]


def texts_of(answers):
    return [answer["choices"][0]["text"] for answer in answers]


class Counted:
    """How many tokens of prompts were evaluated since the last look."""

    def __init__(self, llm):
        self._llm, self._before = llm, 0

    def __call__(self):
        now = self._llm._scheduler.n_evaluated
        before, self._before = self._before, now
        return now - before


@pytest.mark.parametrize("drafts", [True, False])
def test_what_all_begin_with_is_evaluated_once(load, alone, near, drafts):
    llm, system = load(drafts=drafts), [TURN, *message(200, 1)]
    prompts = [system + message(20 + i, 10 + i) for i in range(9)]
    evaluated = Counted(llm)
    assert texts_of(llm.create_completions(prompts, **ASKED)) == [alone(prompt) for prompt in prompts]
    n_own = sum(len(prompt) - len(system) for prompt in prompts)
    assert evaluated() <= len(system) + n_own + 9 * (2 + near)


def test_what_few_shot_prompts_without_special_tokens_share_is_evaluated_once(load, alone, near):
    llm, shots = load(), words(150, 2)
    prompts = [shots + words(25, 20 + i) for i in range(6)]
    evaluated = Counted(llm)
    assert texts_of(llm.create_completions(prompts, **ASKED)) == [alone(prompt) for prompt in prompts]
    assert evaluated() <= len(shots) + 6 * 25 + 6 * (10 + near)  # some go on alike for a few tokens more


def test_a_conversation_goes_on_in_its_lane(load, alone, near):
    llm = load()
    chats = [[TURN, *message(90, 30 + i)] for i in range(4)]
    llm.create_completions(chats, **ASKED)
    evaluated = Counted(llm)
    evaluated()
    for turn in range(3):
        chats = [chat + message(20, 100 * turn + i) for i, chat in enumerate(chats)]
        answers = llm.create_completions(chats, **ASKED)
        assert texts_of(answers) == [alone(chat) for chat in chats]
        assert evaluated() <= 4 * (20 + 4 + near)


def test_a_lane_that_is_written_in_lends_its_beginning(load, alone, near):
    llm, system = load(), [TURN, *message(120, 3)]
    stream = llm.create_completion(system + message(20, 4), temperature=0.0, max_tokens=60, stream=True)
    text = [chunk["choices"][0]["text"] for _, chunk in zip(range(5), stream)]
    evaluated = Counted(llm)
    evaluated()
    other = system + message(25, 5)
    assert texts_of([llm.create_completion(other, **ASKED)]) == [alone(other)]
    assert evaluated() <= 27 + 4 + near
    text += [chunk["choices"][0]["text"] for chunk in stream]
    assert "".join(text) == alone(system + message(20, 4), max_tokens=60, stream=True)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_conversations_come_back_from_a_cache(load, alone, near, tmp_path, kind):
    """20 conversations on 4 lanes, in turn: only what is new is evaluated."""
    llm = load()
    llm.set_cache(llama_cpp.LlamaRAMCache() if kind == "ram" else llama_cpp.LlamaDiskCache(str(tmp_path)))
    chats = [[TURN, *message(100 + i, 200 + i)] for i in range(20)]
    evaluated = Counted(llm)
    for turn in range(3):
        for start in range(0, 20, 4):
            answers = llm.create_completions(chats[start : start + 4], **ASKED)
            assert texts_of(answers) == [alone(chat) for chat in chats[start : start + 4]]
        n = evaluated()
        assert turn == 0 or n <= 20 * (24 + 2 + 4 + near)
        chats = [chat + message(24, 1000 * turn + i) for i, chat in enumerate(chats)]


def test_a_cache_that_fails_costs_time_and_no_request(load, alone):
    class Full(llama_cpp.LlamaRAMCache):
        def __setitem__(self, key, value):
            raise OSError("no space left on device")

    llm = load(n_parallel=1)
    llm.set_cache(Full())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for i in range(3):
            prompt = [TURN, *message(60, 40 + i)]
            assert texts_of([llm.create_completion(prompt, **ASKED)]) == [alone(prompt)]
    assert any("no space left on device" in str(one.message) for one in said)


def test_states_of_others_in_a_cache_are_misses(target, load, alone):
    """One cache for a Llama and a LlamaBatch."""
    path, _ = target
    cache, prompt = llama_cpp.LlamaRAMCache(), [TURN, *message(100, 50)]
    llm = Llama(str(path), **SETTINGS)
    llm.set_cache(cache)
    llm.create_completion(prompt, **ASKED)
    batch = load(n_parallel=1)
    batch.set_cache(cache)
    longer = prompt + message(20, 51)
    assert texts_of([batch.create_completion(longer, **ASKED)]) == [alone(longer)]
    batch.create_completion([TURN, *message(70, 52)], **ASKED)  # what came before goes to the cache
    llm.reset()
    for _ in range(2):
        assert texts_of([llm.create_completion(longer + message(20, 53), **ASKED)]) == [alone(longer + message(20, 53))]
    llm.close()


def test_beginnings_shorter_than_a_copy_is_worth_are_evaluated(load, alone):
    llm, prompts = load(), [[TURN, *words(NEAR // 2, 6), *message(30, 60 + i)] for i in range(5)]
    assert texts_of(llm.create_completions(prompts, **ASKED)) == [alone(prompt) for prompt in prompts]


REQUESTS = st.lists(
    st.fixed_dictionaries(
        dict(
            begins=st.integers(0, 3),  # which long beginning
            n_shared=st.sampled_from([0, 20, 60, 130]),  # so many tokens of it
            n_own=st.integers(1, 60),
            left_after=st.sampled_from([None, None, 1, 3]),  # chunks that are read of a stream
            temperature=st.sampled_from([0.0, 1.0]),
        )
    ),
    min_size=4,
    max_size=16,
)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests=REQUESTS, cached=st.sampled_from([None, 1 << 30, 1 << 20]), n_threads=st.integers(1, 6))
def test_whatever_is_in_memory_texts_are_those_of_a_llama_alone(lasting, alone, requests, cached, n_threads):
    """Beginnings that are shared or not, streams that are left, a cache that is large, too small or not there."""
    llm = lasting
    llm.set_cache(None if cached is None else llama_cpp.LlamaRAMCache(cached))
    asked = []
    for i, one in enumerate(requests):
        prompt = [TURN, *message(130, one["begins"])][: one["n_shared"]] + message(one["n_own"], 100 + i)
        asked.append((prompt, dict(ASKED, temperature=one["temperature"], seed=i), one["left_after"]))

    def ask(one):
        prompt, request, left_after = one
        if left_after is None:
            return llm.create_completion(prompt, **request)["choices"][0]["text"]
        stream = llm.create_completion(prompt, stream=True, **request)
        for _ in zip(range(left_after), stream):
            pass
        stream.close()

    with ThreadPoolExecutor(n_threads) as threads:
        texts = list(threads.map(ask, asked))
    for (prompt, request, left_after), text in zip(asked, texts):
        assert left_after is not None or text == alone(prompt, **request)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_conversations_with_one_long_system_prompt_keep_their_own(load, alone, near, tmp_path, kind):
    """Six conversations on two lanes: what they have in common and what is theirs are both found again."""
    llm, system = load(n_parallel=2), [TURN, *message(200, 7)]
    llm.set_cache(llama_cpp.LlamaRAMCache() if kind == "ram" else llama_cpp.LlamaDiskCache(str(tmp_path)))
    chats = [system + message(100, 70 + i) for i in range(6)]
    evaluated = Counted(llm)
    for turn in range(3):
        for chat in chats:
            assert texts_of([llm.create_completion(chat, **ASKED)]) == [alone(chat)]
        n = evaluated()
        assert n <= (len(system) + 6 * (102 + 4 + near) if turn == 0 else 6 * (24 + 2 + 4 + near))
        chats = [chat + message(24, 1000 * turn + i) for i, chat in enumerate(chats)]


def test_a_lane_that_is_copied_takes_no_state_before_the_copy_is_made(load, alone):
    """llama.cpp copies with its next decode. A request copies the beginning of another lane, and in the same step that lane is
    needed for a text from the cache."""
    llm, system = load(n_parallel=2), [TURN, *message(150, 8)]
    llm.set_cache(llama_cpp.LlamaRAMCache())
    cached, lent = [TURN, *message(160, 80)], system + message(100, 81)
    for prompt in (cached, [TURN, *message(90, 82)], [TURN, *message(90, 83)], lent):  # the first ones leave their lanes
        llm.create_completion(prompt, **ASKED)
    scheduler, step = llm._scheduler, llm._scheduler._step

    def with_both():
        while len(scheduler._waiting) < 2:
            scheduler._note(scheduler._inbox.get(timeout=10))
        scheduler._step = step
        step()

    scheduler._step = with_both
    asked = [system + message(30, 84), cached + message(25, 85)]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(llm.create_completion, asked[0], **ASKED)
        time.sleep(0.1)
        second = threads.submit(llm.create_completion, asked[1], **ASKED)
        assert texts_of([first.result(20), second.result(20)]) == [alone(prompt) for prompt in asked]
