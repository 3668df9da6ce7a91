"""Types, memory and progress of a conversion."""

import tracemalloc

import gguf
import numpy as np
import pytest
from checkpoints import dflash_shapes, random_tensors, write_case, write_safetensors
from models import write_target

import llama_dflash.convert.checkpoint as checkpoint_module
from llama_dflash.convert import TYPES, convert
from llama_dflash.progress import Progress


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return write_target(tmp_path_factory.mktemp("target") / "target.gguf", n_layer=4)


def tensors(path):
    return {tensor.name: tensor for tensor in gguf.GGUFReader(str(path)).tensors}


@pytest.mark.parametrize("kind", TYPES)
def test_matrices_have_the_type_and_are_what_gguf_makes_of_them(tmp_path, target, kind):
    written = tensors(convert(write_case(tmp_path, "plain"), target, tmp_path / "d.gguf", kind))
    original = random_tensors(dflash_shapes(), "BF16")
    values = (original["layers.1.mlp.down_proj.weight"][1].astype(np.uint32) << 16).view(np.float32)
    matrix = written["blk.1.ffn_down.weight"]
    assert matrix.tensor_type.name == kind.upper()
    expected = gguf.quants.quantize(values, matrix.tensor_type)
    assert np.array_equal(matrix.data.view(np.uint8), expected.view(np.uint8))
    assert written["blk.1.attn_norm.weight"].tensor_type.name == written["output_norm.weight"].tensor_type.name == "F32"


def test_a_row_that_a_type_does_not_divide_is_f16(tmp_path, target):
    case = write_case(tmp_path, "plain", intermediate_size=80)
    shapes = {name: tuple(80 if n == 96 else n for n in shape) for name, shape in dflash_shapes().items()}
    write_safetensors(case / "model.safetensors", random_tensors(shapes, "BF16"))
    written = tensors(convert(case, target, tmp_path / "d.gguf", "q8_0"))
    assert written["blk.0.ffn_down.weight"].tensor_type.name == "F16"  # rows of 80, blocks of 32
    assert written["blk.0.ffn_up.weight"].tensor_type.name == "Q8_0"


@pytest.mark.parametrize("prefix", ["model.", "model.language_model."])
def test_what_exports_put_before_a_name_does_not_matter(tmp_path, target, prefix):
    plain = convert(write_case(tmp_path, "plain"), target, tmp_path / "plain.gguf")
    prefixed = convert(write_case(tmp_path / "other", "plain", prefix), target, tmp_path / "prefixed.gguf")
    assert prefixed.read_bytes() == plain.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        b"---\na: [b\n---\n",
        b"---\nlanguage: [no, 2]\n---\n",
        b"---\nlicense: [1, 2]\ntags: 7\n---\n",
        b"---\nlicense: 3.5\n---\n",
        b"\xff---\n",
    ],
)
def test_a_model_card_that_can_not_be_read_is_left_out(tmp_path, target, text):
    checkpoint = write_case(tmp_path, "plain")
    (checkpoint / "README.md").write_bytes(text)
    fields = gguf.GGUFReader(str(convert(checkpoint, target, tmp_path / "d.gguf"))).fields
    assert fields["general.name"].contents() == "plain-DFlash" and "general.license" not in fields


@pytest.mark.parametrize("kind", ["auto", "q8_0"])
def test_rows_are_read_a_few_at_a_time(tmp_path, target, monkeypatch, kind):
    checkpoint = write_case(tmp_path, "own-head")
    whole = convert(checkpoint, target, tmp_path / "whole.gguf", kind).read_bytes()
    monkeypatch.setattr(checkpoint_module.Source.chunks, "__defaults__", (1000,))
    assert convert(checkpoint, target, tmp_path / "chunks.gguf", kind).read_bytes() == whole


def test_memory_stays_far_below_a_large_tensor(tmp_path, target):
    n_ff = 400_000  # three matrices of 49 MiB
    checkpoint = write_case(tmp_path, "plain", intermediate_size=n_ff, num_hidden_layers=1)
    shapes = {name: tuple(n_ff if n == 96 else n for n in shape) for name, shape in dflash_shapes(1).items()}
    small = random_tensors({name: shape for name, shape in shapes.items() if n_ff not in shape}, "BF16")
    large = {name: ("BF16", np.zeros(shape, dtype=np.uint16)) for name, shape in shapes.items() if n_ff in shape}
    write_safetensors(checkpoint / "model.safetensors", {**small, **large})
    del large
    tracemalloc.start()
    try:
        convert(checkpoint, target, tmp_path / "d.gguf")
        assert tracemalloc.get_traced_memory()[1] < 60 << 20  # a chunk is 16 MiB, and is there twice at times
    finally:
        tracemalloc.stop()


def test_progress_counts_the_bytes(tmp_path, target):
    calls = []
    path = convert(
        write_case(tmp_path, "plain"), target, tmp_path / "d.gguf", on_progress=lambda *call: calls.append(call)
    )
    done, totals = zip(*calls)
    assert sorted(done) == list(done) and set(totals) == {done[-1]}
    assert done[-1] == sum(tensor.n_bytes for tensor in tensors(path).values())


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_shows_after_a_second(monkeypatch, capsys, is_terminal):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    progress = Progress("converting x")
    for i in range(101):
        clock[0] = i * 0.04
        progress(i << 20, 100 << 20)
    progress.close()
    shown = capsys.readouterr().err
    lines = [line for line in shown.replace("\r\033[K", "\n").split("\n") if line]
    assert lines[-1] == "converting x: 100 % of 100 MiB, 4 s"
    assert lines[0].startswith("converting x: 2") and len(lines) == (76 if is_terminal else 9)
    assert shown.endswith("\n")
