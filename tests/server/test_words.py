"""Requests in newer words and bodies of all kinds, without a server."""

import asyncio
import json

import pytest

from llama_dflash.grammars import GrammarError
from llama_dflash.messages import MessageError
from llama_dflash.server.bodies import MAX_DEPTH, MAX_VALUES, Bodies, parse
from llama_dflash.server.client import WatchClients
from llama_dflash.server.errors import WrongRequest, refuse
from llama_dflash.server.media import MediaHosts
from llama_dflash.server.requests import Words, in_upstreams_words
from llama_dflash.server.settings import ModelSettings
from llama_dflash.server.tools import as_tool_call, schema_of_call

ONE = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}]
BARE = [{"type": "function", "function": {"name": "look_up", "parameters": None}}]
FILLED = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]
CHOSEN = {"type": "function", "function": {"name": "look_up"}}


@pytest.mark.parametrize(
    "said, meant",
    [
        ({"max_tokens": 3}, {"max_tokens": 3}),
        ({"max_completion_tokens": 3}, {"max_tokens": 3}),
        ({"max_completion_tokens": 3, "max_tokens": 2}, {"max_tokens": 2}),
        ({"response_format": None}, {"response_format": None}),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        ({"tool_choice": "required", "tools": ONE}, {"tool_choice": CHOSEN, "tools": ONE}),
        ({"tool_choice": "required", "tools": ONE * 2}, {"tool_choice": "required", "tools": ONE * 2}),
        ({"tool_choice": "required", "tools": [1]}, {"tool_choice": "required", "tools": [1]}),
        ({"tool_choice": "auto", "tools": ONE}, {"tool_choice": "auto", "tools": ONE}),
        ({"tools": BARE}, {"tools": FILLED}),
        ({"messages": [{"role": "developer"}, {"role": "user"}]}, {"messages": [{"role": "system"}, {"role": "user"}]}),
        ({"messages": 3, "max_completion_tokens": 3}, {"messages": 3, "max_tokens": 3}),
    ],
)
def test_newer_words_are_translated(said, meant):
    before = json.dumps(said)
    assert in_upstreams_words(said) == meant
    assert json.dumps(said) == before


# ---------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    "body, said",
    [
        (b"{", "no JSON"),
        (b"\xff{}", "no UTF-8: invalid start byte at byte 0"),
        (b'{"a": NaN}', "the number NaN"),
        (b'{"a": [-Infinity]}', "the number -Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 30 + b"}", "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a": "\\ud800"}', "no Unicode"),
        (b'{"\\udfff": 1}', "no Unicode"),
        (b"[" * 5000 + b"]" * 5000, "nested deeper"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "nested deeper"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested deeper"),
        (b"[" + b"0," * MAX_VALUES + b"0]", "more than"),
    ],
)
def test_json_that_would_do_harm_is_refused(body, said):
    with pytest.raises(WrongRequest, match=said):
        parse(body)


def test_other_json_is_read():
    text = '{"a": [1, 2.5, true, null, "\\u00e9\\ud83d\\ude00 \u00e9"], "b": %s}' % ("[" * 90 + "]" * 90)
    assert parse(text.encode()) == json.loads(text)


# ---------------------------------------------------------------- bodies


def ask(app, *messages, headers=(), path="/v1/completions"):
    """The status and body of an answer to a request whose body comes in these messages."""
    left, sent = [*messages, {"type": "http.disconnect"}], []

    async def receive():
        return left.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers), "client": ("127.0.0.1", 5)}
    asyncio.run(app(scope, receive, send))
    return (sent[0]["status"], json.loads(sent[1]["body"])) if sent else None


