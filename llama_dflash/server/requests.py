"""Requests in newer words of OpenAI's API, which today's clients send and llama_cpp.server does not know."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Awaitable, Callable, Dict

Message = Dict[str, Any]
Receive = Callable[[], Awaitable[Message]]


class NewerWords:
    """ASGI middleware that says a chat request in upstream's words."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Dict[str, Any], receive: Receive, send: Callable[[Message], Awaitable[None]]) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/chat/completions"):
            receive = _with_upstreams_words(receive)
        await self._app(scope, receive, send)


def _with_upstreams_words(receive: Receive) -> Receive:
    """`receive` whose first message has the whole body, translated. (Others tell of a client that goes away.)"""
    first = True

    async def receive_translated() -> Message:
        nonlocal first
        message = await receive()
        if not first or message["type"] != "http.request":
            return message
        first = False
        parts = [message.get("body", b"")]
        while message.get("more_body"):
            message = await receive()
            if message["type"] != "http.request":
                return message
            parts.append(message.get("body", b""))
        return {"type": "http.request", "body": in_upstreams_words(b"".join(parts)), "more_body": False}

    return receive_translated


def in_upstreams_words(body: bytes) -> bytes:
    """The body of a chat request; unchanged if it has none of the newer words, or is no JSON object.

    - response_format {"type": "json_schema", "json_schema": {"schema": S}} is {"type": "json_object", "schema": S}
    - max_completion_tokens is max_tokens
    - tool_choice "required", where there is one tool, is the choice of that tool
    """
    try:
        request = json.loads(body)
        words = {"response_format", "max_completion_tokens", "tool_choice"} & request.keys()
    except (ValueError, AttributeError):
        return body
    if not words:
        return body
    response_format = request.get("response_format")
    if isinstance(response_format, dict) and isinstance(response_format.get("json_schema"), dict):
        request["response_format"] = {"type": "json_object", "schema": response_format["json_schema"].get("schema")}
    if "max_completion_tokens" in request:
        n_tokens = request.pop("max_completion_tokens")
        if request.get("max_tokens") is None:
            request["max_tokens"] = n_tokens
    tools = request.get("tools")
    if request.get("tool_choice") == "required" and isinstance(tools, list) and len(tools) == 1:
        with contextlib.suppress(KeyError, TypeError):  # upstream says what is wrong with the tool
            request["tool_choice"] = {"type": "function", "function": {"name": tools[0]["function"]["name"]}}
    return json.dumps(request).encode()
