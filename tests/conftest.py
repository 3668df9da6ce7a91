"""Tests run over the installed package.

`python -m pytest` puts the current folder on sys.path, and the llama_dflash/ folder of a checkout
has no libraries: leave the checkout out, unless PYTHONPATH asks for it or nothing is installed.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

_asked_for = [Path(p).resolve() for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
if CHECKOUT not in _asked_for and "llama_dflash" not in sys.modules:
    _before = list(sys.path)
    sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != CHECKOUT]
    if importlib.util.find_spec("llama_dflash") is None:
        sys.path[:] = _before


def pytest_addoption(parser):
    parser.addoption("--cases", type=int, default=60, help="random cases of tests/oracle and of the fuzzers")
    parser.addoption("--forest-tokens", type=int, default=1000, help="tokens of each run of tests/tree/test_forests.py")
    parser.addoption("--soak-seconds", type=float, help="how long tests/serve/test_many_clients.py asks each server")
    parser.addoption("--upstream-tests", action="store_true", help="all tests of llama.cpp's server, not some (tests/serve/upstream)")


def pytest_collection_modifyitems(items):
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        from llama_dflash import _library

        if not _library.has_gpu():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="the installed llama-dflash has no GPU backend, or no GPU"))