def part(body, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


def bodies(app, max_bytes=100, translate=lambda scope, request: {**request, "seen": True}):
    return Bodies(app, max_bytes, translate, refuse)


def test_a_body_may_come_in_pieces_and_a_client_may_go_away():
    seen = []

    async def app(scope, receive, send):
        seen.extend([await receive(), await receive(), dict(scope["headers"])])

    ask(bodies(app), part(b'{"max'), part(b'": 5'), part(b"}", more=False), headers=[(b"transfer-encoding", b"chunked")])
    body = seen[0]["body"]
    assert json.loads(body) == {"max": 5, "seen": True} and not seen[0]["more_body"]
    assert seen[1] == {"type": "http.disconnect"}
    assert seen[2] == {b"content-length": str(len(body)).encode()}


async def nobody(scope, receive, send):
    raise AssertionError("the request got through")


def test_a_body_that_is_too_large_is_refused_by_its_length_or_while_it_comes():
    assert ask(bodies(nobody), headers=[(b"content-length", b"101")])[0] == 413
    status, body = ask(bodies(nobody), *[part(b"x" * 60)] * 3)
    assert status == 413 and "--max_body_mb" in body["error"]["message"]


def test_a_client_that_leaves_before_its_body_is_complete_is_not_answered():
    assert ask(bodies(nobody), part(b"{")) is None


@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b'"text"'])
def test_a_body_is_an_object(body):
    status, said = ask(bodies(nobody), part(body, more=False))
    assert status == 400 and "expected an object" in said["error"]["message"]


# ---------------------------------------------------------------- checks that need no model

MODELS = {"one": ModelSettings(model="one.gguf"), "eye": ModelSettings(model="eye.gguf", clip_model_path="clip.gguf")}
CHAT = "/v1/chat/completions"
IMAGE = {"type": "image_url", "image_url": {"url": "https://images.example/a.png"}}


def words(any_model=False, hosts=()):
    media = MediaHosts()
    media.allow(hosts, 1000)
    return Words(MODELS, any_model, media)


def translated(request, path=CHAT, **how):
    return words(**how)({"path": path}, request)


def shown(*content, model="eye", role="user"):
    return {"model": model, "messages": [{"role": role, "content": list(content)}]}


def test_a_request_names_a_model_that_there_is_or_none():
    for model in ("one", "eye", None):
        assert translated({"model": model}) == {"model": model}
    with pytest.raises(WrongRequest, match="'two' does not exist") as error:
        translated({"model": "two"})
    assert (error.value.status, error.value.code) == (404, "model_not_found")
    assert translated({"model": "two"}, any_model=True) == {"model": "two"}


@pytest.mark.parametrize(
    "path, request_, error, said",
    [
        ("/v1/completions", {"prompt": [1, 2]}, WrongRequest, "prompt.0: found 1"),
        ("/v1/completions", {"stop": ["a", None]}, WrongRequest, "stop.1: found None"),
        ("/v1/completions", {"logit_bias": {"5": "x"}}, WrongRequest, "logit_bias.5: found 'x'"),
        ("/v1/completions", {"logit_bias": {"5": 1e30}}, WrongRequest, "logit_bias.5: found 1e\\+30"),
        ("/v1/completions", {"grammar": "root ::= ("}, GrammarError, "the grammar is wrong"),
        (CHAT, {"grammar": "a ::= b"}, GrammarError, "the grammar is wrong"),
        (CHAT, {"messages": [3]}, MessageError, "messages.0: found a int"),
        (CHAT, {"messages": {}}, MessageError, "messages: found a dict"),
        (CHAT, {"messages": [{"content": "a"}]}, MessageError, "messages.0: its role is None"),
        (CHAT, {"messages": [{"role": "user", "content": 3}]}, MessageError, "messages.0.content: found a int"),
        (CHAT, shown({"type": "poem"}), MessageError, "found a part that is no text"),
        (CHAT, shown(IMAGE, model="one"), MessageError, "this model reads text only"),
        (CHAT, shown(IMAGE, role="tool"), MessageError, "users alone"),
        (CHAT, shown(IMAGE), WrongRequest, "--allowed_media_hosts"),
        (CHAT, shown({"type": "image_url", "image_url": 3}), WrongRequest, "expected a text"),
        (CHAT, shown({"type": "image_url", "image_url": "file:///etc/passwd"}), WrongRequest, "not fetched"),
        (CHAT, {"tool_choice": "required"}, WrongRequest, "no tools"),
        (CHAT, {"tool_choice": {"function": {"name": "b"}}, "tools": ONE}, WrongRequest, "'b' not found in tools"),
        (CHAT, {"tool_choice": "required", "tools": 3}, WrongRequest, "no tools"),
        (CHAT, {"tools": [3]}, WrongRequest, "tools.0: found 3"),
        (CHAT, {"tools": ONE * 2000}, WrongRequest, "tools: found 2000"),
        (CHAT, {"response_format": {"schema": {"type": "string", "minLength": 10**9}}}, GrammarError, "repetition"),
    ],
)
def test_what_is_wrong_with_a_request_is_said_before_it_waits(path, request_, error, said):
    with pytest.raises(error, match=said):
        translated(request_, path)


