"""Bad requests are the client's error, told in a moment; large ones are not read."""

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from asking import MESSAGES, chat, complete
from servers import HTTP, KEY

JSON = {"Content-Type": "application/json"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}


def post(server, body, path="/v1/completions", **headers):
    return HTTP.post(server.url + path, content=body, headers={**JSON, **server.headers, **headers}, timeout=20)


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


# ---------------------------------------------------------------- 400


@pytest.mark.parametrize(
    "request_, said, param",
    [
        (complete(logit_bias={"999999": 1}), "0 to 319", "logit_bias"),
        (complete(logit_bias={"320": 1}), "0 to 319", "logit_bias"),
        (complete(logit_bias={"-1": 1}), "'-1'", "logit_bias"),
        (complete(logit_bias={"one": 1}), "'one'", "logit_bias"),
        (complete(logit_bias={"\u0661": 1}), "numbers of tokens", "logit_bias"),
        (complete(logit_bias={"5": "much"}), "expected a number", "logit_bias"),
        (chat(logit_bias={"999999": 1}), "0 to 319", "logit_bias"),
        (chat(messages=[{"role": "user", "content": [IMAGE]}]), "reads text only", "messages.0.content.0"),
        (chat(messages=[{"role": "user", "content": [{"type": "poem"}]}]), "no text", "messages.0.content.0"),
        (chat(tools=[{"type": "function", "function": {"name": "a"}}], tool_choice={"type": "function", "function": {"name": "b"}}),
         "'b' not found in tools", "tool_choice"),
        (chat(tool_choice="required"), "no tools", "tool_choice"),
        (complete(extra_body={"top_k": 2**40}), "less than or equal", "top_k"),
        (complete(temperature="NaN"), "finite number", "temperature"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_said(drafted, request_, said, param, stream):
    before = drafted.log.count("Traceback")
    arguments = request_.__closure__[0].cell_contents
    ask = (chat if "messages" in arguments else complete)(**arguments, stream=stream)
    with pytest.raises(openai.APIError, match=re.escape(said)) as error:
        list(ask(drafted.client()))
    assert error.value.type == "invalid_request_error" and error.value.param == param
    assert stream or isinstance(error.value, openai.BadRequestError)
    assert drafted.log.count("Traceback") == before


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/extras/tokenize"])
@pytest.mark.parametrize(
    "body, said",
    [
        (b'{"temperature": NaN}', "the number NaN"),
        (b'{"temperature": 1e400}', "too large"),
        (b'{"prompt": "\xff"}', "no UTF-8"),
        (b'{"prompt": "\\ud800", "messages": [], "input": ""}', "no Unicode"),
        (b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested deeper"),
        (b'{"messages": ' + b'[{"content":' * 5000 + b"1" + b"}]" * 5000 + b"}", "nested deeper"),
        (b"[1, 2]", "expected an object"),
        (b"{", "no JSON"),
    ],
)
def test_a_body_that_would_do_harm_is_the_clients_error(drafted, path, body, said):
    before = drafted.log.count("Traceback")
    assert said in error_of(post(drafted, body, path), 400)["message"]
    assert drafted.log.count("Traceback") == before


def test_a_model_that_does_not_exist_is_not_found(strict, drafted):
    for ask in (complete, chat):
        with pytest.raises(openai.NotFoundError, match="'other' does not exist") as error:
            ask(model="other")(strict.client(KEY))
        assert error.value.code == "model_not_found"
        assert ask(model="one", max_tokens=2)(strict.client(KEY)).model == "one"
    with pytest.raises(openai.NotFoundError):
        list(complete(model="other", stream=True)(strict.client(KEY)))
    assert error_of(post(strict, b'{"input": "a", "model": "other"}', "/v1/embeddings"), 404)
    assert post(strict, b'{"prompt": "0", "max_tokens": 1}').status_code == 200
    assert complete(model="other", max_tokens=2)(drafted.client()), "with --accept_any_model"


def test_tokens_are_those_of_the_model(drafted):
    def detokenize(*tokens):
        return post(drafted, json.dumps({"tokens": tokens}).encode(), "/extras/detokenize")

    assert detokenize(*b"0123").json() == {"text": "0123"} and detokenize(255).json() == {"text": "\ufffd"}
    for token in (320, 999999, -1, 2**31, 2**62):
        assert error_of(detokenize(1, token), 400)["param"] == "tokens.1"
    answer = post(drafted, b'{"input": "0123"}', "/extras/tokenize/count")
    assert answer.json() == {"count": 4}


# ---------------------------------------------------------------- 413


def test_a_large_body_is_refused_before_it_is_sent(strict):
    with socket.create_connection(("127.0.0.1", int(strict.url.rsplit(":", 1)[1])), timeout=10) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100000000\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_large_body_is_refused_while_it_comes(strict):
    sent = 0

    def parts():
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b"x" * 20_000

    try:
        answer = HTTP.post(f"{strict.url}/v1/completions", content=parts(), headers={**JSON, **strict.headers}, timeout=20)
        assert "--max_body_mb" in error_of(answer, 413)["message"]
    except httpx.TransportError:  # the connection was closed while we sent
        pass
    assert sent < 1000
    assert complete(model="one", max_tokens=2)(strict.client(KEY))


def test_a_body_below_the_limit_is_read(strict):
    with pytest.raises(openai.BadRequestError, match="maximum context length") as error:
        complete(model="one", prompt="0" * 200_000)(strict.client(KEY))
    assert error.value.code == "context_length_exceeded"


def test_a_prompt_of_the_largest_body_is_answered_soon(drafted):
    body = json.dumps({"prompt": "0123456789" * 3_000_000}).encode()
    started = time.monotonic()
    assert error_of(post(drafted, body), 400)["code"] == "context_length_exceeded"
    assert time.monotonic() - started < 10


def test_health_answers_while_a_long_text_is_tokenized(drafted):
    body = json.dumps({"input": "0123456789 " * 300_000}).encode()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(post, drafted, body, "/extras/tokenize/count")
        slowest = 0.0
        while not asked.done():
            started = time.monotonic()
            assert HTTP.get(f"{drafted.url}/health", timeout=20).status_code == 200
            slowest = max(slowest, time.monotonic() - started)
    assert asked.result().json()["count"] > 1_000_000 and slowest < 1


def test_a_body_of_a_hundred_thousand_wrong_things_names_one(drafted):
    for wrong in ({"messages": [0] * 100_000}, {"messages": MESSAGES, "stop": [0] * 100_000}, {"messages": MESSAGES, "tools": [0] * 1000}):
        answer = post(drafted, json.dumps(wrong).encode(), "/v1/chat/completions")
        assert len(error_of(answer, 400)["message"]) < 500
