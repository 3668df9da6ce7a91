"""The server under 32 clients: for some seconds in the suite, `--load_seconds 600` for the numbers in docs/server.md."""

import json
import random
import sys
import threading
import time
from collections import Counter

import httpx
import pytest
from asking import EXACT
from servers import HTTP, OPTIONS, arguments

N_CLIENTS = 32
SECONDS = 6.0  # of the suite
WORDS = ("digits", "numbers", "figures", "sums")
N_PROMPTS = 32


def prompt_of(i):
    """Every prompt is answered with a text of its own."""
    return f"the {WORDS[i % len(WORDS)]} of {i}: {i * 7919 % 10007}"


def n_tokens_of(i):
    return 8 + i % 25


@pytest.fixture(scope="module", params=[1, 4], ids=["one at a time", "four at once"])
def server(request, start, pair):
    options = {**OPTIONS, "verbose": False, "max_queue": N_CLIENTS, "n_parallel": request.param}
    return start(*arguments(model=pair.target, draft_model=pair.drafter, draft_model_budget=8, **options))


def request_of(i, **more):
    return {"prompt": prompt_of(i), "max_tokens": n_tokens_of(i), "temperature": 0, **EXACT, **more}


class Client(threading.Thread):
    """Asks one thing after the other: streams, whole answers, and now and then it leaves before the end."""

    def __init__(self, url, i, expected, end):
        super().__init__()
        self._url, self._expected, self._end = url, expected, end
        self._rng = random.Random(i)
        self.counts, self.wrong, self.seconds = Counter(), [], []

    def run(self):
        with httpx.Client(verify=False, trust_env=False, timeout=120) as http:
            while time.monotonic() < self._end:
                i, kind = self._rng.randrange(N_PROMPTS), self._rng.random()
                started = time.monotonic()
                try:
                    self._leave(http, i) if kind < 0.1 else self._stream(http, i) if kind < 0.8 else self._whole(http, i)
                except Exception as error:
                    self.wrong.append(repr(error))
                self.seconds.append(time.monotonic() - started)

    def _stream(self, http, i):
        text, reasons, last = "", [], None
        with http.stream("POST", f"{self._url}/v1/completions", json=request_of(i, stream=True)) as answer:
            for line in answer.iter_lines():
                last = line or last
                if line.startswith("data: {"):
                    choice = json.loads(line[6:])["choices"][0]
                    text += choice["text"]
                    reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
        self.counts["streams"] += 1
        self._check(i, (text, reasons, last), (self._expected[i], ["length"], "data: [DONE]"))

    def _whole(self, http, i):
        answer = http.post(f"{self._url}/v1/completions", json=request_of(i)).json()
        self.counts["whole answers"] += 1
        self._check(i, answer["choices"][0]["text"], self._expected[i])

    def _leave(self, http, i):
        with http.stream("POST", f"{self._url}/v1/completions", json=request_of(i, stream=True, n=20)) as answer:
            next(answer.iter_bytes())
        self.counts["left"] += 1

    def _check(self, i, got, expected):
        if got != expected:
            self.wrong.append((prompt_of(i), got, expected))


def rss_mb(pid):
    """Resident memory, in MiB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_thirty_two_clients_get_their_own_texts_to_the_end_and_memory_stays(server, pytestconfig, capsys):
    seconds = pytestconfig.getoption("--load_seconds", None) or SECONDS
    expected = [
        HTTP.post(f"{server.url}/v1/completions", json=request_of(i), timeout=60).json()["choices"][0]["text"]
        for i in range(N_PROMPTS)
    ]
    assert len(set(expected)) > N_PROMPTS / 2, "or this shows little"
    end = time.monotonic() + seconds
    clients = [Client(server.url, i, expected, end) for i in range(N_CLIENTS)]
    for client in clients:
        client.start()

    memory, slowest_health = [], 0.0
    while time.monotonic() < end:
        started = time.monotonic()
        assert HTTP.get(f"{server.url}/health", timeout=30).status_code == 200
        slowest_health = max(slowest_health, time.monotonic() - started)
        memory.append(rss_mb(server.pid))
        time.sleep(min(1.0, seconds / 20))
    for client in clients:
        client.join(120)
        assert not client.is_alive()

    wrong = [one for client in clients for one in client.wrong]
    assert not wrong, f"{len(wrong)}, the first: {wrong[0]}"
    counts = sum((client.counts for client in clients), Counter())
    waited = sorted(second for client in clients for second in client.seconds)
    settled = memory[len(memory) // 4 :]  # once every client had a connection and a buffer
    with capsys.disabled():
        print(
            f"\n{N_CLIENTS} clients, {seconds:.0f} s: {dict(counts)}; an answer takes {waited[len(waited) // 2]:.2f} s (median), "
            f"{waited[-1]:.2f} s at most; /health {1e3 * slowest_health:.0f} ms at most; RSS {settled[0]:.1f} MiB after a quarter "
            f"of the time, {max(settled):.1f} at most, {settled[-1]:.1f} at the end"
        )
    assert counts["streams"] > 20 and counts["left"] > 0
    assert max(settled) < settled[0] + 12
    assert "Traceback" not in server.log
