"""Every client library that is installed, against `llama-dflash serve` with draft trees: the script of it has to end well."""

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]
KEY = "secret"
LIBRARIES = {  # script: what it imports
    "openai": "openai",
    "anthropic": "anthropic",
    "litellm": "litellm",
    "langchain_openai": "langchain_openai, langchain.agents",
    "openai_agents": "agents",
    "pydantic_ai": "pydantic_ai.models.openai",
    "smolagents": "smolagents, openai",
    "llama_index": "llama_index.llms.openai_like, llama_index.core.agent.workflow",
    "llm": "llm, openai",
}
# `make clients` makes the others: libraries that want different versions of the same
PYTHONS = [
    *filter(None, os.environ.get("LLAMA_DFLASH_CLIENTS", "").split(os.pathsep)),
    *(str(CHECKOUT / folder / "bin" / "python") for folder in (".clients-venv", ".clients-venv/llama-index")),
    sys.executable,
]
ENVIRONMENT = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "OTEL_SDK_DISABLED": "true", "PYTHONWARNINGS": "ignore"}


@lru_cache(maxsize=None)
def python_with(modules: str):
    for python in PYTHONS:
        if os.path.exists(python) and subprocess.run([python, "-c", f"import {modules}"], env=ENVIRONMENT, capture_output=True).returncode == 0:
            return python
    return None


@pytest.fixture(scope="module")
def server(start, pair):
    return start(
        "-m", pair.target, "--draft-model", pair.drafter, "--budget", 8, "-c", 24000, "--api-key", KEY, "--temp", 0,
        GGML_CPU_BATCH_INVARIANT="1",
    )  # fmt: skip


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_script_of_the_library_ends_well(name, server):
    python = python_with(LIBRARIES[name])
    if python is None:
        pytest.skip(f"{LIBRARIES[name]} is not installed: `make clients` installs it")
    done = subprocess.run(
        [python, HERE / f"with_{name}.py", server.url, KEY], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:] + server.log[-2000:]
    said = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{said['library']} {said['version']}: {', '.join(said['did'])}")
