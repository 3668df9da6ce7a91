"""Requests take turns with the model: in order, with a bound, and nobody waits for who has left."""

import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from asking import EXACT, complete, text_of
from servers import HTTP, KEY, OPTIONS, arguments

LONG = dict(n=100, max_tokens=1500, stream=True)  # minutes, if nobody ends it


def metrics(server):
    """The values of /metrics by their names, labels included."""
    text = HTTP.get(f"{server.url}/metrics", headers=server.headers, timeout=10).text
    return {name: float(value) for name, value in re.findall(r"^(llama_dflash_\S+) (\S+)$", text, re.MULTILINE)}


def wait_until(is_so, seconds=20):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.01)


def waiting(server, n):
    wait_until(lambda: metrics(server)["llama_dflash_requests_waiting"] == n)


def idle(server):
    wait_until(lambda: metrics(server)["llama_dflash_requests_running"] == 0)


def generations(server):
    return re.findall(r"Llama\.generate: (\d+) tokens in \d+ rounds", server.log)


def raw_request(server, **request):
    """A connection whose client has asked and reads nothing."""
    body = httpx.Request("POST", server.url, json={"prompt": "0123", "temperature": 0, **request}).content
    connection = socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1])))
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


@pytest.fixture
def stream(strict):
    """A stream that has the strict server's model."""
    idle(strict)
    with complete(**LONG, model="one")(strict.client(KEY)) as stream:
        next(stream)
        yield stream
    idle(strict)


@pytest.fixture
def held(strict, stream):
    """The strict server, whose model a stream has."""
    return strict


def test_more_requests_than_the_queue_takes_are_told_to_come_back(held):
    waiters = [raw_request(held, max_tokens=3) for _ in range(2)]
    try:
        waiting(held, 2)
        for as_stream in (False, True):
            with pytest.raises(openai.APIStatusError) as error:
                complete(model="one", stream=as_stream)(held.client(KEY))
            assert error.value.status_code == 503 and error.value.code == "queue_full"
            assert int(error.value.response.headers["Retry-After"]) >= 1
    finally:
        for waiter in waiters:
            waiter.close()
    waiting(held, 0)


def test_requests_are_answered_in_the_order_in_which_they_came(held, stream):
    answered = []

    def ask(i):
        list(complete(model="one", max_tokens=2, stream=i == 1)(held.client(KEY)))
        answered.append(i)

    with ThreadPoolExecutor(2) as threads:
        for i in range(2):
            threads.submit(ask, i)
            waiting(held, i + 1)
        assert answered == []
        stream.close()
    assert answered == [0, 1]


@pytest.mark.parametrize("as_stream", [False, True])
def test_a_client_that_leaves_while_it_waits_costs_nothing(held, stream, as_stream):
    before = len(generations(held))
    waiter = raw_request(held, max_tokens=1500, stream=as_stream)
    waiting(held, 1)
    waiter.close()
    waiting(held, 0)
    stream.close()
    complete(model="one", max_tokens=3)(held.client(KEY))
    assert len(generations(held)) <= before + 2, "the stream that had the model, and the last request"


def test_one_line_of_the_log_tells_of_a_client_that_left(held):
    before = held.log
    for stream in (False, True):
        waiter = raw_request(held, max_tokens=3, stream=stream)
        waiting(held, 1)
        waiter.close()
        waiting(held, 0)
    cut = socket.create_connection(("127.0.0.1", int(held.url.rsplit(":", 1)[1])))
    cut.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 99\r\n\r\n{{".encode())
    time.sleep(0.1)
    cut.close()
    wait_until(lambda: held.log.count("left POST") >= before.count("left POST") + 3)
    new = held.log[len(before) :]
    assert new.count("left POST /v1/completions before its answer was complete") == 3
    assert "Traceback" not in new and "rror" not in new


def test_what_needs_no_model_does_not_wait(held):
    for path in ("/health", "/v1/models", "/metrics"):
        started = time.monotonic()
        assert HTTP.get(held.url + path, headers=held.headers, timeout=10).status_code == 200
        assert time.monotonic() - started < 2


def test_streams_do_not_cut_each_other(drafted):
    def ask(i):
        chunks = list(complete(prompt=f"the digits: {i}", max_tokens=60, stream=True)(drafted.client()))
        return chunks[-1].choices[0].finish_reason

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(ask, range(24))) == {"length"}


def test_metrics_count_what_was_asked_and_written(drafted):
    before = metrics(drafted)
    answer = complete(prompt="something new: 987")(drafted.client())
    with pytest.raises(openai.BadRequestError):
        complete(temperature="hot")(drafted.client())
    with pytest.raises(openai.NotFoundError):
        drafted.client().get("/nowhere", cast_to=object)
    new = {name: value - before.get(name, 0) for name, value in metrics(drafted).items()}
    assert new['llama_dflash_requests_total{path="/v1/completions",status="200"}'] == 1
    assert new['llama_dflash_requests_total{path="/v1/completions",status="400"}'] == 1
    assert new['llama_dflash_requests_total{path="other",status="404"}'] == 1
    timings = answer.timings
    assert new["llama_dflash_tokens_total"] == timings["predicted_n"] == 40
    assert new["llama_dflash_prompt_tokens_total"] == timings["prompt_n"]
    assert new["llama_dflash_prompt_tokens_cached_total"] == timings["cache_n"]
    assert new["llama_dflash_draft_nodes_total"] == timings["draft_n"]
    assert new["llama_dflash_draft_nodes_accepted_total"] == timings["draft_n_accepted"]
    assert 0 < new["llama_dflash_rounds_total"] < 40
    assert metrics(drafted)["llama_dflash_acceptance_length"] > 1


# ---------------------------------------------------------------- the end of a server


@pytest.mark.parametrize("stream", [True, False])
def test_a_server_that_is_told_to_stop_ends_its_answers_within_two_seconds(start, pair, stream):
    server = start(*arguments(model=pair.target, draft_model=pair.drafter, draft_model_budget=8, **OPTIONS))
    running = threading.Event()
    said = []

    def ask(**request):
        try:
            answer = complete(**request)(server.client())
            for _ in answer if request.get("stream") else ():
                running.set()
            said.append(answer)
        except openai.APIError as error:
            said.append(error)

    threads = [threading.Thread(target=ask, kwargs={**LONG, "stream": stream}), threading.Thread(target=ask, kwargs=dict(max_tokens=3))]
    threads[0].start()
    wait_until(lambda: metrics(server)["llama_dflash_requests_running"] == 1)
    assert not stream or running.wait(20)
    threads[1].start()
    waiting(server, 1)
    started = time.monotonic()
    server.terminate()
    status = server.wait(10)
    assert time.monotonic() - started < 2.5
    for thread in threads:
        thread.join(10)
    assert [error.code for error in said] == ["server_stops"] * 2, server.log
    assert status == -15 and "Traceback" not in server.log
