"""One Llama, several threads: every generation has its turn, and the text that it has alone."""

import asyncio
import contextvars
import gc
import itertools
import threading
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError

import pytest

from llama_dflash import Llama

SETTINGS = dict(n_ctx=512, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
PROMPTS = [f"the digits: {i}{i * 3}{i * 7}" for i in range(6)]
ASKED = dict(temperature=0.0, max_tokens=60)


@pytest.fixture(scope="module", params=["drafted", "stock"])
def llm(request, pair):
    llm = Llama(str(pair.target), draft_model=pair.draft(budget=8) if request.param == "drafted" else None, **SETTINGS)
    yield llm
    llm.close()


@pytest.fixture(scope="module")
def alone(llm):
    """The texts, one after the other."""
    return [write(llm, prompt) for prompt in PROMPTS]


def elsewhere(function, *args):
    """Calls a function in another thread, which does not keep a failed test from ending."""
    call = Future()

    def run():
        try:
            call.set_result(function(*args))
        except BaseException as error:
            call.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return call


def write(llm, prompt):
    return llm.create_completion(prompt, **ASKED)["choices"][0]["text"]


def stream(llm, prompt):
    return (chunk["choices"][0]["text"] for chunk in llm.create_completion(prompt, stream=True, **ASKED))


def is_waiting(call):
    with pytest.raises(TimeoutError):
        call.result(timeout=0.7)
    return True


def test_threads_get_the_texts_that_they_get_alone(llm, alone):
    def ask(i):
        return "".join(stream(llm, PROMPTS[i])) if i % 2 else write(llm, PROMPTS[i])

    order = list(range(len(PROMPTS))) * 3
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, order)) == [alone[i] for i in order]


def test_everything_else_waits_for_a_stream_too(llm, alone):
    chunks = stream(llm, PROMPTS[0])
    start = next(chunks)
    reset = elsewhere(llm.reset)
    assert is_waiting(reset)
    assert start + "".join(chunks) == alone[0]
    reset.result(timeout=20)


@pytest.mark.parametrize("end", ["close", "drop", "cycle"])
def test_a_stream_that_is_not_read_on_lets_others_go_on(llm, alone, end):
    chunks = llm.create_completion(PROMPTS[0], stream=True, **ASKED)
    next(chunks)
    other = elsewhere(write, llm, PROMPTS[1])
    assert is_waiting(other)
    if end == "close":
        chunks.close()
    elif end == "cycle":
        cycle = [chunks]
        cycle.append(cycle)
        del cycle
    del chunks
    gc.collect()
    assert other.result(timeout=20) == alone[1]


def test_a_stream_may_be_closed_by_another_thread(llm, alone):
    chunks = llm.create_completion(PROMPTS[0], stream=True, **ASKED)
    next(chunks)
    elsewhere(chunks.close).result(timeout=20)
    assert elsewhere(write, llm, PROMPTS[1]).result(timeout=20) == alone[1]


def test_a_stream_may_be_read_by_many_threads_in_turn(llm, alone):
    chunks, pieces = stream(llm, PROMPTS[2]), []

    def read_one():
        pieces.append(next(chunks, None))

    while not pieces or pieces[-1] is not None:
        reader = threading.Thread(target=read_one)
        reader.start()
        reader.join(20)
    assert "".join(pieces[:-1]) == alone[2]


def test_a_thread_may_leave_its_own_stream_for_another_text(llm, alone):
    chunks = stream(llm, PROMPTS[0])
    start = next(chunks)
    assert write(llm, PROMPTS[1]) == alone[1]
    assert elsewhere(write, llm, PROMPTS[2]).result(timeout=20) == alone[2]  # nobody waits for the stream that was left
    with pytest.raises(RuntimeError, match="another generation"):
        next(chunks)
    assert alone[0].startswith(start) and "".join(stream(llm, PROMPTS[0])) == alone[0]


