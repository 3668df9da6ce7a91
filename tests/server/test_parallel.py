"""A server that answers several requests at once (--n_parallel 4): each gets what it would get alone."""

import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from asking import CHOICE, CITY, MESSAGES, PROMPT, TOOLS, chat, complete, streamed, text_of, text_of_chunks
from servers import HTTP, OPTIONS, arguments

ENDLESS = dict(max_tokens=1500, stream=True)


@pytest.fixture(scope="module")
def parallel(start, pair):
    return start(*arguments(model=pair.target, draft_model=pair.drafter, draft_model_budget=8, n_parallel=4, **OPTIONS))


def metric(server, name):
    text = HTTP.get(f"{server.url}/metrics").text
    return float(re.search(rf"^llama_dflash_{name} (\S+)$", text, re.MULTILINE)[1])


def until(is_so, seconds=15):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


def asked(i):
    """Different kinds of requests, each with its text."""
    prompt = f"{PROMPT}{i}"
    messages = [{"role": "system", "content": "Be brief. " * 20}, {"role": "user", "content": f"Count: {i}"}]
    kinds = [
        (complete(prompt=prompt), text_of),
        (streamed(complete(prompt=prompt, stream=True)), text_of_chunks),
        (chat(messages=messages), text_of),
        (streamed(chat(messages=messages, stream=True)), text_of_chunks),
        (complete(prompt=prompt, temperature=1.0, seed=i, n=2), lambda answer: [choice.text for choice in answer.choices]),
        (complete(prompt=prompt, logprobs=2), lambda answer: (answer.choices[0].logprobs.tokens, answer.usage.total_tokens)),
        (chat(tools=TOOLS, tool_choice=CHOICE), lambda answer: answer.choices[0].message.tool_calls[0].function.arguments),
    ]
    return kinds[i % len(kinds)]


def test_answers_of_many_clients_are_those_of_each_alone(parallel, plain):
    requests = [asked(i) for i in range(28)]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda one: one[1](one[0](parallel.client())), requests))
    plain_client = plain.client()
    for (request, look), answer, i in zip(requests, answers, range(28)):
        if i % 7 == 5:  # the plain server keeps no logits
            assert len(answer[0]) > 0
        else:
            assert answer == look(request(plain_client))


def test_four_streams_at_once_and_a_fifth_that_waits(parallel):
    clients = [parallel.client() for _ in range(5)]
    streams = [complete(prompt=f"{PROMPT}{i}", **ENDLESS)(client) for i, client in enumerate(clients[:4])]
    for stream in streams:
        next(stream)
    assert metric(parallel, "requests_running") == 4
    with ThreadPoolExecutor(1) as pool:
        fifth = pool.submit(lambda: text_of(complete(max_tokens=5)(clients[4])))
        until(lambda: metric(parallel, "requests_waiting") == 1 or fifth.done())
        streams[2].close()  # its client goes away
        assert fifth.result(15)[1] == "length"
    for stream in streams:
        stream.close()
    until(lambda: metric(parallel, "requests_running") == 0)


def test_nobody_sees_anothers_text(parallel):
    """Secrets in prompts of requests that run at once, some of which are cut off."""

    def ask(i):
        with complete(prompt=f"secret {i:03d} " * 8, stream=True, max_tokens=30)(parallel.client()) as stream:
            texts = [chunk.choices[0].text for _, chunk in zip(range(3 + i % 20), stream)]
        return i, "".join(texts)

    with ThreadPoolExecutor(10) as pool:
        first = dict(pool.map(ask, range(20)))
        again = dict(pool.map(ask, reversed(range(20))))
    assert first == again


def test_timings_say_what_was_in_memory(parallel):
    long = chat(messages=[{"role": "system", "content": "0123456789" * 30}, *MESSAGES], max_tokens=3)
    long(parallel.client())
    timings = long(parallel.client()).timings
    assert timings["cache_n"] > 300 and timings["prompt_n"] < 40


def test_what_is_wrong_with_one_request_is_said_to_it(parallel):
    client = parallel.client()
    with complete(**ENDLESS)(client) as stream:
        next(stream)
        for wrong, said in ((complete(prompt="x" * 3000), "2048"), (complete(extra_body={"grammar": "root ::= ("}), "grammar")):
            with pytest.raises(openai.BadRequestError, match=said):
                wrong(parallel.client())
        with pytest.raises(openai.BadRequestError, match="makes no embeddings"):
            client.embeddings.create(model="any", input="x")
        assert next(stream).choices[0].finish_reason is None


def test_a_schema_is_followed_beside_others(parallel):
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY}}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda i: chat(response_format=form, max_tokens=100, seed=i, temperature=1.0)(parallel.client()), range(4)))
    assert all(json.loads(text_of(answer)[0])["city"] in ("Oslo", "Rome") for answer in answers)


def test_a_server_of_several_models_takes_no_n_parallel(start, pair, tmp_path):
    models = [dict(model=str(pair.target), model_alias=name, n_parallel=2, n_ctx=256) for name in ("a", "b")]
    (tmp_path / "config.json").write_text(json.dumps(dict(models=models)))
    with pytest.raises(RuntimeError, match="the server has 2 models, of which one is loaded at a time"):
        start("--config_file", tmp_path / "config.json")


def test_it_stops_at_once_in_the_middle_of_streams(start, pair):
    server = start(*arguments(model=pair.target, n_parallel=3, **OPTIONS))
    streams = [complete(**ENDLESS)(server.client()) for _ in range(4)]
    next(streams[0])
    started = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    assert server.wait(5) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    assert time.monotonic() - started < 3
