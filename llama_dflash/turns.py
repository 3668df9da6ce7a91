"""Whose turn it is to use a model: one memory serves one generation at a time, whatever threads ask for one.

A call waits until nobody else has the turn. A generation keeps its turn between its tokens, when none of its code runs,
until it is read to its end, closed or garbage collected. Any thread may read it on: the turn goes with it. One that nobody
reads on while others wait loses its turn in the end.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from typing import Any, Generator, Iterator, Optional

Caller = object

_SECONDS_BETWEEN_LOOKS = 0.5  # a garbage collection may end a generation just before somebody starts to wait for that

_caller: contextvars.ContextVar[Any] = contextvars.ContextVar("_caller", default=None)


def _this_caller() -> Caller:
    """Who calls: a thread. But event loops lend the threads of a pool to many callers, one call after the other, each in a
    copy of its caller's context: there it is the one call."""
    thread = threading.get_ident()
    if thread == threading.main_thread().ident:
        return thread
    caller = _caller.get()
    if caller is None or caller[0] != thread:
        caller = thread, object()
        _caller.set(caller)
    return caller


_CLOSED = "{}: this Llama was closed, and its memory is freed. Make a new Llama"
_LEFT = (
    "the same thread began another generation with this Llama before the stream's end. Read a stream to its end first, or make "
    "a Llama for each of the two"
)
_NOT_READ_ON = (
    "another thread waited {:g} seconds for it to go on, and took its place. Close a stream that is not read on, or make a "
    "Llama for each thread"
)


class _Generation:
    """A generation that has or had a turn."""

    def __init__(self, resumable: bool) -> None:
        self.resumable = resumable  # after another generation of its caller
        self.lost_because: Optional[str] = None


class Turns:
    """The turns of one model. What the caller who has the turn calls belongs to its turn; a new generation takes the place
    of one that the same caller has read half of."""

    def __init__(self, patience_seconds: float = 30.0) -> None:
        self.patience_seconds = patience_seconds  # of those who wait for a generation that is not read on
        self.closed = False  # the last turn was taken
        self._n_using = 0  # calls that need no turn, but the model
        self._changed = threading.Condition()  # its lock is re-entrant: garbage collections end generations anywhere
        self._caller: Optional[Caller] = None  # whose turn it is
        self._n_running = 0  # calls of that caller, one inside the other
        self._generation: Optional[_Generation] = None  # keeps the turn while nothing runs
        self._idle_since = 0.0

    @contextlib.contextmanager
    def turn(self, what: str) -> Iterator[None]:
        """Waits for a turn, which lasts for a `with` block.

        Args:
            what: What is called, for the error.

        Raises:
            RuntimeError: If the model was closed.
        """
        self._begin(what)
        try:
            yield
        finally:
            self._end()

    @contextlib.contextmanager
    def last_turn(self) -> Iterator[None]:
        """The turn in which the model is closed. It waits for nothing that does not run; after it there are no others."""
        self._begin("close", last=True)
        try:
            yield
        finally:
            self._end()

    @contextlib.contextmanager
    def use(self, what: str) -> Iterator[None]:
        """For what may go on in several threads at once, but not in a model that was closed: the vocabulary's functions."""
        with self._changed:
            self.check_open(what)
            self._n_using += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_using -= 1
                self._changed.notify_all()

    def check_open(self, what: str) -> None:
        """Raises RuntimeError if the model was closed."""
        if self.closed:
            raise RuntimeError(_CLOSED.format(what))

    @contextlib.contextmanager
    def glance(self) -> Iterator[bool]:
        """A turn that is had at once, or not at all, and takes nothing from a generation that waits. Says whether it is had."""
        me = _this_caller()
        with self._changed:
            free = self._n_running == 0 or self._caller == me
            if free:
                before, self._caller = self._caller, me
                self._n_running += 1
        try:
            yield free
        finally:
            if free:
                with self._changed:
                    self._n_running -= 1
                    self._caller = before
                    self._pass_on()

    def generation(self, steps: Generator[Any, Any, Any], resumable: bool = True) -> Generator[Any, Any, Any]:
        """The same generator in a turn of its own, which begins with its first step.

        Raises:
            RuntimeError: If it is read on after it lost its turn to another caller; or, if it is not resumable, to another
                generation of its own caller.
        """
        this, running = _Generation(resumable), True
        self._begin("a stream was read", this)
        try:
            value = next(steps)
            while True:
                self._end()
                running = False
                sent = yield value
                self._begin("a stream was read on", this)
                running = True
                value = steps.send(sent)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()
            if running:
                self._end()
            self._forget(this)

    def _begin(self, what: str, generation: Optional[_Generation] = None, last: bool = False) -> None:
        me = _this_caller()
        with self._changed:
            while not self._may_begin(what, me, generation, last):
                self._changed.wait(_SECONDS_BETWEEN_LOOKS)
            if self._n_running == 0 and not last:
                self._take(me, generation)
            self._caller = me
            self._n_running += 1
            self.closed = self.closed or last

    def _may_begin(self, what: str, caller: Caller, generation: Optional[_Generation], last: bool) -> bool:
        if last and self._n_using > 0:
            return False
        if not last:
            self.check_open(what)
        if generation is not None and generation.lost_because is not None:
            raise RuntimeError(f"this stream can't be read on: {generation.lost_because}")
        if self._caller is None or self._caller == caller:
            return True
        if self._n_running > 0:
            return False
        goes_on = generation is not None and generation is self._generation
        return goes_on or last or time.monotonic() - self._idle_since > self.patience_seconds

    def _take(self, caller: Caller, generation: Optional[_Generation]) -> None:
        """Gives the turn to a caller, and takes it from the generation that keeps it, if need be."""
        held = self._generation
        if held is not None and held is not generation:
            if self._caller != caller:
                held.lost_because = _NOT_READ_ON.format(self.patience_seconds)
                self._generation = None
            elif generation is not None and not held.resumable:
                held.lost_because = _LEFT
        if generation is not None:
            self._generation = generation

    def _end(self) -> None:
        with self._changed:
            self._n_running -= 1
            self._idle_since = time.monotonic()
            self._pass_on()

    def _forget(self, generation: _Generation) -> None:
        with self._changed:
            if self._generation is generation:
                self._generation = None
            self._pass_on()

    def _pass_on(self) -> None:
        if self._n_running == 0:
            if self._generation is None:
                self._caller = None
            self._changed.notify_all()
