"""Clients that ask one server at once, for test_many_clients.py: what they ask, and that each gets what it would get alone."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter

import httpx

N_PROMPTS = 24
WORDS = ("digits", "numbers", "figures", "sums")
PREFIX = "A table of numbers, each with its square and its name. " * 8  # of every second prompt
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome", "Bern"]}, "capital": {"type": "boolean"}},
    "required": ["city", "capital"],
    "additionalProperties": False,
}
GREEDY = {"temperature": 0}
SAMPLED = {"temperature": 0.9, "top_p": 0.9, "seed": 11}


def client() -> httpx.Client:
    """A new connection for each request: the server closes those that are kept after a hundred of them."""
    return httpx.Client(trust_env=False, timeout=120, limits=httpx.Limits(max_keepalive_connections=0))


def prompt_of(i: int) -> str:
    secret = f"the {WORDS[i % len(WORDS)]} of {i}: {i * 7919 % 10007}"
    return PREFIX + secret if i % 2 else secret


class Ask:
    """One thing that is asked: how, and what is looked at in the answer. Equal questions have equal answers."""

    def __init__(self, kind: str, i: int) -> None:
        self.kind, self.i = kind, i
        if kind == "forced":  # by a grammar, as the arguments of a tool are
            self.path = "/v1/chat/completions"
            form = {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
            self.body = {"messages": [{"role": "user", "content": prompt_of(i)}], "response_format": form, "max_tokens": 300, **GREEDY}
        else:
            self.path = "/v1/completions"
            self.body = {"prompt": prompt_of(i), "max_tokens": 8 + i % 25, **(SAMPLED if kind == "sampled" else GREEDY)}

    @property
    def key(self) -> str:
        return f"{self.kind} {self.i}"

    def whole(self, http: httpx.Client, url: str):
        answer = http.post(url + self.path, json=self.body)
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        text = choice["message"]["content"] if self.kind == "forced" else choice["text"]
        self._look_at(text)
        return text, choice["finish_reason"]

    def streamed(self, http: httpx.Client, url: str):
        """The same from a stream, which has to end as streams do."""
        text, reasons, last = "", [], None
        with http.stream("POST", url + self.path, json={**self.body, "stream": True}) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                last = line or last
                if not line.startswith("data: {"):
                    continue
                event = json.loads(line[6:])
                assert "error" not in event, event
                for choice in event["choices"]:
                    reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
                    text += choice.get("text") or choice.get("delta", {}).get("content") or ""
        assert last == "data: [DONE]" and len(reasons) == 1, (last, reasons)
        self._look_at(text)
        return text, reasons[0]

    def _look_at(self, text: str) -> None:
        if self.kind == "forced":
            assert set(json.loads(text)) == {"city", "capital"}, text


def every_question() -> list[Ask]:
    return [Ask(kind, i) for kind in ("greedy", "sampled") for i in range(N_PROMPTS)] + [Ask("forced", i) for i in range(4)]


def alone(url: str) -> dict[str, tuple]:
    """The answer to every question when nothing else is asked, by key."""
    with client() as http:
        return {ask.key: ask.whole(http, url) for ask in every_question()}


class Client(threading.Thread):
    """Asks one thing after the other until `end`. `wrong` is what was not as it has to be."""

    def __init__(self, url: str, seed: int, expected: dict[str, tuple], end: float) -> None:
        super().__init__(daemon=True)
        self._url, self._expected, self._end, self._rng = url, expected, end, random.Random(seed)
        self.counts, self.wrong, self.seconds = Counter(), [], []

    def run(self) -> None:
        with client() as http:
            while time.monotonic() < self._end and not self.wrong:
                kind = self._rng.choices(["greedy", "sampled", "forced", "leave", "mistake"], [50, 20, 5, 20, 5])[0]
                started = time.monotonic()
                try:
                    self._ask(http, kind)
                except Exception as error:
                    self.wrong.append(f"{kind}: {error!r}")
                self.counts[kind] += 1
                self.seconds.append(time.monotonic() - started)

    def _ask(self, http: httpx.Client, kind: str) -> None:
        i = self._rng.randrange(N_PROMPTS)
        if kind == "leave":
            return self._leave(http, i)
        if kind == "mistake":
            return self._mistake(http)
        ask = Ask(kind, i % 4 if kind == "forced" else i)
        got = ask.streamed(http, self._url) if self._rng.random() < 0.7 else ask.whole(http, self._url)
        assert got == self._expected[ask.key], f"{ask.key}: {got} is not {self._expected[ask.key]}"

    def _leave(self, http: httpx.Client, i: int) -> None:
        """Goes away before the end: at once, or after some of the text."""
        body = {"prompt": prompt_of(i), "max_tokens": 400, "stream": True, **GREEDY}
        with http.stream("POST", self._url + "/v1/completions", json=body) as answer:
            for _, _ in zip(range(self._rng.randrange(4)), answer.iter_lines()):
                pass

    def _mistake(self, http: httpx.Client) -> None:
        body = self._rng.choice(
            [
                {"prompt": "x", "grammar": "root ::= nothing-that-is-defined"},
                {"prompt": "too long " * 3000},
                {"prompt": "x", "json_schema": {"type": "hiccup"}},
                {"prompt": {"of": "no kind"}},
            ]
        )
        answer = http.post(self._url + "/completion", json=body)
        assert 400 <= answer.status_code < 500 and "error" in answer.json(), (body, answer.status_code, answer.text[:300])


class Operator(threading.Thread):
    """Looks at the server and saves and restores slots while clients are at work."""

    def __init__(self, url: str, n_slots: int, end: float) -> None:
        super().__init__(daemon=True)
        self._url, self._n_slots, self._end, self._rng = url, n_slots, end, random.Random(0)
        self.counts, self.wrong, self.slowest_health = Counter(), [], 0.0

    def run(self) -> None:
        with client() as http:
            while time.monotonic() < self._end and not self.wrong:
                try:
                    self._look(http)
                    self._save_or_restore(http)
                except Exception as error:
                    self.wrong.append(f"operator: {error!r}")
                time.sleep(0.2)

    def _look(self, http: httpx.Client) -> None:
        started = time.monotonic()
        assert http.get(self._url + "/health").status_code == 200
        self.slowest_health = max(self.slowest_health, time.monotonic() - started)
        assert "llamacpp:tokens_predicted_total" in http.get(self._url + "/metrics").text
        assert len(http.get(self._url + "/slots").json()) == self._n_slots

    def _save_or_restore(self, http: httpx.Client) -> None:
        slot, action = self._rng.randrange(self._n_slots), self._rng.choice(["save", "save", "restore", "erase"])
        answer = http.post(f"{self._url}/slots/{slot}?action={action}", json={"filename": f"{slot}.bin"})
        self.counts[f"{action} {answer.status_code}"] += 1
        assert answer.status_code in (200, 400), answer.text  # 400: nothing was saved there yet
