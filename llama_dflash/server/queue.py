"""Requests take turns with the model, in the order in which they came: one at a time, or as many as it writes at once."""

from __future__ import annotations

import contextlib
import time
from typing import Any, AsyncIterator, Awaitable, Callable, Dict

import anyio

from .client import this_client


class QueueFull(Exception):
    """Too many requests wait already."""

    def __init__(self, n_waiting: int, retry_seconds: int) -> None:
        super().__init__(f"{n_waiting} requests wait already (--max_queue): ask again in about {retry_seconds} seconds")
        self.retry_seconds = retry_seconds


class Queue:
    """Who has the model, and who waits for it.

    A request is inside from before it is looked at until its answer was sent, so that the bound holds for all that a
    request keeps in memory; it waits where it asks for its turn.
    """

    def __init__(self, max_waiting: int, n_turns: int = 1) -> None:
        """
        Args:
            max_waiting: Requests that may wait.
            n_turns: Requests that have the model at once.
        """
        self.max_waiting = max_waiting
        self.n_turns = n_turns
        self.n_inside = 0
        self.n_waiting = 0
        self._turns = anyio.Semaphore(n_turns)  # first come, first served
        self._turn_seconds = 1.0  # of the last turns, about

    @property
    def n_running(self) -> int:
        """Requests that have the model."""
        return self.n_turns - self._turns.value

    @contextlib.contextmanager
    def inside(self) -> Any:
        """Raises QueueFull if there is no room for one more request."""
        if self.n_inside >= self.max_waiting + self.n_turns:
            raise QueueFull(self.max_waiting, self._retry_seconds())
        self.n_inside += 1
        try:
            yield
        finally:
            self.n_inside -= 1

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for the model, which is the caller's for an `async with` block.

        Raises:
            ClientWentAway, ServerStops: If there is nothing more to wait for.
        """
        await self._wait()
        started = time.monotonic()
        try:
            this_client().check()
            yield
        finally:
            self._turns.release()
            self._turn_seconds += 0.2 * (time.monotonic() - started - self._turn_seconds)

    async def _wait(self) -> None:
        client, has_it = this_client(), False
        self.n_waiting += 1
        try:
            with anyio.CancelScope() as scope, client.wakes(scope.cancel):
                client.check()
                await self._turns.acquire()
                has_it = True
        except BaseException:
            if has_it:
                self._turns.release()
            raise
        finally:
            self.n_waiting -= 1
        if not has_it:
            client.check()

    def _retry_seconds(self) -> int:
        return int(min(max(1, self._turn_seconds * self.n_inside / self.n_turns), 600))


class Admission:
    """ASGI middleware that lets in as many requests as the queue takes."""

    def __init__(self, app: Callable[..., Awaitable[None]], queue: Queue, refuse: Callable[..., Awaitable[None]]) -> None:
        self._app, self._queue, self._refuse = app, queue, refuse

    async def __call__(self, scope: Dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        try:
            with self._queue.inside():
                await self._app(scope, receive, send)
        except QueueFull as error:
            await self._refuse(error, scope, receive, send)
