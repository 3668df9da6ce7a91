"""Starts servers, each a process of its own, over tiny models."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import drafter_models
import httpx
import models
import openai

# Flash attention and this variable: a CPU verifies trees with the very bits of plain decoding (docs/exactness.md).
ENVIRONMENT = {"GGML_CPU_BATCH_INVARIANT": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUNBUFFERED": "1"}
OPTIONS = dict(accept_any_model=True, n_ctx=2048, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, chat_format="chatml")
KEY = "secret"  # of servers that have one
STARTED = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")


# For requests without the openai client. No certificates: reading them takes longer than most of what is asked.
HTTP = httpx.Client(verify=False, trust_env=False, timeout=30)


def arguments(**options) -> list:
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def command(*words) -> list:
    return [sys.executable, "-m", "llama_dflash.server", *map(str, words)]


class Server:
    """A running server. `log` is what it printed."""

    def __init__(self, log: Path, *words, **environment):
        self._log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                command(*words),
                stdout=file,
                stderr=file,
                cwd=log.parent,  # not the checkout, whose llama_dflash/ has no libraries
                env={**os.environ, **ENVIRONMENT, "HOST": "127.0.0.1", "PORT": "0", **environment},  # any free port
            )
        try:
            self.url = self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self, seconds: float = 60) -> str:
        end = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < end:
            started = STARTED.search(self.log)
            if started:
                return started[1]
            time.sleep(0.05)
        raise RuntimeError(f"the server did not start:\n{self.log}")

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def client(self, api_key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=60)

    @property
    def headers(self) -> dict:
        """Of requests without a client."""
        return {"Authorization": f"Bearer {KEY}"}

    @property
    def pid(self) -> int:
        return self._process.pid

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, seconds: float) -> int:
        """How it ended."""
        return self._process.wait(seconds)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Pair:
    """A target that mostly writes digits, and a drafter that guesses many of them."""

    def __init__(self, folder: Path, seed: int = 0, arch: str = "llama", **more):
        write = models.write_hybrid if arch in models.HYBRIDS else models.write_target
        self.target = drafter_models.make_predictable(write(folder / f"{arch}-{seed}.gguf", arch, seed=seed, **more))
        self.drafter = drafter_models.write_drafter(folder / f"{arch}-{seed}-dflash.gguf", self.target)
