"""Writes the picture of docs/serve.md: python screenshot.py TARGET.gguf DRAFTER OUT.png"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import httpx  # noqa: E402
from browser import browser  # noqa: E402
from serve_process import Served  # noqa: E402

QUESTIONS = ["Write a Python function that adds two numbers.", "Count from one to thirty in words."]


def ask(server: Served, question: str) -> None:
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": 400, "temperature": 0}
    with contextlib.suppress(httpx.HTTPError):  # it is stopped in the middle
        server.http.post(f"{server.url}/v1/chat/completions", json=body)


def main(target: str, drafter: str, out: str) -> None:
    words = ["-m", target, "--draft-model", drafter, "--budget", 8, "-np", 2, "--alias", "SmolLM2-135M-Instruct"]
    server = Served(Path(tempfile.mkdtemp()) / "served", *words)
    threads = [threading.Thread(target=ask, args=(server, question)) for question in QUESTIONS]
    try:
        with browser() as chromium:
            page = chromium.new_page(viewport={"width": 1180, "height": 900})
            page.goto(f"{server.url}/tree")
            for thread in threads:
                thread.start()
            page.locator(".busy .node.taken").nth(5).wait_for(timeout=60_000)
            page.wait_for_timeout(1500)
            page.keyboard.press("p")
            page.screenshot(path=out)
    finally:
        server.stop()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
