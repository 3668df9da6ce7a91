"""`convert` against llama.cpp's own converter: reference/ holds what that one wrote (make_reference.py)."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import CASES, TYPES, write_case
from description import described

from llama_dflash.convert import convert

REFERENCE = Path(__file__).with_name("reference")
EXPECTED = json.loads((REFERENCE / "llama.cpp.json").read_text())


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", CASES)
def test_writes_what_llama_cpp_writes(tmp_path, name, kind):
    checkpoint = write_case(tmp_path, name)
    target = REFERENCE / f"{CASES[name].get('target', 'llama')}.gguf"
    written = described(convert(checkpoint, target, tmp_path / "out.gguf", kind))
    expected = EXPECTED[f"{name} {kind}"]
    assert written["keys"] == expected["keys"]
    assert written["tensors"] == expected["tensors"]


def test_the_reference_is_what_llama_cpp_writes(tmp_path):
    """Where its converter's own requirements are installed; they are large, and no requirement of ours."""
    script = Path(__file__).with_name("make_reference.py")
    sources = next(script.parents[2].glob("build/*/src/*/vendor/llama.cpp"), None)
    missing = [name for name in ("torch", "transformers", "sentencepiece") if importlib.util.find_spec(name) is None]
    if missing or sources is None:
        pytest.skip(f"needs {', '.join(missing) or 'the unpacked llama.cpp of a build of this checkout'}")
    done = subprocess.run([sys.executable, str(script), str(sources), str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "llama.cpp.json").read_text()) == EXPECTED
