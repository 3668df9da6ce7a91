"""Whether the client of a request is still there: who waits for an answer that is not streamed sends nothing more."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any, Awaitable, Callable, Dict, Optional

Message = Dict[str, Any]
Receive = Callable[[], Awaitable[Message]]

_gone: contextvars.ContextVar[Optional[threading.Event]] = contextvars.ContextVar("_gone", default=None)


class ClientWentAway(Exception):
    """Ends a generation whose answer nobody will read."""


def check_client() -> Callable[[], None]:
    """A function that raises ClientWentAway if the client of the present request has gone away; for any thread."""
    gone = _gone.get()

    def check() -> None:
        if gone is not None and gone.is_set():
            raise ClientWentAway("the client went away before its answer was written")

    return check


class WatchClients:
    """ASGI middleware that listens to a client while its request is worked on."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Dict[str, Any], receive: Receive, send: Callable[[Message], Awaitable[None]]) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/completions"):
            return await self._app(scope, receive, send)
        gone, heard = threading.Event(), asyncio.Queue()
        _gone.set(gone)

        async def listen() -> None:
            while not gone.is_set():
                message = await receive()
                if message["type"] == "http.disconnect":
                    gone.set()
                heard.put_nowait(message)

        async def receive_heard() -> Message:
            return {"type": "http.disconnect"} if gone.is_set() and heard.empty() else await heard.get()

        listener = asyncio.create_task(listen())
        try:
            await self._app(scope, receive_heard, send)
        finally:
            listener.cancel()