def test_what_is_no_list_of_tools_is_left_to_upstream_to_refuse():
    for tools in (1, "a", {"a": 1}, None):
        assert translated({"tools": tools}) == {"tools": tools}


def test_images_are_taken_from_the_request_and_from_hosts_that_are_allowed():
    data = {"type": "image_url", "image_url": "data:image/png;base64,QUJD"}
    assert translated(shown(data))["messages"] == shown(data)["messages"]
    assert translated(shown(IMAGE), hosts=["images.example"])["messages"] == shown(IMAGE)["messages"]
    for url in ("https://images.example.evil/a", "ftp://images.example/a", "https://[", "//images.example/a"):
        with pytest.raises(WrongRequest, match="not fetched"):
            translated(shown({"type": "image_url", "image_url": url}), hosts=["images.example"])


# ---------------------------------------------------------------- calls of one of several tools


def test_the_schema_of_a_call_has_each_tools_own_arguments():
    place = {"$defs": {"P": {"type": "integer"}}, "type": "object", "properties": {"p": {"$ref": "#/$defs/P"}}}
    schema = schema_of_call([{"function": {"name": "a", "parameters": place}}, {"function": {"name": "b", "parameters": {}}}])
    assert schema["$defs"]["tool_0"]["properties"]["p"]["$ref"] == "#/$defs/tool_0/$defs/P"
    assert schema["$defs"]["tool_0"]["$defs"]["P"] == {"type": "integer"}
    assert [one["properties"]["name"] for one in schema["anyOf"]] == [{"enum": ["a"]}, {"enum": ["b"]}]


def answer_of(text, reason="stop"):
    return {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}]}


@pytest.mark.parametrize(
    "text, reason, name, arguments, ends",
    [
        ('{"name": "a", "arguments": {"x": [1, "é"]}}', "stop", "a", '{"x": [1, "é"]}', "tool_calls"),
        ('{"name" : "a\\"b", "arguments": {"x": [1, ', "length", 'a"b', '{"x": [1, ', "length"),
    ],
)
def test_a_call_in_a_text_becomes_a_tool_call(text, reason, name, arguments, ends):
    choice = as_tool_call(answer_of(text, reason))["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"], choice["finish_reason"]) == ({"name": name, "arguments": arguments}, ends)
    assert choice["message"]["content"] is None


def test_a_text_that_was_cut_before_it_named_a_tool_stays_a_text():
    assert as_tool_call(answer_of('{"name": "a', "length")) == answer_of('{"name": "a', "length")


# ---------------------------------------------------------------- clients that leave


def watch(app, *heard):
    """Whether the log was told that a client left, which is heard to do these things."""
    told = []

    async def run():
        left, answered = list(heard), asyncio.Event()

        async def receive():
            if not left:
                await answered.wait()  # as uvicorn, which says so of every client once it has its answer
                return {"type": "http.disconnect"}
            return left.pop(0)

        async def send(message):
            answered.set()
            await asyncio.sleep(0.01)

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [], "client": ("127.0.0.1", 5)}
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("llama_dflash.server.client.log_departure", told.append)
            await WatchClients(app)(scope, receive, send)

    asyncio.run(run())
    return bool(told)


async def answering(scope, receive, send):
    await receive()
    await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b""})


def test_a_client_that_got_its_answer_did_not_leave():
    assert not watch(answering, part(b"", more=False))
    assert watch(answering, part(b"", more=False), {"type": "http.disconnect"})
