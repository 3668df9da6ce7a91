"""The server's process: starts it, tells of it what people want to see, ends it when it is told to."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Deque, Dict, List, Optional

from . import log

SECONDS_TO_END = 1.4  # for the server to end by itself; then it is killed
READY = "@ready "

# lines of the log that say no more than that it did not work
_SAYS_NOTHING = re.compile(r"exiting due to|cleaning up before exit|^(load_model: )?failed to (load|create_context with) model|^(?:\w+: )?$")
_WRONG_WORDS = re.compile(r"^error: |^error while handling argument|^Error while|invalid argument")


class Server:
    """A running server.

    Args:
        command: The binary and its words.
        what: What is loaded, for the first line.
        shows_log: Whether llama.cpp's log is printed, on stderr. Its errors are, whatever this says.
        prefix: Of its paths (--api-prefix).
    """

    def __init__(self, command: List[str], what: str, shows_log: bool, prefix: str = "") -> None:
        self._command, self._what, self._shows_log, self._prefix = command, what, shows_log, prefix
        self._addresses: List[str] = []
        self._told_to_end = False
        self._kept: Deque[log.Line] = deque(maxlen=400)
        self._process: Optional["subprocess.Popen[bytes]"] = None

    def run(self) -> int:
        """Starts it, and prints what it does until it ends. Returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.end())
        self._started = time.monotonic()
        _say(f"loading {self._what}")
        process = self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,  # Ctrl-C comes to us alone
            preexec_fn=_die_with_parent(),
        )
        assert process.stdout is not None and process.stderr is not None
        if self._told_to_end:
            process.kill()
        reader = threading.Thread(target=self._read_log, args=(process.stderr,), daemon=True)
        reader.start()
        for raw in process.stdout:
            self._tell(raw.decode("utf-8", errors="replace").rstrip("\r\n"))
        code = process.wait()
        reader.join(1)
        if self._told_to_end:
            _say("ended")
            os._exit(0)  # at once: on a busy machine Python takes its time to end
        return self._explain(code)

    def end(self) -> None:
        """Tells it to end; it is killed where it takes too long. A second time kills it at once."""
        again, self._told_to_end = self._told_to_end, True
        if self._process is None:
            return
        if again:
            self._process.kill()
            return
        self._process.terminate()
        killer = threading.Timer(SECONDS_TO_END, self._process.kill)
        killer.daemon = True
        killer.start()

    # ---------------------------------------------------------------- what it prints

    def _tell(self, text: str) -> None:
        """A line of its stdout."""
        if text.startswith(READY):
            self._is_ready(text[len(READY) :])
            return
        request = log.request_of(text)
        if request is None:
            print_line(text)
        elif self._shows_log or not log.is_quiet(request, self._prefix):
            print_line(log.describe(request, time.strftime("%H:%M:%S")))

    def _is_ready(self, address: str) -> None:
        self._addresses.append(address)
        if len(self._addresses) > 1:
            _say(f"also at {address}")
            return
        seconds = time.monotonic() - self._started
        address += self._prefix
        trees = "" if address.startswith("unix:") else f" (draft trees: {address}/tree, OpenAI's API: {address}/v1)"
        _say(f"ready in {seconds:.1f} s at {address}{trees}")

    def _read_log(self, stderr: IO[bytes]) -> None:
        """In a thread."""
        level = ""
        for raw in stderr:
            line = log.line_of(raw.decode("utf-8", errors="replace").rstrip("\r\n"))
            level = line.level or level
            self._kept.append(line)
            if self._shows_log:
                print_line(line.text, sys.stderr)
            elif level == "E" and self._addresses and not self._told_to_end:
                print_line(f"llama.cpp: {line.message}", sys.stderr)

    # ---------------------------------------------------------------- why it ended

    def _explain(self, code: int) -> int:
        """It has ended by itself: says why, in a sentence."""
        if code == 0 and not self._addresses:
            return 0  # --version and its like
        wrong = next((line.message for line in self._kept if not line.level and _WRONG_WORDS.search(line.message)), None)
        if wrong is not None and not self._addresses:
            print_line(f"llama-dflash serve: llama.cpp's server: {wrong}", sys.stderr)
            return 2
        how = f"it was ended by {_signal_name(-code)}" if code < 0 else f"exit code {code}"
        when = "the server ended by itself" if self._addresses else "the server did not start"
        why = self._errors()
        hint = "" if self._shows_log else " (--verbose shows llama.cpp's log)"
        print_line(f"llama-dflash serve: {when}: {why or how}{hint}", sys.stderr)
        return 1

    def _errors(self) -> str:
        """What its log says last about what went wrong."""
        errors = [line.message for line in self._kept if line.level == "E"]
        telling = [message for message in errors if not _SAYS_NOTHING.search(message)] or errors
        return "; ".join(dict.fromkeys(telling[-3:] if self._addresses else telling[:2]))


def environment() -> Dict[str, str]:
    return {**os.environ, "LLAMA_DFLASH_SERVE_EVENTS": "1"}


def print_line(text: str, file: Optional[object] = None) -> None:
    """As print(); a reader that has gone away does not end the server."""
    try:
        print(text, file=file or sys.stdout, flush=True)  # type: ignore[call-overload]
    except BrokenPipeError:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, (file or sys.stdout).fileno())  # type: ignore[attr-defined]


def _say(text: str) -> None:
    print_line(f"llama-dflash serve: {text}")


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{name} (is there too little memory?)" if name == "SIGKILL" else name


def _die_with_parent():
    """What the child does first: ask to be ended with this process, also where that is killed (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask() -> None:
        libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)

    return ask


def named(path: str) -> str:
    """A path as people speak of it."""
    return Path(path).name or path
