"""LlamaBatch between threads, tasks and processes: who waits for whom, cancelling, and the end."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_cpp import LogitsProcessorList

from llama_dflash import Llama, LlamaBatch
from llama_dflash.batch import Cancelled

SETTINGS = dict(n_ctx=512, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, flash_attn=True, seed=1, verbose=False)
ENDLESS = dict(temperature=0.0, max_tokens=480, logit_bias={"0": -1e9})
SHORT = dict(temperature=0.0, max_tokens=20)


@pytest.fixture
def load(pair):
    made = []

    def get(n_parallel=2, draft=True):
        made.append(LlamaBatch(str(pair.target), draft_model=pair.draft(budget=4) if draft else None, n_parallel=n_parallel, **SETTINGS))
        return made[-1]

    yield get
    for llm in made:
        llm.close()


@pytest.fixture(scope="module")
def alone(pair):
    with_texts = Llama(str(pair.target), **SETTINGS)
    texts = {}

    def text(prompt, **request):
        key = (prompt, *sorted(request.items()))
        if key not in texts:
            with_texts.reset()
            texts[key] = with_texts.create_completion(prompt, **request)["choices"][0]["text"]
        return texts[key]

    yield text
    with_texts.close()


def text_of(answer):
    return answer["choices"][0]["text"]


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.002)


def slow(seconds=0.01):
    """A processor that makes a text take its time."""
    return LogitsProcessorList([lambda ids, scores: (time.sleep(seconds), scores)[1]])


def test_threads_get_the_texts_that_they_get_alone(load, alone):
    llm, prompts = load(), [f"the digits: {i}{i * 3}" for i in range(24)]
    with ThreadPoolExecutor(12) as pool:
        texts = list(pool.map(lambda prompt: text_of(llm.create_completion(prompt, **SHORT)), prompts))
    assert texts == [alone(prompt, **SHORT) for prompt in prompts]


def test_tasks_of_asyncio_stream_and_wait(load, alone):
    llm, prompts = load(), [f"the digits: {i}" for i in range(8)]

    async def streamed(prompt):
        return "".join([text_of(chunk) async for chunk in await llm.acreate_completion(prompt, stream=True, **SHORT)])

    async def main():
        whole = asyncio.gather(*(llm.acreate_completion(prompt, **SHORT) for prompt in prompts))
        parts = asyncio.gather(*(streamed(prompt) for prompt in prompts))
        chat = await llm.acreate_chat_completion([{"role": "user", "content": "Hi"}], max_tokens=4)
        assert chat["choices"][0]["message"]["role"] == "assistant"
        chunks = [chunk async for chunk in await llm.acreate_chat_completion([{"role": "user", "content": "Hi"}], max_tokens=4, stream=True)]
        assert chunks[-1]["choices"][0]["finish_reason"] is not None
        with pytest.raises(ValueError, match="exceed context window of 512"):
            await llm.acreate_completion("x" * 2000)
        return [text_of(one) for one in await whole], await parts

    expected = [alone(prompt, **SHORT) for prompt in prompts]
    assert asyncio.run(main()) == (expected, expected)


# ---------------------------------------------------------------- cancelling


def test_a_closed_stream_frees_its_lane(load):
    llm = load(n_parallel=1)
    stream = llm.create_completion("the digits: 1", stream=True, logits_processor=slow(), **ENDLESS)
    next(stream)
    stream.close()
    started = time.monotonic()
    assert llm.create_completion("the digits: 2", **SHORT)["usage"]["completion_tokens"] == 20
    assert time.monotonic() - started < 2.0, "480 tokens would have taken five seconds"


def test_a_forgotten_stream_frees_its_lane(load):
    llm = load(n_parallel=1)
    stream = llm.create_completion("the digits: 1", stream=True, logits_processor=slow(), **ENDLESS)
    next(stream)
    del stream
    gc.collect()
    until(lambda: llm._scheduler.n_running == 0, seconds=1.0)


def test_a_cancelled_task_frees_its_lane_and_one_that_waits_its_place(load):
    llm = load(n_parallel=1)

    async def main():
        tasks = [asyncio.create_task(llm.acreate_completion("the digits: 1", logits_processor=slow(), **ENDLESS)) for _ in range(3)]
        while llm._scheduler.n_running + llm._scheduler.n_waiting < 3:
            await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        stream = await llm.acreate_completion("the digits: 2", stream=True, logits_processor=slow(), **ENDLESS)
        async for _ in stream:
            break
        await stream.aclose()
        return await asyncio.wait_for(llm.acreate_completion("the digits: 3", **SHORT), 5)

    assert asyncio.run(main())["usage"]["completion_tokens"] == 20
    until(lambda: llm._scheduler.n_running + llm._scheduler.n_waiting == 0, seconds=1.0)


def test_a_front_that_is_cancelled_says_so(load):
    llm = load(n_parallel=1)
    front = llm._front()
    stream = front.create_completion("the digits: 1", stream=True, logits_processor=slow(), **ENDLESS)
    next(stream)
    front.cancel()
    with pytest.raises(Cancelled):
        list(stream)
    with pytest.raises(Cancelled):
        front.create_completion("the digits: 1")


def test_cancelled_at_any_time_the_others_texts_are_theirs(load, alone):
    llm = load(n_parallel=3)
    for n in range(12):
        others = [llm.create_completion(f"the digits: {n}{i}", stream=True, **ENDLESS) for i in range(2)]
        with ThreadPoolExecutor(1) as pool:
            text = pool.submit(lambda: text_of(llm.create_completion(f"the digits: {n}", **SHORT)))
            for other in others:
                for _ in zip(range(n % 4 + 1), other):
                    pass
                other.close()
            assert text.result(20) == alone(f"the digits: {n}", **SHORT)


# ---------------------------------------------------------------- waiting


def test_more_requests_than_lanes_are_served_in_their_order(load):
    llm, begun = load(n_parallel=1), []

    def noted(i):
        def process(ids, scores):
            if i not in begun:
                begun.append(i)
            return scores

        return LogitsProcessorList([process])

    threads = []
    for i in range(6):
        threads.append(threading.Thread(target=lambda i=i: llm.create_completion("the digits: 4", logits_processor=noted(i), max_tokens=60, temperature=0.0)))
        threads[-1].start()
        until(lambda: llm._scheduler.n_running + llm._scheduler.n_waiting >= i + 1 or i in begun)
    for thread in threads:
        thread.join(30)
    assert begun == list(range(6))


def test_streams_that_nobody_reads_on_keep_nobody_waiting(load, alone, monkeypatch):
    """Their lanes go to others; read on, they go on, with the same text."""
    import llama_dflash.batch.request as requests

    monkeypatch.setattr(requests, "AHEAD", 5)
    llm = load(n_parallel=2)
    left = [llm.create_completion(f"the digits: {i}", stream=True, temperature=0.0, max_tokens=50) for i in range(2)]
    begun = [text_of(next(stream)) for stream in left]
    assert text_of(llm.create_completion("the digits: 9", **SHORT)) == alone("the digits: 9", **SHORT)
    for i, stream in enumerate(left):
        assert begun[i] + "".join(map(text_of, stream)) == alone(f"the digits: {i}", temperature=0.0, max_tokens=50)


def test_prompts_and_texts_take_turns(load):
    """While long prompts come in, a text that is being written goes on, and while it is written they are evaluated."""
    llm = load(n_parallel=4)
    stream = llm.create_completion("the digits: 1", stream=True, **ENDLESS)
    next(stream)
    events = []
    scheduler = llm._scheduler
    evaluate, write = scheduler._evaluate, scheduler._write_round
    scheduler._evaluate = lambda pieces: (events.append(("prompt", sum(len(p.tokens) for p in pieces))), evaluate(pieces))[1]
    scheduler._write_round = lambda: (events.append(("round", 0)), write())[1]
    llm.create_completions([str(i) + "0123456789" * 40 for i in range(3)], max_tokens=2)
    stream.close()
    between = 0
    for what, n in events:
        between = 0 if what == "round" else between + n
        assert between <= 2 * 64
    assert sum(n for what, n in events if what == "prompt") >= 3 * 400


# ---------------------------------------------------------------- failures


def test_a_forward_that_fails_fails_its_requests_and_no_others(load, alone):
    llm = load(n_parallel=2)
    engine, start, decode = llm._lane_engine, llm._lane_engine.start_all, llm._scheduler._batches._decode
    calls = []

    def failing(*args):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the forward failed")
        return start(*args)

    engine.start_all = failing
    answers = llm.create_completions([f"the digits: {i}" for i in range(6)], **SHORT)
    failed = [answer for answer in answers if isinstance(answer, Exception)]
    assert 1 <= len(failed) <= 2 and all("the forward failed" in str(error) for error in failed)
    good = [(i, answer) for i, answer in enumerate(answers) if not isinstance(answer, Exception)]
    assert all(text_of(answer) == alone(f"the digits: {i}", **SHORT) for i, answer in good)

    def no_memory(*args):
        llm._scheduler._batches._decode = decode
        raise RuntimeError("llama_decode of 12 tokens returned 1")

    llm._scheduler._batches._decode = no_memory
    with pytest.raises(RuntimeError, match="returned 1"):
        llm.create_completion("something else", **SHORT)
    assert text_of(llm.create_completion("the digits: 8", **SHORT)) == alone("the digits: 8", **SHORT)


def test_a_processor_that_uses_its_batch_is_told_so(load):
    llm = load()
    for call in (lambda: llm.create_completion("x"), llm.close):
        with pytest.raises(RuntimeError, match="a logits processor can't"):
            llm.create_completion("the digits: 1", logits_processor=LogitsProcessorList([lambda ids, scores: (call(), scores)[1]]))


# ---------------------------------------------------------------- the end


def test_close_ends_what_is_written_and_what_waits(load):
    llm = load(n_parallel=1)
    stream = llm.create_completion("the digits: 1", stream=True, logits_processor=slow(), **ENDLESS)
    next(stream)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(llm.create_completion, "the digits: 2") for _ in range(2)]
        until(lambda: llm._scheduler.n_waiting == 2)
        llm.close()
        for one in waiting:
            with pytest.raises(RuntimeError, match="was closed"):
                one.result(5)
    with pytest.raises(RuntimeError, match="was closed"):
        list(stream)
    with pytest.raises(RuntimeError, match="was closed"):
        llm.create_completion("x")
    llm.close()
    assert not llm._scheduler._thread.is_alive()


def test_a_with_block_and_del_end_the_thread(pair):
    with LlamaBatch(str(pair.target), n_parallel=2, **SETTINGS) as llm:
        llm.create_completion("the digits: 1", **SHORT)
        thread = llm._scheduler._thread
    assert not thread.is_alive()
    llm = LlamaBatch(str(pair.target), n_parallel=2, **SETTINGS)
    llm.create_completions(["the digits: 1"] * 4, **SHORT)
    thread = llm._scheduler._thread
    del llm
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_a_batch_that_does_not_load_leaves_no_thread(pair, tmp_path):
    before = threading.active_count()
    for wrong in (dict(draft_model=str(tmp_path / "none.gguf")), dict(n_parallel=-1)):
        with pytest.raises(ValueError):
            LlamaBatch(str(pair.target), **{**SETTINGS, **wrong})
    with pytest.raises(ValueError):
        LlamaBatch(str(tmp_path / "none.gguf"), **SETTINGS)
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork_the_child_is_told_and_ends(load):
    llm = load()
    stream = llm.create_completion("the digits: 1", stream=True, logits_processor=slow(), **ENDLESS)
    next(stream)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            llm.create_completion("x")
        except RuntimeError as error:
            code = 0 if "before a fork" in str(error) else 2
            llm.close()
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    stream.close()


SCRIPT = """
import asyncio, sys, threading, time
from llama_dflash import LlamaBatch

target, kind = sys.argv[1:]
llm = LlamaBatch(target, draft_model="ngram", n_parallel=2, n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
endless = dict(temperature=0.0, max_tokens=480)

if kind == "daemon":
    def write():
        while True:
            llm.create_completion("the digits: 1", **endless)
    threading.Thread(target=write, daemon=True).start()
    time.sleep(0.3)
elif kind == "stream":
    stream = llm.create_completion("the digits: 1", stream=True, **endless)
    next(stream)
elif kind == "task":
    async def main():
        task = asyncio.create_task(llm.acreate_completion("the digits: 1", **endless))
        await asyncio.sleep(0.1)
    asyncio.run(main())
elif kind == "pool":
    futures = [llm._workers.submit(lambda: llm.create_completion("the digits: 1", **endless)) for _ in range(50)]
    time.sleep(0.2)
print("done")
"""


@pytest.mark.parametrize("kind", ["daemon", "stream", "task", "pool"])
def test_the_interpreter_ends_whatever_is_being_written(pair, tmp_path, kind):
    for _ in range(2):
        command = [sys.executable, "-c", SCRIPT, str(pair.target), kind]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
        assert run.returncode == 0 and run.stdout == "done\n" and "Error" not in run.stderr, run.stderr[-2000:]
