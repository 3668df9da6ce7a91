"""Servers as a benchmark sees them: started over a model, asked in streams, ended. For serving.py and soak.py."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence


EXACT = {"repeat_penalty": 1.0}  # the Python server's default is another one


@dataclass
class Answer:
    """A streamed text, with its times in seconds since the request was sent."""

    text: str = ""
    n_tokens: int = 0
    first: float = 0.0
    last: float = 0.0
    finish_reason: Optional[str] = None
    done: bool = False  # "[DONE]" came
    timings: Dict[str, Any] = field(default_factory=dict)


class Server:
    """A process that serves HTTP on a free port of loopback.

    Args:
        command: Its command line; "{port}" in it is replaced.
        environment: Variables of it beside this process's.
        seconds: How long it may take until /health (or /v1/models) answers.

    Raises:
        RuntimeError: If it ends or is not ready in time; with the end of its log.
    """

    def __init__(self, command: Sequence[str], environment: Optional[Dict[str, str]] = None, seconds: float = 120) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [str(word).replace("{port}", str(self.port)) for word in command],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        try:
            self._wait_until_ready(seconds)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def log(self, n_lines: int = 15) -> str:
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-n_lines:])

    def rss_mib(self) -> float:
        """Resident memory that no file backs: what a leak would grow."""
        with open(f"/proc/{self.pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon"))

    def _wait_until_ready(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.running:
            try:
                if self.get("/v1/models")[0] == 200 and self.get("/health")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"the server was not ready after {seconds:.0f} s, or ended:\n{self.log()}")

    def get(self, path: str) -> "tuple[int, bytes]":
        return self._whole("GET", path)

    def post(self, path: str, body: Dict[str, Any], timeout: float = 600) -> "tuple[int, bytes]":
        return self._whole("POST", path, body, timeout)

    def _whole(self, method: str, path: str, body: Optional[Dict[str, Any]] = None, timeout: float = 30) -> "tuple[int, bytes]":
        connection = self.send(method, path, body, timeout)
        try:
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def send(self, method: str, path: str, body: Optional[Dict[str, Any]] = None, timeout: float = 600) -> http.client.HTTPConnection:
        """A connection on which a request was sent; its answer is not read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        encoded = None if body is None else json.dumps(body).encode()
        connection.request(method, path, encoded, {"Content-Type": "application/json"})
        return connection

    def events(self, path: str, body: Dict[str, Any]) -> Iterator[Any]:
        """The events of a stream: objects, and "[DONE]" as it is. Closing the generator leaves before the end."""
        connection = self.send("POST", path, {**body, "stream": True})
        try:
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"{answer.status}: {answer.read().decode(errors='replace')[:500]}")
            for line in answer:
                if line.startswith(b"data: "):
                    data = line[6:].strip()
                    yield "[DONE]" if data == b"[DONE]" else json.loads(data)
        finally:
            connection.close()

    def complete(self, prompt: str, max_tokens: int, **more: Any) -> Answer:
        """A text by /v1/completions, greedy, as a stream."""
        started, answer = time.perf_counter(), Answer()
        for event in self.events("/v1/completions", {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, **EXACT, **more}):
            if event == "[DONE]":
                answer.done = True
                continue
            if "error" in event:
                raise RuntimeError(str(event["error"]))
            answer.timings = event.get("timings") or answer.timings
            for choice in event["choices"]:
                answer.finish_reason = choice["finish_reason"] or answer.finish_reason
                if choice["text"]:
                    answer.last = time.perf_counter() - started
                    answer.first = answer.first or answer.last
                    answer.text += choice["text"]
        answer.n_tokens = answer.timings.get("predicted_n", 0)
        return answer

    def kill(self) -> None:
        """Ends it at once, as `kill -9` does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> float:
        """Ends it; returns how many seconds that took."""
        started = time.monotonic()
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        return time.monotonic() - started


def package_server() -> Path:
    """The llama-server that the installed package has."""
    import llama_dflash

    return Path(llama_dflash.__file__).parent / "bin" / "llama-dflash-server"


def llama_server(binary: Path, model: Path, n_slots: int, n_ctx: int, threads: int, *options: str, cache_ram: int = 0) -> Server:
    """llama.cpp's server; n_ctx is one slot's."""
    command: List[str] = [str(binary), "--model", str(model), "--host", "127.0.0.1", "--port", "{port}", "--offline"]
    command += ["--threads", str(threads), "--threads-batch", str(threads), "--flash-attn", "on", "--cache-ram", str(cache_ram)]
    command += ["--parallel", str(n_slots), "--ctx-size", str(n_ctx * n_slots), "--kv-unified", "--no-ui", *options]
    return Server(command, {"LD_LIBRARY_PATH": str(binary.resolve().parent)} if binary != package_server() else None)


def python_server(model: Path, n_ctx: int, threads: int, *options: str) -> Server:
    """`python -m llama_dflash.server`: one text at a time, the other requests wait."""
    command = [sys.executable, "-m", "llama_dflash.server", "--model", str(model), "--host", "127.0.0.1", "--port", "{port}"]
    command += ["--n_ctx", str(n_ctx), "--n_threads", str(threads), "--n_threads_batch", str(threads), "--flash_attn", "true"]
    command += ["--interrupt_requests", "false", "--verbose", "false", *options]
    return Server(command)
