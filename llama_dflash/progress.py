"""How far something is, on stderr, for whatever takes longer than a second."""

from __future__ import annotations

import sys
import time
from typing import Callable, Optional, TextIO


class Progress:
    """Call it with what is done and what there is to do.

    On a terminal it is one line that moves, elsewhere a line at every tenth of the way. Nothing appears in the first
    second. `close` ends the line.

    Args:
        what: What is going on, such as "converting drafter".
        stream: Where to show it; None: stderr.
        what_of: Writes what there is to do; given in bytes if it is left out.
    """

    def __init__(self, what: str, stream: Optional[TextIO] = None, what_of: Optional[Callable[[int], str]] = None) -> None:
        self.what = what
        self.what_of = what_of or (lambda total: f"{total / 2**20:.0f} MiB")
        self.stream = stream or sys.stderr
        self.started = time.monotonic()
        self.shown: Optional[int] = None  # percent, or tenths where the line can't move

    def __call__(self, done: int, total: int) -> None:
        seconds = time.monotonic() - self.started
        moves = self.stream.isatty()
        step = done * (100 if moves else 10) // max(total, 1)
        if seconds < 1 or step == self.shown:
            return
        self.shown = step
        text = f"{self.what}: {done * 100 // max(total, 1)} % of {self.what_of(total)}, {seconds:.0f} s"
        print(f"\r\033[K{text}" if moves else text, end="" if moves else "\n", file=self.stream, flush=True)

    def close(self) -> None:
        if self.shown is not None and self.stream.isatty():
            print(file=self.stream)
