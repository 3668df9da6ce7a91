"""Damaged targets that llama.cpp would abort at, or hang: a ValueError that says what was found. In a process of its own."""

import struct
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

sys.path.append(str(Path(__file__).parents[1] / "fuzz"))

from damage import Gguf  # noqa: E402
from drafter_models import make_predictable  # noqa: E402
from models import write_hybrid, write_target  # noqa: E402

SCRIPT = """
import itertools, sys
from llama_dflash import Llama

try:
    llm = Llama(sys.argv[1], n_ctx=64, n_batch=32, n_ubatch=32, n_threads=1, n_threads_batch=1, verbose=False)
except ValueError as error:
    print("refused:", error)
else:
    print("loaded", list(itertools.islice(llm.generate(list(b"0123"), temp=0.0), 3)))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    dense = make_predictable(write_target(folder / "llama.gguf"))
    hybrid = make_predictable(write_hybrid(folder / "qwen35.gguf", n_layer=4))
    return {"llama": Gguf(dense), "qwen35": Gguf(hybrid)}


def outcome(data, tmp_path):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60
    )
    assert run.returncode == 0, f"exit code {run.returncode}\n{run.stderr[-1500:]}"
    return run.stdout


def with_number(file, name, value):
    _, offset, form = next(number for number in file.numbers if number[0] == name)
    packed = struct.pack(form, value)
    return file.data[:offset] + packed + file.data[offset + len(packed) :]


@pytest.mark.parametrize(
    "arch, name, value, message",
    [
        ("llama", "llama.attention.layer_norm_rms_epsilon", float("nan"), "layer_norm_rms_epsilon = nan, expected 0 to 1"),
        ("llama", "llama.attention.layer_norm_rms_epsilon", -1.0, "layer_norm_rms_epsilon = -1"),
        ("llama", "llama.block_count", 1 << 31, "llama.block_count = 2147483648, expected 1 to 1024"),
        ("qwen35", "qwen35.rope.dimension_count", 1, "dimension_count = 1, expected an even number"),
        ("qwen35", "qwen35.rope.dimension_count", 255, "dimension_count = 255, expected an even number up to 32"),
        ("qwen35", "qwen35.rope.dimension_count", 0, "dimension_count = 0"),
        ("qwen35", "qwen35.rope.dimension_sections", 255, "do not fit its heads of 32"),
        ("qwen35", "qwen35.ssm.inner_size", 255, "inner size of 255"),
        ("qwen35", "qwen35.full_attention_interval", 0, "full_attention_interval = 0"),
    ],
)
def test_a_number_that_no_model_has(files, tmp_path, arch, name, value, message):
    said = outcome(with_number(files[arch], name, value), tmp_path)
    assert said.startswith("refused: ") and message in said


@pytest.mark.parametrize("arch", ["llama", "qwen35"])
def test_a_tensor_that_nothing_computes_with(files, tmp_path, arch):
    file = files[arch]
    for name, kind in [("blk.0.attn_norm.weight", "I32"), ("blk.1.ffn_up.weight", "I32"), ("blk.0.ffn_gate.weight", "F64")]:
        i = next(i for i, tensor in enumerate(file.tensors) if tensor.name == name)
        said = outcome(file.with_type(i, gguf.GGMLQuantizationType[kind]), tmp_path)
        assert said.startswith("refused: ") and f"holds {name} as {kind.lower()}" in said


def test_a_vocabulary_that_has_a_token_twice(files, tmp_path):
    """llama.cpp asserts while it loads that there is none."""
    data = bytearray(files["llama"].data)
    at = data.index(struct.pack("<Q", 1) + b"0")
    data[at + 8] = ord("1")
    assert outcome(bytes(data), tmp_path).startswith("refused: ")


def test_a_file_that_ends_early(files, tmp_path):
    data = files["llama"].data
    assert "truncated" in outcome(data[: len(data) - 100], tmp_path)
    assert "no readable GGUF file" in outcome(data[:1000], tmp_path)


def test_a_file_without_damage_loads(files, tmp_path):
    for file in files.values():
        assert outcome(file.data, tmp_path).startswith("loaded [")
