"""The bodies of requests: how large they may be, and what JSON in them does no harm."""

from __future__ import annotations

import json
import math
from typing import Any, Awaitable, Callable, Dict, List, Optional, Tuple

from starlette.concurrency import run_in_threadpool

from .client import Message, Receive, Send, log_departure
from .errors import BodyTooLarge, WrongRequest

MAX_DEPTH = 100  # of objects and lists in each other: what reads them recurses
MAX_VALUES = 300_000  # more than the tokens of a vocabulary; each wrong one is an error message of its own in memory
MAX_NUMBER = 2**63

Translate = Callable[[Dict[str, Any], Dict[str, Any]], Dict[str, Any]]  # of a scope and a request


class Bodies:
    """ASGI middleware that reads a request's whole body, checks it, and says it in upstream's words.

    `translate(scope, request)` is given every JSON object and returns another one. It may raise what `refuse` answers.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], max_bytes: int, translate: Translate, refuse: Callable[..., Awaitable[None]]
    ) -> None:
        self._app, self._max_bytes, self._translate, self._refuse = app, max_bytes, translate, refuse

    async def __call__(self, scope: Dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        try:
            body = await _read(scope, receive, self._max_bytes)
            if body is None:
                return log_departure(scope)
            # all but the smallest beside the event loop, which has other clients: JSON schemas can be a lot of work
            body = await run_in_threadpool(self._checked, scope, body) if len(body) > 1 << 11 else self._checked(scope, body)
        except Exception as error:  # WrongRequest and what else `translate` raises
            return await self._refuse(error, scope, receive, send)
        await self._app({**scope, "headers": _with_length(scope["headers"], len(body))}, _replay(body, receive), send)

    def _checked(self, scope: Dict[str, Any], body: bytes) -> bytes:
        if not body:
            return body
        request = parse(body)
        if not isinstance(request, dict):
            raise WrongRequest(f"the request's body is a JSON {_json_type(request)}, expected an object")
        translated = self._translate(scope, request)
        return body if translated is request else json.dumps(translated).encode()


async def _read(scope: Dict[str, Any], receive: Receive, max_bytes: int) -> Optional[bytes]:
    """The whole body, or None if the client left."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > max_bytes:
        raise BodyTooLarge(int(declared), max_bytes)
    parts: List[bytes] = []
    n_bytes = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        n_bytes += len(parts[-1])
        if n_bytes > max_bytes:
            raise BodyTooLarge(n_bytes, max_bytes)
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """`receive` whose first message has the whole body. (Others tell of a client that goes away.)"""
    first = True

    async def replay() -> Message:
        nonlocal first
        if not first:
            return await receive()
        first = False
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _with_length(headers: List[Tuple[bytes, bytes]], n_bytes: int) -> List[Tuple[bytes, bytes]]:
    kept = [(name, value) for name, value in headers if name not in (b"content-length", b"transfer-encoding")]
    return [*kept, (b"content-length", str(n_bytes).encode())]


def parse(body: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        WrongRequest: If it is no JSON or no UTF-8, has a number that is none (NaN) or too large, text that is no Unicode,
            more than MAX_VALUES values, or is nested deeper than MAX_DEPTH.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise WrongRequest(f"the request's body is no UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise WrongRequest(f"the request's body is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # of json, or of an int of thousands of digits
        raise error if isinstance(error, WrongRequest) else WrongRequest(f"the request's body is no JSON: {error}") from None
    _check(value, has_escapes=b"\\u" in body)
    return value


def _no_number(name: str) -> None:
    raise WrongRequest(f"the request's body has the number {name}, expected finite numbers")


def _check(value: Any, has_escapes: bool) -> None:
    level, n_values, depth = [value], 1, 0
    while level:
        below: List[Any] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one.values())
                if has_escapes:
                    below.extend(one)
            elif isinstance(one, list):
                below.extend(one)
            elif isinstance(one, str):
                if has_escapes:
                    _check_text(one)
            elif (isinstance(one, float) and not math.isfinite(one)) or (isinstance(one, int) and abs(one) > MAX_NUMBER):
                raise WrongRequest("the request's body has a number that is too large")
        n_values += len(below)
        depth += 1
        if n_values > MAX_VALUES:
            raise WrongRequest(f"the request's body has more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise WrongRequest(f"the request's body is nested deeper than {MAX_DEPTH} levels")
        level = below


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise WrongRequest(f"a text in the request's body is no Unicode: {error.reason} at character {error.start}") from None


def _json_type(value: Any) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
