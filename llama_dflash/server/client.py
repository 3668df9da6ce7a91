"""The client of a request: is it still there, and what it costs once it is not. And the end of the server, which is to a
generation what the end of its client is."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
from typing import Any, Awaitable, Callable, Dict, Iterator, Optional, Set

Message = Dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("uvicorn.error")


class ClientWentAway(Exception):
    """Ends a generation whose answer nobody will read."""


class ServerStops(Exception):
    """Ends a generation because the server was told to stop."""


class Client:
    """Who waits for an answer. `check` may be called in any thread, everything else in the event loop's."""

    def __init__(self, model: Optional[str] = None) -> None:
        self.model = model  # that it asks for
        self._gone = threading.Event()
        self._wake: Callable[[], None] = lambda: None

    def check(self) -> None:
        """Raises ClientWentAway or ServerStops if an answer would be of no use."""
        if self._gone.is_set():
            raise ClientWentAway("the client went away before its answer was written")
        if _stopping.is_set():
            raise ServerStops("the server is stopping: ask again when it is back")

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    def leave(self) -> None:
        self._gone.set()
        self._wake()

    @contextlib.contextmanager
    def wakes(self, wake: Callable[[], None]) -> Iterator[None]:
        """Calls `wake` if the client leaves or the server stops during a `with` block."""
        self._wake = wake
        _waiting.add(self)
        try:
            yield
        finally:
            self._wake = lambda: None
            _waiting.discard(self)


_nobody = Client()
_client: contextvars.ContextVar[Client] = contextvars.ContextVar("_client", default=_nobody)
_stopping = threading.Event()
_waiting: Set[Client] = set()


def this_client() -> Client:
    """The client of the request that is worked on."""
    return _client.get()


def end_all() -> None:
    """Ends what is generated and what waits, with ServerStops. For a signal's handler."""
    _stopping.set()
    for client in list(_waiting):
        client._wake()


class WatchClients:
    """ASGI middleware that listens to a client while its request is worked on: who waits for an answer sends nothing more
    than that it leaves."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        client, heard = Client(scope.get("llama_dflash.model")), asyncio.Queue()
        _client.set(client)
        answered = False

        async def listen() -> None:
            while not client.is_gone:
                message = await receive()
                if message["type"] == "http.disconnect":
                    client.leave()
                heard.put_nowait(message)

        async def receive_heard() -> Message:
            return {"type": "http.disconnect"} if client.is_gone and heard.empty() else await heard.get()

        async def send_answer(message: Message) -> None:
            nonlocal answered
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            answered = is_last and not client.is_gone  # before it is sent: then it is heard to be gone, too
            await send(message)

        listener = asyncio.create_task(listen())
        try:
            await self._app(scope, receive_heard, send_answer)
        finally:
            listener.cancel()
            if not answered and client.is_gone:
                log_departure(scope)


def log_departure(scope: Dict[str, Any]) -> None:
    """One line for a client that did not wait for its answer, or did not send all of its request."""
    host, port = scope.get("client") or ("unknown", 0)
    log.info("the client %s:%s left %s %s before its answer was complete", host, port, scope["method"], scope["path"])
