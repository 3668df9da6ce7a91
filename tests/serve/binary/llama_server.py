"""Starts the package's llama-server on loopback, and asks it."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import httpx
from llama_dflash import _library

BINARY = _library.lib_dir.parent / "bin" / "llama-dflash-server"

# With flash attention and this variable a CPU verifies trees with the very bits of plain decoding (docs/exactness.md).
ENVIRONMENT = {"GGML_CPU_BATCH_INVARIANT": "1"}
OPTIONS = ["-fa", "on", "-t", "1", "-tb", "1", "-c", "1024", "-b", "64", "-ub", "64", "--no-webui", "--slots", "--metrics"]
LISTENS = re.compile(r"listening on http://127\.0\.0\.1:(\d+)")


class Server:
    """A running server.

    Args:
        log: The file that gets what it prints.
        words: Its options.
        environment: Variables to set.
    """

    def __init__(self, log: Path, *words: Any, **environment: str) -> None:
        self._log = log
        command = [str(word) for word in (BINARY, "--host", "127.0.0.1", "--port", 0, *OPTIONS, *words)]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **ENVIRONMENT, **environment})
        self.http: Optional[httpx.Client] = None
        try:
            self.http = httpx.Client(base_url=self._wait(), verify=False, trust_env=False, timeout=60)
        except BaseException:
            self.stop()
            raise

    def _wait(self, seconds: float = 60) -> str:
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            listens = LISTENS.search(self.log)
            if listens:
                return f"http://127.0.0.1:{listens[1]}"
            time.sleep(0.02)
        raise RuntimeError(f"the server did not start ({self.process.poll()}):\n{self.log}")

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self) -> None:
        if self.http is not None:
            self.http.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    # ---------------------------------------------------------------- requests

    def post(self, path: str, **body: Any) -> Dict[str, Any]:
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, (answer.status_code, answer.text, self.log[-2000:])
        return answer.json()

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.json()

    def complete(self, prompt: Any, n_predict: int = 32, **more: Any) -> Dict[str, Any]:
        """What /completion answers; greedy unless `more` says otherwise."""
        return self.post("/completion", prompt=prompt, n_predict=n_predict, **{"temperature": 0, "return_tokens": True, **more})

    def stream(self, prompt: Any, n_predict: int = 32, **more: Any) -> Iterator[Dict[str, Any]]:
        """The events of a streamed completion. Closing the iterator closes the connection."""
        body = {"prompt": prompt, "n_predict": n_predict, "stream": True, "temperature": 0, "return_tokens": True, **more}
        return events(self.http, "/completion", body)

    def metrics(self) -> Dict[str, float]:
        lines = [line for line in self.http.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def events(http: httpx.Client, path: str, body: Dict[str, Any]) -> Iterator[Dict[str, Any]]:
    import json

    with http.stream("POST", path, json=body) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line[len("data: ") :])


def texts(answers: List[Dict[str, Any]]) -> List[str]:
    return [answer["content"] for answer in answers]
