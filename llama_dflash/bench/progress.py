"""How far a measurement is, on stderr."""

from __future__ import annotations

import sys
import time


class Progress:
    """A line per step, with the minutes since the beginning; on a terminal also one that moves and is replaced."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._moves = sys.stderr.isatty()

    def say(self, text: str) -> None:
        print(self._clear() + self._line(text), file=sys.stderr, flush=True)

    def now(self, text: str) -> None:
        """What goes on at the moment: only a terminal shows it, until something else is said."""
        if self._moves:
            print(self._clear() + self._line(text), end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Takes the line that moves away."""
        print(self._clear(), end="", file=sys.stderr, flush=True)

    def _line(self, text: str) -> str:
        return f"[{(time.monotonic() - self._begun) / 60:5.1f} min] {text}"

    def _clear(self) -> str:
        return "\r\033[K" if self._moves else ""
