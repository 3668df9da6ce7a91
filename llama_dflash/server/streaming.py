"""Streamed answers: server-sent events, whose errors are events, too, and which end when the client goes."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Awaitable, Callable, Dict, Optional

import anyio
import llama_cpp.server.app as upstream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from fastapi import Request
from llama_cpp.server.errors import RouteErrorHandler
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import Response

from .client import this_client
from .errors import Interrupted
from .queue import Queue

PING_SECONDS = 15.0
SEND_SECONDS = 60.0  # for a client to read what it is sent, before it is taken to be gone

Event = Dict[str, str]


class EventStream(Response):
    """The answer that upstream's routes give instead of EventSourceResponse, with its arguments.

    sse-starlette's ends streams when the server is told to stop, before they can say why.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: MemoryObjectReceiveStream[Event],
        data_sender_callable: Callable[[], Awaitable[None]],
        ping_message_factory: Optional[Callable[[], bytes]] = None,  # given to have none
        **rest: Any,
    ) -> None:
        self.status_code, self.background = 200, None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._events, self._write, self._pings = events, data_sender_callable, ping_message_factory is None

    async def __call__(self, scope: Dict[str, Any], receive: Any, send: Callable[[Dict[str, Any]], Awaitable[None]]) -> None:
        async def send_part(body: bytes, more: bool = True) -> None:
            with anyio.fail_after(SEND_SECONDS):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                while (part := await self._next()) is not None:
                    if part:
                        await send_part(part)
                await send_part(b"", more=False)
            except TimeoutError:  # it does not read on, and keeps the model from others
                this_client().leave()
                tasks.cancel_scope.cancel()

    async def _next(self) -> Optional[bytes]:
        """The bytes of an event, or of a comment if none comes for long; None at the end."""
        with anyio.move_on_after(PING_SECONDS):
            try:
                event = await self._events.receive()
            except anyio.EndOfStream:
                return None
            return b"".join(f"{name}: {text}\n".encode() for name, text in event.items()) + b"\n"
        return b": ping\n\n" if self._pings else b""


def event_publisher(queue: Queue, interrupts: bool) -> Callable[..., Awaitable[None]]:
    """What upstream's routes call as `get_event_publisher`. With `interrupts` a stream ends as soon as somebody waits."""

    async def get_event_publisher(
        *,
        request: Request,
        inner_send_chan: MemoryObjectSendStream[Event],
        body: Any,
        body_model: Optional[str],
        llama_call: Callable[..., Any],
        kwargs: Dict[str, Any],
    ) -> None:
        """Sends the chunks of an answer. Errors become an event of OpenAI's form: the status has been sent by then."""
        async with inner_send_chan:
            try:
                async with contextlib.asynccontextmanager(upstream.get_llama_proxy)() as proxy:
                    llama = upstream.prepare_request_resources(body, proxy, body_model, kwargs)
                    # by its name: upstream names the stock class's method
                    with contextlib.closing(getattr(llama, llama_call.__name__)(**kwargs)) as chunks:
                        async for chunk in iterate_in_threadpool(chunks):
                            await inner_send_chan.send({"data": json.dumps(chunk)})
                            if interrupts and queue.n_waiting > 0:
                                raise Interrupted("another request came, which this server gives the model to")
                await inner_send_chan.send({"data": "[DONE]"})
            except Exception as error:
                _, said = RouteErrorHandler.error_message_wrapper(RouteErrorHandler, error, body)  # type: ignore[arg-type]
                await inner_send_chan.send({"data": json.dumps({"error": said})})

    return get_event_publisher
