"""`convert` against llama.cpp's own converter: reference/ holds what that one wrote (make_reference.py)."""

import json
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
