"""Compiles the programs of vendor/ggml-tree-ops/tests/ over the installed libraries."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable

import pytest

ROOT = Path(__file__).parents[2]
OPS = ROOT / "vendor" / "ggml-tree-ops"


def library_folder() -> Path:
    if "LLAMA_CPP_LIB_PATH" in os.environ:
        return Path(os.environ["LLAMA_CPP_LIB_PATH"])
    return Path(importlib.util.find_spec("llama_dflash").origin).parent / "lib"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> Callable[[str], Path]:
    """compiled(name): the program of tests/NAME.cpp."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    headers = ROOT.glob("build/*/src/*/vendor/llama.cpp/ggml/include/ggml.h")
    header = next((h for h in headers if "GGML_OP_SSM_CONV_TREE" in h.read_text(encoding="utf-8")), None)
    if compiler is None or header is None:
        pytest.skip("needs a C++ compiler and the patched llama.cpp of a build of this checkout")
    folder, library = tmp_path_factory.mktemp("ops"), library_folder()

    def compile_program(name: str) -> Path:
        command = [compiler, "-std=c++17", "-O2", f"-I{OPS}", f"-I{header.parent}", f"-I{header.parents[1] / 'src'}"]
        command += [str(OPS / "tests" / f"{name}.cpp")]
        command += [f"-L{library}", "-lggml", "-lggml-base", f"-Wl,-rpath,{library}", "-lpthread", "-o", str(folder / name)]
        subprocess.run(command, check=True)
        return folder / name

    return compile_program
