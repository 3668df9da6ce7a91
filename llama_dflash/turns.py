"""Whose turn it is to use a model: one memory serves one generation at a time, whatever threads ask for one.

A call waits until no other thread has the turn. A generation keeps its turn between its tokens, when none of its code
runs, until it is read to its end, closed or garbage collected. Any thread may read it on: the turn goes with it.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import Any, Callable, Generator, Iterator, Optional, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])

_SECONDS_BETWEEN_LOOKS = 0.5  # a garbage collection may end a generation just before somebody starts to wait for that


class Turns:
    """The turns of one model. What the thread that has the turn calls belongs to its turn; a new generation takes the
    place of one that this thread has read half of."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # its lock is re-entrant: garbage collections end generations anywhere
        self._thread: Optional[int] = None  # whose turn it is
        self._n_running = 0  # calls of that thread, one inside the other
        self._generation: Optional[object] = None  # keeps the turn while nothing runs

    @contextlib.contextmanager
    def turn(self, last: bool = False) -> Iterator[None]:
        """Waits for a turn, which lasts for a `with` block. The last one waits for nothing that does not run."""
        self._begin(last=last)
        try:
            yield
        finally:
            self._end()

    def generation(self, steps: Generator[Any, Any, Any], resumable: bool = True) -> Generator[Any, Any, Any]:
        """The same generator in a turn of its own, which begins with its first step.

        Raises:
            RuntimeError: If it is not resumable and is read on after another generation took its place.
        """
        this, running = object(), True
        self._begin(this)
        try:
            outermost = self._generation is this
            value = next(steps)
            while True:
                self._end()
                running = False
                sent = yield value
                if outermost and not resumable and self._generation is not this:
                    raise RuntimeError(
                        "this stream can't be read on: the same thread began another generation with this Llama before the "
                        "stream's end. Read a stream to its end first, or make a Llama for each of the two"
                    )
                self._begin(this)
                running = True
                value = steps.send(sent)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()
            if running:
                self._end()
            self._forget(this)

    def _begin(self, generation: Optional[object] = None, last: bool = False) -> None:
        me = threading.get_ident()
        with self._changed:
            while not self._may_begin(me, generation, last):
                self._changed.wait(_SECONDS_BETWEEN_LOOKS)
            if generation is not None and self._n_running == 0:
                self._generation = generation
            self._thread = me
            self._n_running += 1

    def _may_begin(self, thread: int, generation: Optional[object], last: bool) -> bool:
        if self._thread in (None, thread):
            return True
        goes_on = generation is not None and generation is self._generation
        return (goes_on or last) and self._n_running == 0

    def _end(self) -> None:
        with self._changed:
            self._n_running -= 1
            self._pass_on()

    def _forget(self, generation: object) -> None:
        with self._changed:
            if self._generation is generation:
                self._generation = None
            self._pass_on()

    def _pass_on(self) -> None:
        if self._n_running == 0:
            if self._generation is None:
                self._thread = None
            self._changed.notify_all()


def in_turn(method: Method) -> Method:
    """A method of an object whose `_turns` are its turns, that waits for one."""

    @functools.wraps(method)
    def with_turn(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._turns.turn():
            return method(self, *args, **kwargs)

    return with_turn  # type: ignore[return-value]
