"""Requests in newer words, without a server."""

import asyncio
import json

import pytest

from llama_dflash.server.requests import NewerWords, in_upstreams_words

ONE = [{"type": "function", "function": {"name": "look_up"}}]
CHOSEN = {"type": "function", "function": {"name": "look_up"}}


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'{"max_tokens":  3}', b"\xff"])
def test_what_has_no_newer_word_is_left_as_it_is(body):
    assert in_upstreams_words(body) == body


@pytest.mark.parametrize(
    "said, meant",
    [
        ({"max_completion_tokens": 3}, {"max_tokens": 3}),
        ({"max_completion_tokens": 3, "max_tokens": 2}, {"max_tokens": 2}),
        ({"response_format": None}, {"response_format": None}),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        ({"tool_choice": "required", "tools": ONE}, {"tool_choice": CHOSEN, "tools": ONE}),
        ({"tool_choice": "required", "tools": ONE * 2}, {"tool_choice": "required", "tools": ONE * 2}),
        ({"tool_choice": "required", "tools": [1]}, {"tool_choice": "required", "tools": [1]}),
        ({"tool_choice": "auto", "tools": ONE}, {"tool_choice": "auto", "tools": ONE}),
        ({"messages": [{"role": "developer"}, {"role": "user"}]}, {"messages": [{"role": "system"}, {"role": "user"}]}),
        ({"messages": 3, "max_completion_tokens": 3}, {"messages": 3, "max_completion_tokens": 3}),
    ],
)
def test_newer_words_are_translated(said, meant):
    assert json.loads(in_upstreams_words(json.dumps(said).encode())) == meant


def test_a_body_may_come_in_pieces_and_a_client_may_go_away():
    seen = []

    async def app(scope, receive, send):
        seen.extend([await receive(), await receive()])

    def messages(*pieces):
        left = [*pieces, {"type": "http.disconnect"}]

        async def receive():
            return left.pop(0)

        return receive

    scope = {"type": "http", "path": "/v1/chat/completions"}
    parts = [b'{"max_completion_tokens"', b": 5", b"}"]
    pieces = [{"type": "http.request", "body": part, "more_body": part != b"}"} for part in parts]
    asyncio.run(NewerWords(app)(scope, messages(*pieces), None))
    assert json.loads(seen[0]["body"]) == {"max_tokens": 5} and not seen[0]["more_body"]
    assert seen[1] == {"type": "http.disconnect"}
