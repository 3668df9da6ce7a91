"""Starts the server with a drafter and asks it with the openai client, as a program written for OpenAI would.

    pip install "llama-dflash[server]" openai
    python examples/ask_a_server.py
"""

import socket
import subprocess
import sys
from pathlib import Path

from openai import OpenAI
from pair import DRAFTER, TARGET

with socket.socket() as s:
    s.bind(("localhost", 0))
    port = str(s.getsockname()[1])  # a free one

command = [sys.executable, "-m", "llama_dflash.server", "--model", TARGET, "--draft_model", DRAFTER, "--port", port]
here = Path(__file__).parent  # not the checkout, whose llama_dflash/ is not the installed one
with subprocess.Popen([*command, "--verbose", "false"], cwd=here) as server:
    try:
        client = OpenAI(base_url=f"http://localhost:{port}/v1", api_key="none", max_retries=10)  # until the model is loaded
        messages = [{"role": "user", "content": "Name three planets of the solar system."}]
        stream = client.chat.completions.create(model=TARGET, messages=messages, temperature=0, max_tokens=64, stream=True)
        for chunk in stream:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        timings = chunk.timings
        accepted, drafted = timings.get("draft_n_accepted", 0), timings.get("draft_n", 0)
        print(f"\n  ({timings['predicted_n']} tokens, {accepted} of {drafted} draft nodes accepted)")
    finally:
        server.terminate()
