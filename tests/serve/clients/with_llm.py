"""llm: the server as a model of extra-openai-models.yaml, from Python and from its command line."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from asked import N_TOKENS, QUESTION, Trip, say, server

YAML = """\
- model_id: here
  model_name: any
  api_base: "{url}/v1"
  api_key_name: here
  supports_tools: true
  supports_schema: true
"""


def main() -> None:
    at = server()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLM_USER_PATH"] = folder
        Path(folder, "extra-openai-models.yaml").write_text(YAML.format(url=at.url))
        use(at.key)


def use(key: str) -> None:
    import llm

    model = llm.get_model("here")
    asked = dict(key=key, temperature=0, max_tokens=N_TOKENS)
    whole = model.prompt(QUESTION, stream=False, **asked).text()
    text = "".join(model.prompt(QUESTION, stream=True, **asked))
    assert whole and text == whole, (text, whole)

    schema = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
    import json

    city = json.loads(model.prompt(QUESTION, schema=schema, stream=False, **{**asked, "max_tokens": 100}).text())
    assert city["city"] in ("Oslo", "Rome")

    command = [sys.executable, "-m", "llm", "-m", "here", "--key", key, "-o", "temperature", "0", "-o", "max_tokens", str(N_TOKENS), "-n", QUESTION]
    printed = subprocess.run(command, capture_output=True, text=True)
    assert printed.returncode == 0 and printed.stdout.strip() == whole.strip(), printed
    say("llm", "prompt", "stream", "schema", "command line")


main()
