"""What the build tests share: the source script as a module, and the pinned sdist if it is here."""

import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CMAKE_LISTS = (CHECKOUT / "CMakeLists.txt").read_text()
VERSION = re.search(r"LLAMA_CPP_PYTHON_VERSION (\S+)\)", CMAKE_LISTS).group(1)
SHA256 = re.search(r"LLAMA_CPP_PYTHON_SHA256 (\S+)\)", CMAKE_LISTS).group(1)

_spec = importlib.util.spec_from_file_location("llama_cpp_source", CHECKOUT / "cmake" / "llama_cpp_source.py")
llama_cpp_source = importlib.util.module_from_spec(_spec)
sys.modules["llama_cpp_source"] = llama_cpp_source  # dataclasses look their module up
_spec.loader.exec_module(llama_cpp_source)


@pytest.fixture(scope="session")
def source():
    return llama_cpp_source


@pytest.fixture(scope="session")
def checkout():
    return CHECKOUT


@pytest.fixture(scope="session")
def pin():
    return {"version": VERSION, "sha256": SHA256}


@pytest.fixture(scope="session")
def sdist():
    """The pinned llama-cpp-python sdist: the one the build used."""
    cached = llama_cpp_source.default_cache_dir() / f"llama_cpp_python-{VERSION}.tar.gz"
    for path in (Path(os.environ.get("LLAMA_CPP_SDIST", cached)), cached):
        if path.is_file():
            return path
    pytest.skip(f"no llama-cpp-python sdist: {cached} does not exist and LLAMA_CPP_SDIST is not set")


@pytest.fixture(scope="session")
def sdist_tree(sdist, tmp_path_factory):
    """The unpacked sdist with the whole series applied."""
    tree = tmp_path_factory.mktemp("sdist") / "tree"
    llama_cpp_source.prepare(tree, CHECKOUT / "patches", VERSION, SHA256, sdist=sdist)
    return tree
