"""Threads that run requests for lists and for asyncio. They are daemons: nothing that they wait for keeps a program from ending."""

from __future__ import annotations

import asyncio
import queue
import threading
from concurrent.futures import Future
from typing import Any, AsyncIterator, Callable, Iterator, List, Tuple

_END = object()
_Task = Tuple["Future[Any]", Callable[[], Any]]


class Workers:
    """At most n_most threads, which take tasks first come first served."""

    def __init__(self, n_most: int) -> None:
        self._n_most = n_most
        self._tasks: "queue.SimpleQueue[Any]" = queue.SimpleQueue()
        self._threads: List[threading.Thread] = []
        self._n_idle = threading.Semaphore(0)
        self._lock = threading.Lock()

    def submit(self, task: Callable[[], Any]) -> "Future[Any]":
        future: "Future[Any]" = Future()
        self._tasks.put((future, task))
        with self._lock:
            if not self._n_idle.acquire(blocking=False) and len(self._threads) < self._n_most:
                thread = threading.Thread(target=_work, args=(self._tasks, self._n_idle), name="LlamaBatch worker", daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def close(self) -> None:
        """Ends the threads once they have nothing to do."""
        for _ in self._threads:
            self._tasks.put(None)


def _work(tasks: "queue.SimpleQueue[Any]", n_idle: threading.Semaphore) -> None:
    while _do_next(tasks, n_idle):
        pass


def _do_next(tasks: "queue.SimpleQueue[Any]", n_idle: threading.Semaphore) -> bool:
    """A function of its own, so that nothing of a task outlives it."""
    try:
        item = tasks.get(block=False)
    except queue.Empty:
        n_idle.release()
        item = tasks.get()
    if item is None:
        return False
    future, task = item
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(task())
        except BaseException as error:
            future.set_exception(error)
    return True


async def result_of(workers: Workers, task: Callable[[], Any], cancel: Callable[[], None]) -> Any:
    """Waits for a task; calls `cancel` if its own task is cancelled."""
    future = workers.submit(task)
    try:
        return await asyncio.wrap_future(future)
    finally:
        if not future.done():
            cancel()
            future.cancel()


async def chunks_of(workers: Workers, start: Callable[[], Iterator[Any]], cancel: Callable[[], None]) -> AsyncIterator[Any]:
    """The items of an iterator that a worker runs; calls `cancel` if nobody reads on."""
    loop, chunks = asyncio.get_running_loop(), asyncio.Queue()

    def put(item: Any) -> None:
        loop.call_soon_threadsafe(chunks.put_nowait, item)

    def run() -> None:
        try:
            for chunk in start():
                put((chunk, None))
        except BaseException as error:
            put((_END, error))
        else:
            put((_END, None))

    future = workers.submit(run)
    try:
        while True:
            chunk, error = await chunks.get()
            if error is not None:
                raise error
            if chunk is _END:
                return
            yield chunk
    finally:
        cancel()
        future.cancel()
