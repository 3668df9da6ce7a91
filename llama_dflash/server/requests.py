"""Requests in words of OpenAI's API that today's clients send and llama_cpp.server does not know, or ignores."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Awaitable, Callable, Dict, List, Optional

import llama_cpp.server.types as upstream
from pydantic import BaseModel, Field, PrivateAttr, model_validator

Message = Dict[str, Any]
Receive = Callable[[], Awaitable[Message]]

_n_choices = Field(default=1, ge=1, le=128, description="How many texts to write: one after the other.")


class WrongRequest(ValueError):
    """A request that can't be answered, as only the model knows."""


class StreamOptions(BaseModel):
    include_usage: Optional[bool] = Field(default=False, description="End a stream with a chunk that says its usage.")


class ChatCompletionRequest(upstream.CreateChatCompletionRequest):
    n: Optional[int] = _n_choices
    stream_options: Optional[StreamOptions] = None

    def model_dump(self, **how: Any) -> Dict[str, Any]:
        """What upstream's route calls the model with: `n`, which it takes out, under another name."""
        return {**super().model_dump(**how), "n_choices": self.n or 1}


class CompletionRequest(upstream.CreateCompletionRequest):
    n: Optional[int] = _n_choices
    stream_options: Optional[StreamOptions] = None

    _prompts: List[str] = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> CompletionRequest:
        if "best_of" in self.model_fields_set and (self.best_of or 1) != (self.n or 1):
            raise ValueError(
                f"best_of is {self.best_of} and n is {self.n}: this server does not choose among texts, expected the same "
                "number twice or no best_of. Ask for n texts and choose among them"
            )
        self._prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt or [""]
        self.prompt = self._prompts[0]  # upstream's route refuses several
        return self

    def model_dump(self, **how: Any) -> Dict[str, Any]:
        """What upstream's route calls the model with: all prompts, and `n`, which it takes out, under another name."""
        return {**super().model_dump(**how), "n_choices": self.n or 1, "prompts": self._prompts}


def teach_upstream() -> None:
    """Makes upstream's routes, which are defined when llama_cpp.server.app is imported, take these requests."""
    upstream.CreateCompletionRequest = CompletionRequest  # type: ignore[misc]
    upstream.CreateChatCompletionRequest = ChatCompletionRequest  # type: ignore[misc]


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
    - role "developer" is "system"
    """
    try:
        request = json.loads(body)
        words = {"response_format", "max_completion_tokens", "tool_choice"} & request.keys()
        developers = [m for m in request.get("messages") or [] if isinstance(m, dict) and m.get("role") == "developer"]
    except (ValueError, AttributeError, TypeError):
        return body
    if not words and not developers:
        return body
    for message in developers:
        message["role"] = "system"
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
