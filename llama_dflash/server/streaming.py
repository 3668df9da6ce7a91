"""Streams answers: llama_cpp.server's publisher, which says errors in the stream and stops when the client goes."""

from __future__ import annotations

import contextlib
import functools
import json
from typing import Any, Callable, Iterator

import anyio
import anyio.lowlevel
import llama_cpp.server.app as upstream
from anyio.streams.memory import MemoryObjectSendStream
from llama_cpp.server.errors import RouteErrorHandler

_publish = upstream.get_event_publisher


async def get_event_publisher(
    *, inner_send_chan: MemoryObjectSendStream[Any], body: Any, llama_call: Callable[..., Any], **rest: Any
) -> None:
    """Sends the chunks of an answer. Errors become an event of OpenAI's form: the status has been sent by then."""
    async with inner_send_chan.clone() as error_chan:
        try:
            # left, and with it the generation, before the next request gets the model: nothing is awaited in between
            with contextlib.ExitStack() as streams:
                call = functools.partial(_open, streams, llama_call.__name__)
                await _publish(inner_send_chan=inner_send_chan, body=body, llama_call=call, **rest)
        except anyio.get_cancelled_exc_class():
            # How upstream ends an interrupted stream too, after its last event; that would cut the response short.
            await anyio.lowlevel.checkpoint_if_cancelled()  # raises if this is a real one
        except Exception as error:
            _, message = RouteErrorHandler.error_message_wrapper(RouteErrorHandler, error, body)  # type: ignore[arg-type]
            await error_chan.send(dict(data=json.dumps({"error": message})))


def _open(streams: contextlib.ExitStack, method: str, llama: Any, **request: Any) -> Iterator[Any]:
    """Calls a method by its name, as upstream names the stock class's; its generator ends when `streams` is left."""
    return streams.enter_context(contextlib.closing(getattr(llama, method)(**request)))
