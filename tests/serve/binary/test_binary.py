"""llama.cpp's own server, as the package ships it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from llama_server import BINARY

SHIPPED = Path(__file__).resolve().parents[3] / "models"


def test_it_answers(start):
    server = start("-m", SHIPPED / "tiny-qwen35.gguf")
    assert server.get("/health") == {"status": "ok"}
    answer = server.complete("Once upon a time", 8)
    assert answer["tokens_predicted"] == 8 and answer["content"]


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("readelf"), reason="needs readelf")
def test_it_finds_the_libraries_of_the_package_wherever_that_is():
    dynamic = subprocess.run(["readelf", "-d", BINARY], capture_output=True, text=True).stdout
    paths = [line for line in dynamic.splitlines() if "RUNPATH" in line or "RPATH" in line]
    assert len(paths) == 1 and "[$ORIGIN/../lib]" in paths[0], paths
    assert "libllama.so]" in dynamic and "libmtmd.so]" in dynamic, dynamic


def test_it_ends_at_once_when_told(start):
    server = start("-m", SHIPPED / "tiny-qwen35.gguf")
    server.process.terminate()
    assert server.process.wait(2) == 0
