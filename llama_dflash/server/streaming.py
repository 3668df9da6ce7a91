"""Streams answers: llama_cpp.server's publisher, which says errors in the stream and stops when the client goes."""

from __future__ import annotations

import json
from typing import Any, Callable, Iterator, List

import llama_cpp.server.app as upstream
from anyio.streams.memory import MemoryObjectSendStream
from llama_cpp.server.errors import RouteErrorHandler

_publish = upstream.get_event_publisher


async def get_event_publisher(
    *, inner_send_chan: MemoryObjectSendStream[Any], body: Any, llama_call: Callable[..., Any], **rest: Any
) -> None:
    """Sends the chunks of an answer. Errors become an event of OpenAI's form: the status has been sent by then."""
    streams: List[Iterator[Any]] = []

    def call(llama: Any, **request: Any) -> Iterator[Any]:
        # by name: upstream names the stock class's method
        streams.append(getattr(llama, llama_call.__name__)(**request))
        return streams[-1]

    async with inner_send_chan.clone() as error_chan:
        try:
            await _publish(inner_send_chan=inner_send_chan, body=body, llama_call=call, **rest)
        except Exception as error:
            _, message = RouteErrorHandler.error_message_wrapper(RouteErrorHandler, error, body)  # type: ignore[arg-type]
            await error_chan.send(dict(data=json.dumps({"error": message})))
        finally:
            for stream in streams:  # before the next request's first token: nothing was awaited since this one's lock
                stream.close()  # type: ignore[attr-defined]
