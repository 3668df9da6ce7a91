"""Small programs around single files of native/engine, compiled once a module and fed through a pipe."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "native" / "engine"
TREE_OPS = ROOT / "vendor" / "ggml-tree-ops"


@pytest.fixture(scope="module")
def compile_program(tmp_path_factory):
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    header = next(ROOT.glob("build/*/src/*/vendor/llama.cpp/include/llama.h"), None)
    if compiler is None or header is None:
        pytest.skip("needs a C++ compiler and the unpacked llama.cpp of a build of this checkout")
    processes = []

    def start(main: str, *sources: str) -> subprocess.Popen:
        folder = tmp_path_factory.mktemp("program")
        (folder / "main.cpp").write_text(main)
        includes = [f"-I{p}" for p in (ENGINE, TREE_OPS, header.parent, header.parents[1] / "ggml" / "include")]
        command = [compiler, "-std=c++17", "-O2", *includes, str(folder / "main.cpp"), *(str(ENGINE / s) for s in sources)]
        command.append(str(TREE_OPS / "cpu" / "top-logprobs-row.cpp"))  # draft-tree.cpp needs it
        subprocess.run([*command, "-o", str(folder / "program")], check=True)
        processes.append(
            subprocess.Popen([str(folder / "program")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
