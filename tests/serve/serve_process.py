"""Starts `llama-dflash serve`, as a user does, over tiny models."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

import drafter_models
import httpx
import models

from llama_dflash import _library

BINARY = _library.lib_dir.parent / "bin" / "llama-dflash-server"
NO_BINARY = "llama-dflash was built with LLAMA_DFLASH_SERVER=OFF"
READY = re.compile(r"ready in [\d.]+ s at (http://\S+)")
SMALL = ["-t", "1", "-tb", "1", "-c", "4096", "-b", "64", "-ub", "64", "--port", "0"]

# A template that knows tools, as models that agents use have one: a call begins with a token of its own.
CALL = "[TOOL_CALLS]"
TEMPLATE = """{%- if tools %}<|im_start|>system
Tools: {{ tools | tojson }}<|im_end|>
{% endif %}{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.tool_calls %}{% set call = message.tool_calls[0].function -%}
[TOOL_CALLS][{"name": {{ call.name | tojson }}, "arguments": {{ call.arguments | tojson }}}]{% else %}{{ message.content }}{% endif %}<|im_end|>
{% endfor %}{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


class Pair:
    """A target that mostly writes digits, and now and then begins a call, and a drafter that guesses many of them."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        target = models.write_target(folder / f"target-{seed}.gguf", seed=seed, chat_template=TEMPLATE, marker=CALL)
        self.target = drafter_models.make_predictable(target, favourites={**drafter_models.FAVOURITES, models.MARKER: 9.6})
        self.drafter = drafter_models.write_drafter(folder / f"drafter-{seed}.gguf", self.target, marker=CALL)


def command(*words: Any) -> list:
    return [sys.executable, "-m", "llama_dflash", "serve", *map(str, words)]


class Served:
    """A running server. `out` and `log` are what its command printed on stdout and stderr."""

    def __init__(self, folder: Path, *words: Any, wait: bool = True, **environment: str) -> None:
        folder.mkdir(parents=True)
        self._out, self._log = folder / "out", folder / "log"
        with self._out.open("w") as out, self._log.open("w") as log:
            self.process = subprocess.Popen(
                command(*SMALL, *words),
                stdout=out,
                stderr=log,
                cwd=folder,  # not the checkout, whose llama_dflash/ has no libraries
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
            )
        self.url = ""
        self.http = httpx.Client(verify=False, trust_env=False, timeout=60)
        if wait:
            try:
                self.url = self.wait_for(READY)[1]
            except BaseException:
                self.stop()
                raise

    @property
    def out(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: "str | re.Pattern", seconds: float = 60, in_log: bool = False) -> re.Match:
        """Until stdout, or stderr, has the pattern."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ended = self.process.poll() is not None
            found = re.search(pattern, self.log if in_log else self.out)
            if found:
                return found
            if ended:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {pattern} in:\n{self.out}\n{self.log}")

    def server_pid(self) -> Optional[int]:
        """Of llama.cpp's server, the command's child."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        children = path.read_text().split() if path.exists() else []
        return int(children[0]) if children else None

    def end(self, number: int = signal.SIGTERM, seconds: float = 2) -> int:
        """Signals it; returns the exit code, or fails if it takes longer."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def stop(self) -> None:
        self.http.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
