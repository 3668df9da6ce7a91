"""/metrics: what the server did and does, in Prometheus' text format."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any, Awaitable, Callable, Dict, Iterable, Iterator, Tuple

from .queue import Queue

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_COUNTERS = {
    "prompt_tokens": "Tokens of prompts that were evaluated.",
    "prompt_tokens_cached": "Tokens of prompts that were in memory.",
    "tokens": "Tokens sampled.",
    "rounds": "Rounds of speculation: forwards of the target over a draft tree, or over its root alone.",
    "draft_nodes": "Draft nodes verified.",
    "draft_nodes_accepted": "Draft nodes that became text.",
    "prompt_seconds": "Time up to the first tokens.",
    "token_seconds": "Time of the tokens after the first ones.",
}


class Metrics:
    """Counts since the start of the process. Any thread may count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._requests: Counter[Tuple[str, int]] = Counter()

    def count(self, **amounts: float) -> None:
        """Adds to the counters of these names."""
        with self._lock:
            self._counts.update(amounts)

    def count_request(self, path: str, status: int) -> None:
        with self._lock:
            self._requests[path, status] += 1

    def text(self, queue: Queue) -> str:
        """All of it."""
        with self._lock:
            counts, requests = dict(self._counts), sorted(self._requests.items())
        return "\n".join(_lines(counts, requests, queue)) + "\n"


def _lines(counts: Dict[str, float], requests: Iterable[Tuple[Tuple[str, int], int]], queue: Queue) -> Iterator[str]:
    yield from _head("requests_total", "counter", "Requests answered.")
    for (path, status), n in requests:
        yield f'llama_dflash_requests_total{{path="{path}",status="{status}"}} {n}'
    for name, what in _COUNTERS.items():
        yield from _one(f"{name}_total", "counter", what, counts.get(name, 0))
    yield from _one("requests_waiting", "gauge", "Requests that wait for the model.", queue.n_waiting)
    yield from _one("requests_running", "gauge", "Requests that have the model: --n_parallel at most.", queue.n_running)
    rounds, accepted = counts.get("rounds", 0), counts.get("draft_nodes_accepted", 0)
    length = (accepted + rounds) / rounds if rounds else 0.0
    yield from _one("acceptance_length", "gauge", "Tokens per round since the start; plain decoding has 1.", length)


def _head(name: str, kind: str, what: str) -> Iterator[str]:
    yield f"# HELP llama_dflash_{name} {what}"
    yield f"# TYPE llama_dflash_{name} {kind}"


def _one(name: str, kind: str, what: str, value: float) -> Iterator[str]:
    yield from _head(name, kind, what)
    yield f"llama_dflash_{name} {value:.12g}"


METRICS = Metrics()  # of the process, which has one app


class CountRequests:
    """ASGI middleware that counts answers by route and status. `routes` are the paths that have a name of their own."""

    def __init__(self, app: Callable[..., Awaitable[None]], routes: Iterable[str]) -> None:
        self._app, self._routes = app, frozenset(routes)

    async def __call__(self, scope: Dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_counted(message: Dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                METRICS.count_request(scope["path"] if scope["path"] in self._routes else "other", message["status"])
            await send(message)

        await self._app(scope, receive, send_counted)
