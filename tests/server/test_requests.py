"""What goes wrong with a request, or goes on beside it, harms no other one."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

PROMPTS = [f"the digits: {i}{i * 3}{i * 7}" for i in range(8)]


def ask(server, prompt, n=40, stream=False):
    request = dict(model="any", prompt=prompt, temperature=0, max_tokens=n, extra_body={"repeat_penalty": 1.0})
    answer = server.client().completions.create(stream=stream, **request)
    return "".join(chunk.choices[0].text for chunk in answer) if stream else answer.choices[0].text


def test_concurrent_requests_get_the_answers_that_they_get_alone(plain, drafted):
    expected = [ask(plain, prompt) for prompt in PROMPTS]
    with ThreadPoolExecutor(len(PROMPTS)) as threads:
        answers = [threads.submit(ask, drafted, prompt, stream=i % 2 == 1) for i, prompt in enumerate(PROMPTS)]
        assert [answer.result() for answer in answers] == expected


def generations(server):
    """The tokens of every generation that the server's log tells of."""
    return [int(n) for n in re.findall(r"Llama\.generate: (\d+) tokens in \d+ rounds", server.log)]


def test_a_client_that_goes_away_ends_its_generation_and_harms_no_other(plain, drafted):
    expected = [ask(plain, prompt) for prompt in PROMPTS[:2]]
    for prompt, text in zip(PROMPTS, expected):
        before = len(generations(drafted))
        request = dict(model="any", prompt=prompt, temperature=0, max_tokens=2000, extra_body={"repeat_penalty": 1.0})
        with drafted.client().completions.create(stream=True, **request) as stream:
            start = "".join(next(stream).choices[0].text for _ in range(5))
        assert ask(drafted, prompt) == text and text.startswith(start)
        abandoned, answered = generations(drafted)[before:]
        assert abandoned < 1500 and answered >= 39


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_larger_than_the_context_is_an_error_of_openais_form(plain, drafted, stream):
    with pytest.raises(openai.APIError) as error:
        ask(drafted, "x" * 3000, stream=stream)
    assert error.value.code == "context_length_exceeded" and error.value.type == "invalid_request_error"
    assert "maximum context length is 2048 tokens" in str(error.value)
    assert stream or isinstance(error.value, openai.BadRequestError)
    assert ask(drafted, PROMPTS[0]) == ask(plain, PROMPTS[0])


def test_a_text_may_fill_the_context(plain, drafted):
    prompt = "0123456789 " * 183
    text = ask(drafted, prompt, n=3000)
    assert text == ask(plain, prompt, n=3000) and len(prompt) + len(text) >= 2040


def test_an_error_before_a_stream_begins_is_said_in_it(drafted):
    request = dict(
        messages=[{"role": "user", "content": "0"}],
        tools=[{"type": "function", "function": {"name": "a", "parameters": {}}}],
        tool_choice={"type": "function", "function": {"name": "b"}},
    )
    with pytest.raises(openai.APIError, match="'b' not found in tools"):
        list(drafted.client().chat.completions.create(model="any", stream=True, **request))
    assert ask(drafted, PROMPTS[1], n=5)


def test_health_needs_nothing_and_does_not_wait(drafted):
    request = dict(model="any", prompt=PROMPTS[4], temperature=0, max_tokens=900)
    with drafted.client().completions.create(stream=True, **request) as stream:
        next(stream)
        started = time.monotonic()
        assert drafted.client().get("/health", cast_to=object) == {"status": "ok"}
        assert drafted.client().get("/../health", cast_to=object) == {"status": "ok"}
        assert time.monotonic() - started < 5
