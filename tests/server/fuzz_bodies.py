"""Makes bodies of requests: right ones that were damaged here and there, by a seed."""

from __future__ import annotations

import json
import random
from typing import Any, Tuple

TOOLS = [
    {"type": "function", "function": {"name": "a", "parameters": {"type": "object", "properties": {"x": {"type": "boolean"}}}}},
    {"type": "function", "function": {"name": "b", "parameters": {"type": "object", "properties": {"y": {"enum": [1, 2]}}}}},
]
CALL = {"id": "1", "type": "function", "function": {"name": "a", "arguments": '{"x": true}'}}
CHAT = {
    "model": "any",
    "messages": [
        {"role": "system", "content": "Digits."},
        {"role": "user", "content": [{"type": "text", "text": "0123"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
    ],
    "max_tokens": 4,
}
COMPLETION = {"model": "any", "prompt": "the digits: 0123", "max_tokens": 4}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string", "maxLength": 3}, "b": {"type": "array", "items": {"$ref": "#/$defs/c"}, "maxItems": 2}},
    "required": ["a"],
    "$defs": {"c": {"anyOf": [{"type": "integer"}, {"enum": ["x", None]}, {"type": "string", "pattern": "^[a-c]{1,2}$"}]}},
}
SETTINGS = {
    "temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repeat_penalty": 1.1, "presence_penalty": 0.1,
    "frequency_penalty": 0.1, "mirostat_mode": 2, "mirostat_tau": 5.0, "mirostat_eta": 0.1, "seed": 3, "n": 2, "stop": ["1"],
    "stream": True, "stream_options": {"include_usage": True}, "logit_bias": {"5": 1.0}, "min_tokens": 1, "user": "u",
}  # fmt: skip
OF_COMPLETIONS = {"logprobs": 2, "echo": True, "suffix": "!", "best_of": 2, "grammar": 'root ::= ("a" | [0-9]{1,3})+ "."'}
OF_CHATS = {
    "logprobs": True, "top_logprobs": 2, "tools": TOOLS, "tool_choice": "required", "functions": [TOOLS[0]["function"]],
    "function_call": "auto", "response_format": {"type": "json_object", "schema": SCHEMA}, "max_completion_tokens": 4,
    "grammar": "root ::= [0-9]+",
}  # fmt: skip
OTHERS = {
    "/v1/embeddings": {"model": "any", "input": "a"},
    "/extras/tokenize": {"model": "any", "input": "a b"},
    "/extras/tokenize/count": {"input": "a b"},
    "/extras/detokenize": {"model": "any", "tokens": [1, 2]},
}
VALUES = [
    None, True, False, 0, 1, -1, 2, 3.5, -0.5, 1e-30, 1e30, 1e308, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63, 2**64, "", "a", "0",
    "NaN", "Infinity", "\u0000", "\u2028", "😀", "\ud800", "é" * 50, "x" * 5000, [], [[]], [None], ["a", "b"], [0, -1, 2**31], {},
    {"": ""}, {"a": 1}, {"type": "text"}, {"type": "text", "text": "b"}, {"type": "image_url", "image_url": {"url": "file:///a"}},
    {"role": "user"}, {"role": "tool", "content": [{"type": "text", "text": "a"}]}, "required", "auto", "none", "json_object",
    "root ::= ", "root ::= (", "root ::= root", '(("a"?)*)*', {"type": "object"}, {"$ref": "#"}, {"$ref": "#/$defs/c"},
    {"minLength": 5}, {"pattern": "^(a|]$"}, {"enum": []}, {"anyOf": []}, {"type": ["string", "null"]}, {"items": False},
]  # fmt: skip
BYTES = [b"", b"\x00", b"\xff", b"}", b"]", b'"', b",", b"NaN", b"-Infinity", b"1e999", b"[" * 200, b'{"a":' * 200, b"\\ud800"]


def make(rng: random.Random) -> Tuple[str, bytes]:
    """A path and a body."""
    path, request = _right(rng)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        _damage(request, rng)
    body = json.dumps(request, ensure_ascii=rng.random() < 0.8).encode("utf-8", "surrogatepass")
    for _ in range(rng.choice([0, 0, 0, 0, 1, 2])):
        at = rng.randrange(len(body) + 1)
        body = body[:at] + rng.choice(BYTES) + body[at + rng.choice([0, 0, 1, 5]) :]
    return path, body


def _right(rng: random.Random) -> Tuple[str, Any]:
    kind = rng.random()
    if kind < 0.1:
        path = rng.choice(list(OTHERS))
        return path, _copy(OTHERS[path])
    more, start, path = (OF_CHATS, CHAT, "/v1/chat/completions") if kind < 0.6 else (OF_COMPLETIONS, COMPLETION, "/v1/completions")
    choices = {**SETTINGS, **more}
    names = rng.sample(list(choices), rng.choice([0, 1, 1, 2, 3]))
    return path, _copy({**start, **{name: choices[name] for name in names}})


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _damage(value: Any, rng: random.Random) -> None:
    """Changes something, somewhere in an object or list."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys) if keys else None
        inner = value[key] if keys else None
        if isinstance(inner, (dict, list)) and rng.random() < 0.7:
            value = inner
            continue
        break
    kind, new = rng.random(), _copy(rng.choice(VALUES))
    if key is None or kind < 0.15:
        if isinstance(value, dict):
            value[rng.choice(["a", "role", "content", "type", "function", "name", "$ref", "grammar", "é", "\ud800"])] = new
        else:
            value.append(new)
    elif kind < 0.3:
        del value[key]
    elif kind < 0.4 and isinstance(value, list):
        value.extend([value[key]] * rng.choice([1, 3, 200]))
    else:
        value[key] = new
