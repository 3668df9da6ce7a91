"""Grammars and JSON schemas that clients send: no one of them stops the server, or keeps others waiting."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from asking import EXACT, MESSAGES, chat, complete, streamed, text_of
from servers import HTTP

WRONG = {
    "unfinished": "root ::= (",
    "left recursion": 'root ::= root "a" | "b"',
    "left recursion behind what may be empty": 'root ::= nothing root "x" | "y"\nnothing ::= also-nothing\nalso-nothing ::= ""',
    "no root": 'a ::= "b"',
    "undefined": "root ::= other",
    "huge repetition": 'root ::= "a"{100000}',
    "many repetitions": "root ::= " + '"a"{2000} ' * 2000,
    "no number": 'root ::= "a"{99999999999999999999999}',
    "deep": "root ::= " + "(" * 20000 + '"a"' + ")" * 20000,
    "zero byte": 'root ::= "a"\0',
    "spaces": "  ",
    "unknown token": "root ::= <no-such-token>",
}
# right ones, that nobody can go on with for long
HOPELESS = {
    "ways that double": 'root ::= s\ns ::= [0-9] s a | [0-9] s b | [0-9]\na ::= "x"\nb ::= "y"',
    "a token that there is not": "root ::= [0-9] <[999999]>",
    "a circle": "root ::= [0-9] a\na ::= b\nb ::= a",
}
AMBIGUOUS = "root ::= (a|a|a|a)*\na ::= [0-9] | [0-9] | [0-9]"


def with_grammar(grammar, **request):
    return complete(extra_body={**EXACT, "grammar": grammar}, **request)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_grammar_is_the_clients_error(drafted, what, stream):
    with pytest.raises(openai.APIError, match="the grammar") as error:
        streamed(with_grammar(WRONG[what], stream=True))(drafted.client()) if stream else with_grammar(WRONG[what])(drafted.client())
    assert error.value.type == "invalid_request_error" and error.value.param == "grammar"
    assert isinstance(error.value, openai.BadRequestError) or what == "unknown token"  # which a model has to be asked about
    assert complete(max_tokens=5)(drafted.client()).choices[0].text


@pytest.mark.parametrize("which", ["plain", "drafted"])
@pytest.mark.parametrize("what", HOPELESS)
def test_a_grammar_that_nobody_can_follow_ends_in_an_error_soon(request, which, what):
    server = request.getfixturevalue(which)
    started = time.monotonic()
    with pytest.raises(openai.BadRequestError, match="the grammar can't be followed"):
        with_grammar(HOPELESS[what], max_tokens=60)(server.client())
    with pytest.raises(openai.APIError, match="the grammar can't be followed"):
        streamed(with_grammar(HOPELESS[what], max_tokens=60, stream=True))(server.client())
    assert time.monotonic() - started < 20
    assert complete(max_tokens=5)(server.client()).choices[0].text


def test_an_ambiguous_grammar_is_followed(same):
    answer = same(with_grammar(AMBIGUOUS), text_of)
    assert answer.choices[0].text.isdigit() and len(answer.choices[0].text) == 40


def test_health_answers_whatever_a_grammar_costs(drafted):
    def ask(grammar):
        with pytest.raises(openai.APIError):
            with_grammar(grammar, max_tokens=60)(drafted.client())

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask, g) for g in [HOPELESS["ways that double"]] * 3 + [WRONG["many repetitions"]] * 5]
        slowest = 0.0
        while not all(one.done() for one in asked):
            started = time.monotonic()
            assert HTTP.get(f"{drafted.url}/health", timeout=10).json() == {"status": "ok"}
            slowest = max(slowest, time.monotonic() - started)
        [one.result() for one in asked]
    assert slowest < 2


# ---------------------------------------------------------------- JSON schemas

DEEP = {"type": "integer"}
for _ in range(40):
    DEEP = {"type": "array", "items": DEEP}
CIRCLE = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}, "maxItems": 1}}}


@pytest.mark.parametrize(
    "schema, said",
    [
        ({"type": "string", "minLength": 10**9}, "a repetition of 1000000000"),
        ({"type": "array", "items": {"type": "null"}, "minItems": 3, "maxItems": 2}, "3 items or more, and 2 at most"),
        ({"anyOf": [{"type": "null"}] * 20000}, "more than 10000 parts"),
    ],
)
def test_a_schema_that_is_too_large_is_the_clients_error(drafted, schema, said):
    with pytest.raises(openai.BadRequestError, match=said):
        chat(response_format={"type": "json_object", "schema": schema})(drafted.client())


@pytest.mark.parametrize(
    "schema", [DEEP, CIRCLE, {"type": "string", "pattern": "^a}$"}, {"type": "string", "pattern": "^(a?)*$"}, {"enum": ["\b\\"]}, 3]
)
def test_an_odd_schema_gets_an_answer(drafted, schema):
    answer = chat(response_format={"type": "json_object", "schema": schema}, max_tokens=20)(drafted.client())
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_text_of_an_enum_is_written_as_it_is(drafted):
    for text in ("a\\b", "é\n", 'say "x"'):
        answer = chat(response_format={"type": "json_object", "schema": {"enum": [text]}}, max_tokens=40)(drafted.client())
        assert json.loads(answer.choices[0].message.content) == text


def test_a_long_string_may_be_long(drafted):
    schema = {"type": "string", "minLength": 3, "maxLength": 5000}
    answer = chat(response_format={"type": "json_object", "schema": schema}, messages=MESSAGES, max_tokens=60)(drafted.client())
    assert answer.choices[0].message.content.startswith('"')
