"""GGML_CUDA_BATCH_INVARIANT=1 and flash attention: on a GPU, trees, chains, batches and forests have plain decoding's bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models import GPU_SIZES, write_hybrid, write_target
from test_default_mode_exactness import quantised

WIDE = dict(n_layer=4, n_embd=256, n_ff=512)  # rows of whole blocks of 256, as K-quants want them
FTYPES = ["MOSTLY_F16", "MOSTLY_Q8_0", "MOSTLY_Q4_K_M"]
OTHERS = ["ALL_F32", "MOSTLY_BF16", "MOSTLY_Q4_0", "MOSTLY_Q5_K_M", "MOSTLY_Q6_K", "MOSTLY_IQ4_XS"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")

    def get(arch: str, ftype: str) -> Path:
        source, path = folder / f"{arch}.gguf", folder / f"{arch}-{ftype}.gguf"
        if not source.exists():
            if arch == "llama":
                write_target(source, arch, head_dim=64, **WIDE)
            else:
                write_hybrid(source, arch, n_expert=4, **{**GPU_SIZES[arch], **WIDE})
        return path if path.exists() else quantised(source, ftype)

    return get


def equal(program: str, *arguments: object, folder: Path, n_gpu_layers: int) -> None:
    """Where there is no GPU to be tested, by the CPU's mode."""
    mode = "GGML_CUDA_BATCH_INVARIANT" if n_gpu_layers else "GGML_CPU_BATCH_INVARIANT"
    run = subprocess.run(
        [sys.executable, str(Path(__file__).parent / program), *map(str, arguments)],
        cwd=folder,  # not where llama_dflash/ has no libraries
        env={**os.environ, mode: "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.stdout.startswith("equal"), run.stderr[-2000:]


@pytest.mark.gpu
@pytest.mark.parametrize("arch", ["llama", "qwen35"])
@pytest.mark.parametrize("ftype", FTYPES)
def test_two_thousand_tokens_of_random_rounds_are_equal(model, tmp_path, arch, ftype):
    equal("rounds_bit_for_bit.py", model(arch, ftype), 2000, "F16", -1, folder=tmp_path, n_gpu_layers=-1)


@pytest.mark.gpu
@pytest.mark.parametrize("ftype", OTHERS)
def test_other_weights(model, tmp_path, ftype):
    equal("rounds_bit_for_bit.py", model("llama", ftype), 500, "F16", -1, folder=tmp_path, n_gpu_layers=-1)


@pytest.mark.gpu
@pytest.mark.parametrize("kv", ["F32", "Q8_0", "Q4_0"])
def test_other_caches(model, tmp_path, kv):
    equal("rounds_bit_for_bit.py", model("llama", "MOSTLY_Q4_K_M"), 500, kv, -1, folder=tmp_path, n_gpu_layers=-1)


@pytest.mark.gpu
@pytest.mark.parametrize("arch", ["qwen35moe", "qwen3next"])
@pytest.mark.parametrize("ftype", ["MOSTLY_F16", "MOSTLY_Q4_K_M"])
def test_experts(model, tmp_path, arch, ftype):
    equal("rounds_bit_for_bit.py", model(arch, ftype), 500, "F16", -1, folder=tmp_path, n_gpu_layers=-1)


@pytest.mark.gpu
@pytest.mark.parametrize("arch", ["llama", "qwen35"])
@pytest.mark.parametrize("unified", [True, False], ids=["unified", "streams"])
def test_forests(model, tmp_path, arch, unified):
    path = model(arch, "MOSTLY_Q4_K_M")
    equal("forests.py", path, arch, unified, False, 1000, 7, -1, folder=tmp_path, n_gpu_layers=-1)


@pytest.mark.parametrize("arch", ["llama", "qwen35"])
def test_the_same_rounds_on_a_cpu(model, tmp_path, arch):
    equal("rounds_bit_for_bit.py", model(arch, "MOSTLY_Q8_0"), 200, "F16", 0, folder=tmp_path, n_gpu_layers=0)
