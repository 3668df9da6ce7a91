"""A worker that is lost, at any moment and in any way, is a WorkerError in time; and a new Llama goes on once it is back."""

import itertools
import time

import pytest
from conftest import PROMPT, SETTINGS
from worker_processes import Worker

from llama_dflash import DFlashDraft, LlamaBatch, WorkerError

SOON = 30.0  # seconds: an error must have come by then, also on a busy machine


class Breaking:
    """Breaks a network's connections before the k-th message from now on."""

    def __init__(self, network, k: int):
        self.network, self.left = network, k
        network.before_message = self

    def __call__(self, name: str) -> None:
        self.left -= 1
        if self.left == 0:
            self.network.break_connections()


def places(n: int, n_places: int = 9) -> list[int]:
    """Some of the numbers from 1 to n, the first and the last among them."""
    return sorted({1 + i * (n - 1) // (n_places - 1) for i in range(n_places)})


def count_messages(network, what) -> int:
    network.reset_counts()
    what()
    return sum(network.messages.values())


def load_and_close(pair, mode, ends) -> None:
    try:
        pair.load(mode, ends).close()
    finally:
        for end in ends:
            end.wait_until_idle()


@pytest.mark.parametrize("mode", ["plain", "tree"])
def test_a_connection_that_breaks_at_any_message_of_loading_is_an_error(pair, mode, workers, networks):
    ends = networks(workers(2))
    n = count_messages(ends[1], lambda: load_and_close(pair, mode, ends))
    for k in places(n - 1):
        Breaking(ends[1], k)
        start = time.monotonic()
        try:
            load_and_close(pair, mode, ends)
        except WorkerError as error:
            assert ends[1].endpoint in str(error)
        else:  # what is sent last is not waited for
            assert k > n // 2, f"nothing said that message {k} of {n} was lost"
        assert time.monotonic() - start < SOON
    ends[1].before_message = None
    llm = pair.load(mode, ends)
    assert len(pair.tokens(llm, 5)) == 5
    llm.close()


@pytest.mark.parametrize("mode", ["plain", "tree"])
def test_a_connection_that_breaks_at_any_message_of_a_text_is_an_error_and_the_tokens_are_kept(pair, mode, workers, networks):
    ends = networks(workers(2))
    alone = pair.load(mode)
    expected = pair.tokens(alone, 12)
    for _ in range(2):  # the first time some sizes are asked for that are known from then on
        llm = pair.load(mode, ends)
        n = count_messages(ends[0], lambda: pair.tokens(llm, 12))
        llm.close()
    for k in places(n, 12):
        llm.close()
        llm = pair.load(mode, ends)
        Breaking(ends[0], k)
        start, text = time.monotonic(), []
        with pytest.raises(WorkerError, match=ends[0].endpoint):
            for token in itertools.islice(llm.generate(PROMPT, temp=0.0), 12):
                text.append(token)
            llm.save_state()  # ends the last round, if the 12 tokens came before the k-th message
        assert time.monotonic() - start < SOON
        assert text == expected[: len(text)]
        if text:  # the last token handed out may not be in memory yet, as ever
            assert llm.input_ids[: len(PROMPT) + len(text) - 1].tolist() == PROMPT + text[:-1]
        for call in (lambda: llm.eval([65]), lambda: next(llm.generate(PROMPT)), llm.save_state):
            with pytest.raises(WorkerError):
                call()
        ends[0].before_message = None
    llm.close()
    alone.close()
    again = pair.load(mode, ends)
    assert pair.tokens(again, 12) == expected
    again.close()


def test_a_worker_that_is_killed_before_a_commit_is_an_error_and_a_new_one_goes_on(hybrid, workers):
    ends = workers(2)
    alone, llm = hybrid.load("tree"), hybrid.load("tree", ends)
    expected = hybrid.tokens(alone, 30)
    steps = llm.generate(PROMPT, temp=0.0)
    text = list(itertools.islice(steps, 6))
    while not llm._is_walking:  # a round whose path is not committed yet
        text.append(next(steps))
    ends[1].kill()
    with pytest.raises(WorkerError, match="closed the connection"):
        llm.save_state()
    with pytest.raises(WorkerError):
        text.extend(itertools.islice(steps, 20))
    llm.close()

    with Restarted(ends[1]):
        llm = hybrid.load("tree", ends)
        text.extend(hybrid.tokens(llm, 30 - len(text), prompt=PROMPT + text))
        assert text == expected
        llm.close()
    alone.close()


class Restarted:
    """A worker of the same address, for a `with` block."""

    def __init__(self, worker: Worker):
        self.worker = Worker(port=worker.port)

    def __enter__(self) -> None:
        self.worker.wait_until_ready()

    def __exit__(self, *_) -> None:
        self.worker.kill()


@pytest.mark.parametrize("mode", ["plain", "tree"])
def test_a_worker_that_stands_still_is_lost_when_the_time_is_up(pair, mode, workers):
    ends = workers(2)
    llm = pair.load(mode, ends, rpc_timeout=1.0)
    steps = llm.generate(PROMPT, temp=0.0)
    text = list(itertools.islice(steps, 4))
    ends[0].stop()
    start = time.monotonic()
    with pytest.raises(WorkerError, match="did not answer for 1 seconds"):
        text.extend(itertools.islice(steps, 60))
    assert 0.5 < time.monotonic() - start < SOON
    llm.close()
    ends[0].go_on()
    llm = pair.load(mode, ends)
    assert pair.tokens(llm, 4) == text[:4]
    llm.close()


def test_a_network_that_is_cut_is_a_worker_lost_when_the_time_is_up(dense, workers, networks):
    ends = networks(workers(2))
    llm = dense.load("tree", ends, rpc_timeout=1.0)
    steps = llm.generate(PROMPT, temp=0.0)
    list(itertools.islice(steps, 4))
    ends[1].holds_back = True
    start = time.monotonic()
    with pytest.raises(WorkerError, match="did not answer for 1 seconds"):
        list(itertools.islice(steps, 60))
    assert time.monotonic() - start < SOON
    llm.close()
    assert time.monotonic() - start < SOON
    ends[1].holds_back = False


def test_a_worker_that_stands_still_while_a_model_is_loaded_is_an_error(dense, workers, networks):
    ends = networks(workers(1))

    def stop_at_weights(name: str) -> None:
        ends[0].holds_back |= name == "SET_TENSOR"

    ends[0].before_message = stop_at_weights
    start = time.monotonic()
    with pytest.raises(WorkerError, match="did not answer for 1 seconds"):
        dense.load("tree", ends, rpc_timeout=1.0)
    assert time.monotonic() - start < SOON
    ends[0].before_message, ends[0].holds_back = None, False


def test_no_worker_at_all_is_an_error_that_says_how_to_start_one(dense):
    class Nobody:
        endpoint = "127.0.0.1:9"

    with pytest.raises(WorkerError, match="no RPC worker at 127.0.0.1:9: Connection refused. Start one there with `llama-dflash"):
        dense.load("plain", [Nobody])


def test_a_worker_that_serves_another_process_is_an_error(dense, workers):
    ends = workers(1)
    first = dense.load("plain", ends)

    class SameWorker:  # by another name: another connection, as another process makes it
        endpoint = ends[0].endpoint.replace("127.0.0.1", "localhost")

    with pytest.raises(WorkerError, match="it may be serving another process"):
        dense.load("plain", [SameWorker], rpc_timeout=1.0)
    assert len(dense.tokens(first, 5)) == 5
    first.close()


@pytest.mark.parametrize("given", ["", "host", "host:", "host:0", "host:70000", "a:1,,b:2", "a:1,a:1", "a b:1", [3]])
def test_what_is_no_list_of_workers_is_a_value_error(dense, given):
    if given == "":  # as None: no workers
        dense.load("plain", rpc_servers=given).close()
        return
    with pytest.raises(ValueError, match="rpc_servers: "):
        dense.load("plain", rpc_servers=given)


@pytest.mark.parametrize("seconds", [0, -1, "a", True, None])
def test_a_timeout_that_is_no_time_is_a_value_error(dense, seconds):
    with pytest.raises(ValueError, match="rpc_timeout is .*, expected a number of seconds"):
        dense.load("plain", rpc_timeout=seconds)


def test_a_lost_worker_leaves_other_models_of_the_process_alone(dense, workers):
    ends = workers(2)
    lost, other, here = (dense.load("tree", [ends[0]]), dense.load("tree", [ends[1]]), dense.load("tree"))
    expected = dense.tokens(here, 20)
    ends[0].kill()
    with pytest.raises(WorkerError):
        dense.tokens(lost, 20)
    for llm in (other, here):
        assert dense.tokens(llm, 20) == expected
    for llm in (lost, other, here):
        llm.close()


def test_a_batch_writes_on_workers_and_says_when_one_is_lost(dense, workers):
    settings = dict(SETTINGS, draft_model=DFlashDraft(dense.drafter, budget=8), n_parallel=3)
    prompts = ["the digits: 0", "the digits: 01", "another text"]
    ends = workers(2)
    servers = ",".join(end.endpoint for end in ends)
    alone = LlamaBatch(str(dense.target), **settings)
    spread = LlamaBatch(str(dense.target), **settings, rpc_servers=servers, n_gpu_layers=-1, tensor_split=[1.0, 1.0])
    texts = [
        [answer["choices"][0]["text"] for answer in llm.create_completions(prompts, max_tokens=20, temperature=0.0)]
        for llm in (alone, spread)
    ]
    assert texts[0] == texts[1]
    ends[0].kill()
    for answer in spread.create_completions(prompts, max_tokens=20, temperature=0.0):
        assert isinstance(answer, WorkerError) and ends[0].endpoint in str(answer)
    with pytest.raises(WorkerError):
        spread.create_completion(prompts[0], max_tokens=3)
    spread.close()
    alone.close()
