"""`convert` against llama.cpp's own converter, where that one is right: reference/ holds what it wrote
(make_reference.py)."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import CASES, TYPES, write_case
from description import described

from llama_dflash.convert import convert
from llama_dflash.convert.config import default_target_layers

REFERENCE = Path(__file__).with_name("reference")

# Where llama.cpp's converter writes what the drafter's own class does not compute (docs/drafters.md): our keys, None for
# one of its that we leave out. What they do is compared with those classes in test_reference_drafters.py.
_OURS = {
    "window": {"attention.sliding_window_causal": ["BOOL", True]},
    "defaults": {"attention.sliding_window_causal": ["BOOL", True]},
    "own-head": {"attention.sliding_window_causal": ["BOOL", False], "rope.dimension_count": None},
    "dspark": {"target_output_norm": ["BOOL", True], "general.size_label": ["STRING", "156K"]},
    "dspark-gemma4": {"target_output_norm": ["BOOL", True], "general.size_label": ["STRING", "152K"]},
    "yarn": {
        "rope.scaling.attn_factor": ["FLOAT32", pytest.approx(1 + 0.1 * math.log(4))],
        **{f"rope.scaling.{name}": None for name in ("type", "factor", "original_context_length")},
        **{f"rope.scaling.yarn_{name}": None for name in ("beta_fast", "beta_slow")},
    },
}
# tensors; the head of "dspark" and "dspark-gemma4" is not the target's, where llama.cpp's converter takes for granted that it is
_OURS_ALONE = {"yarn": ["rope_freqs.weight"], "dspark": ["output.weight"], "dspark-gemma4": ["output.weight"]}
EXPECTED = json.loads((REFERENCE / "llama.cpp.json").read_text())


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", CASES)
def test_writes_what_llama_cpp_writes(tmp_path, name, kind):
    checkpoint = write_case(tmp_path, name)
    target = REFERENCE / f"{CASES[name].get('target', 'llama')}.gguf"
    written = described(convert(checkpoint, target, tmp_path / "out.gguf", kind))
    expected = EXPECTED[f"{name} {kind}"]
    ours = {key if key.startswith("general.") else f"dflash.{key}": value for key, value in _OURS.get(name, {}).items()}
    keys = {**expected["keys"], **ours}
    assert written["keys"] == {key: value for key, value in keys.items() if value is not None}
    for tensor in _OURS_ALONE.get(name, []):
        del written["tensors"][tensor]
    assert written["tensors"] == expected["tensors"]


def test_a_config_that_names_no_target_layers_reads_those_of_the_reference_class(tmp_path):
    """build_target_layer_ids of dflash and specforge; Python's round, half to even."""
    assert default_target_layers(64, 5) == [1, 16, 31, 46, 61]
    assert default_target_layers(33, 5) == [1, 8, 16, 23, 30]
    assert default_target_layers(48, 1) == [24]
    checkpoint = write_case(tmp_path, "plain", dflash_config={"mask_token_id": 316})
    written = convert(checkpoint, REFERENCE / "llama.gguf", tmp_path / "out.gguf")
    assert described(written)["keys"]["dflash.target_layers"][1] == [2, 2]


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