def test_so_may_any_other_thread(llm, alone):
    def leave():
        chunks = stream(llm, PROMPTS[0])
        next(chunks)
        text = write(llm, PROMPTS[1])
        with pytest.raises(RuntimeError, match="another generation"):
            next(chunks)
        return text

    assert elsewhere(leave).result(timeout=20) == alone[1]


def test_a_pools_thread_that_reads_for_several_callers_ends_no_streams(llm, alone):
    """Event loops call so: each call in a copy of its caller's context, in whatever thread is free."""

    def called(function, *args):
        return pool.submit(contextvars.copy_context().run, function, *args)

    first, second = stream(llm, PROMPTS[0]), stream(llm, PROMPTS[1])
    with ThreadPoolExecutor(1) as pool:
        start = called(next, first).result(timeout=20)
        other = called("".join, second)  # in the thread that has read of the first one
        assert is_waiting(other)
        assert start + "".join(first) == alone[0]
        assert other.result(timeout=20) == alone[1]


def test_coroutines_that_stream_at_once_get_their_texts(llm, alone):
    async def read(prompt):
        chunks, text = stream(llm, prompt), ""
        while (piece := await asyncio.to_thread(next, chunks, None)) is not None:
            text += piece
        return text

    async def read_all():
        return await asyncio.gather(*map(read, PROMPTS[:4]))

    assert asyncio.run(read_all()) == alone[:4]


def test_a_stream_that_nobody_reads_on_loses_its_turn_after_a_while(llm, alone, monkeypatch):
    monkeypatch.setattr(llm._turns, "patience_seconds", 1.0)
    for chunks in (stream(llm, PROMPTS[0]), llm.generate(llm.tokenize(b"0123"), temp=0.0)):
        next(chunks)
        other = elsewhere(write, llm, PROMPTS[1])
        assert is_waiting(other)
        assert other.result(timeout=20) == alone[1]
        with pytest.raises(RuntimeError, match="waited 1 seconds"):
            next(chunks)
    assert write(llm, PROMPTS[2]) == alone[2]


def test_between_tokens_a_thread_may_look_at_the_model_and_still_has_its_turn(llm):
    prompt = llm.tokenize(PROMPTS[3].encode())
    text = list(itertools.islice(llm.generate(prompt, temp=0.0), 20))
    tokens = llm.generate(prompt, temp=0.0)
    start = [next(tokens) for _ in range(5)]
    other = elsewhere(write, llm, PROMPTS[1])
    llm.save_state()
    assert is_waiting(other)
    assert start + list(itertools.islice(tokens, 15)) == text
    tokens.close()
    assert other.result(timeout=20)


def test_an_error_gives_the_turn_back(llm, alone):
    def fail(tokens, logits):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        llm.create_completion(PROMPTS[0], stopping_criteria=fail, **ASKED)
    with pytest.raises(ValueError, match="exceed context window"):
        llm.create_completion("x" * 600, **ASKED)
    assert elsewhere(write, llm, PROMPTS[1]).result(timeout=20) == alone[1]


def test_close_does_not_wait_for_a_stream_that_nobody_reads(pair):
    llm = Llama(str(pair.target), draft_model=pair.draft(budget=8), **SETTINGS)
    chunks = llm.create_completion(PROMPTS[0], stream=True, **ASKED)
    next(chunks)
    elsewhere(llm.close).result(timeout=20)
    chunks.close()


def test_the_tokens_of_a_stream_are_counted_as_those_of_an_answer(llm):
    for prompt, more in ((PROMPTS[0], {}), (PROMPTS[1], {"stop": ["7"]}), (PROMPTS[2], {"logit_bias": {"2": 100}})):
        usage = llm.create_completion(prompt, **ASKED, **more)["usage"]
        assert llm.usage == usage
        for _ in llm.create_completion(prompt, stream=True, **ASKED, **more):
            pass
        assert llm.usage == usage
