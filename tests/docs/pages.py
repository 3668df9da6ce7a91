"""The code blocks of a page of docs/, and what a reader would do with them.

Python and bash blocks are run, in their order, in a folder that has a target.gguf and a drafter.gguf. A comment on the
line before a block says what else is to happen to it:

    <!-- run in the background -->   a server: it runs until the next such block, or the page's end
    <!-- file: NAME -->              the block (of any language) is written to that file
    <!-- not run: REASON -->         a reason has to be given
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

BLOCK = re.compile(r"^(?:<!-- (?P<marker>.*?) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
PORTS = (8000, 8080)  # of the servers on the pages; any free one takes their place


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. `line` is the first one of its code."""

    line: int
    language: str
    code: str
    marker: str


def blocks_of(page: Path) -> List[Block]:
    text = page.read_text()
    return [
        Block(text.count("\n", 0, found.start("code")) + 1, found["language"], found["code"], found["marker"] or "")
        for found in BLOCK.finditer(text)
    ]


class Reader:
    """Somebody who does in `folder` what a page says."""

    def __init__(self, page: Path, folder: Path):
        self._page = page
        self._folder = folder
        self._port = _free_port()
        self._names: dict = {"__name__": "__main__"}  # of all Python blocks of the page
        self._background: Optional[subprocess.Popen] = None
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "HOST": "127.0.0.1",
            "PORT": str(self._port),
            "N_THREADS": "1",  # the models are too small for more
            "N_THREADS_BATCH": "1",
            "LLAMA_ARG_PORT": str(self._port),  # the same for llama.cpp's server
            "LLAMA_ARG_THREADS": "1",
        }

    def do(self, block: Block) -> None:
        """Raises an error that names the line if the block fails."""
        code = block.code
        for port in PORTS:
            code = code.replace(f"localhost:{port}", f"localhost:{self._port}")
        what, _, detail = block.marker.partition(":")
        if what == "not run":
            assert detail.strip(), f"{self._where(block)}: why is it not run?"
        elif what == "file":
            (self._folder / detail.strip()).write_text(code)
        elif what == "run in the background" and block.language == "bash":
            self._start(block, code)
        elif what:
            raise AssertionError(f"{self._where(block)}: unknown comment <!-- {block.marker} -->")
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + code, str(self._page), "exec"), self._names)
        elif block.language == "bash":
            self._run(block, code)

    def _where(self, block: Block) -> str:
        return f"{self._page}:{block.line}"

    def _run(self, block: Block, code: str) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=self._folder, env=self._environment, timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        print(done.stdout)
        assert done.returncode == 0, f"{self._where(block)}: exit code {done.returncode}\n{done.stdout}"

    def _start(self, block: Block, code: str) -> None:
        self.stop()
        log = self._folder / "background.log"
        with log.open("w") as file:
            self._background = subprocess.Popen(
                ["bash", "-c", f"exec {code}"], cwd=self._folder, env=self._environment, stdout=file, stderr=file
            )
        end = time.monotonic() + 60
        while not _answers(self._port):
            running = self._background.poll() is None and time.monotonic() < end
            assert running, f"{self._where(block)}: nothing answers at port {self._port}\n{log.read_text(errors='replace')}"
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends what runs in the background."""
        process, self._background = self._background, None
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _answers(port: int) -> bool:
    """Whether a server is there that does not say that it is still loading."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
    except urllib.error.HTTPError as error:
        return error.code != 503
    except OSError:
        return False
    return True
