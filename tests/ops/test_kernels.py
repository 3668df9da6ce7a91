"""The kernels of products with interleaved weights, compiled for each instruction set: equal to their plain twin, and to each
other, bit for bit. Those of other processors run in an emulator, or are only compiled."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OPS = ROOT / "vendor" / "ggml-tree-ops"
ROWS = OPS / "cpu" / "rows"
SOURCES = [OPS / "tests" / "test-kernels.cpp", ROWS / "activations.cpp", ROWS / "form.cpp", ROWS / "reference.cpp", *ROWS.glob("kernels*.cpp")]
X86 = {
    "AVX2": ("avx2 fma f16c", ["-mavx2", "-mfma", "-mf16c"]),
    "AVX-VNNI": ("avx2 fma f16c avx_vnni", ["-mavx2", "-mfma", "-mf16c", "-mavxvnni"]),
    "AVX-512 VNNI": ("avx512f avx512bw avx512vl avx512_vnni", ["-march=icelake-server"]),
}
NEON = ["-static", "-march=armv8.2-a+dotprod"]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """build(compiler, flags): the program, or a skip if there is no such compiler or it does not know the flags."""
    header = next(iter(ROOT.glob("build/*/src/*/vendor/llama.cpp/ggml/include/ggml.h")), None)
    if header is None:
        pytest.skip("needs ggml's headers, which a build of this checkout has")

    def compile_program(compiler: str, flags: list) -> Path:
        if shutil.which(compiler) is None:
            pytest.skip(f"{compiler} is not installed")
        if subprocess.run([compiler, *flags, "-E", "-x", "c++", os.devnull], capture_output=True).returncode != 0:
            pytest.skip(f"{compiler} does not know {' '.join(flags)}")
        program = tmp_path_factory.mktemp("kernels") / "test-kernels"
        includes = [f"-I{OPS}", f"-I{header.parent}", f"-I{header.parents[1] / 'src'}"]
        subprocess.run([compiler, "-std=c++17", "-O1", *flags, *includes, *map(str, SOURCES), "-o", str(program)], check=True)
        return program

    return compile_program


@pytest.fixture(scope="module")
def outputs():
    return {}


def compare(outputs: dict, name: str, command: list) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert name in done.stderr, f"compiled for {name}, and it says {done.stderr}"
    assert len(done.stdout.splitlines()) == 14
    outputs[name] = done.stdout
    assert len(set(outputs.values())) == 1, outputs


@pytest.mark.parametrize("name", X86)
def test_kernels_for_x86_equal_their_plain_twin(build, outputs, name):
    needed, flags = X86[name]
    try:
        here = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        pytest.skip("needs Linux: /proc/cpuinfo says what the processor can run")
    if "avx2" not in here:
        pytest.skip("needs an x86 processor")
    program = build("g++", flags)
    missing = set(needed.split()) - here
    if missing:
        pytest.skip(f"compiled; this processor has no {', '.join(sorted(missing))} to run it")
    compare(outputs, name, [str(program)])


def test_kernels_for_arm_give_the_bits_of_those_for_x86(build, outputs):
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed (Debian: qemu-user)")
    program = build("aarch64-linux-gnu-g++", NEON)
    compare(outputs, "NEON dotprod", ["qemu-aarch64", "-cpu", "max", str(program)])
