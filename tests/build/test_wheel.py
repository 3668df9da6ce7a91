"""What an installed llama-dflash consists of: everything that is needed and nothing else."""

import importlib.metadata
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from llama_dflash import _library

DIST = importlib.metadata.distribution("llama-dflash")
FILES = sorted(str(f) for f in DIST.files or [] if "__pycache__" not in str(f))


def installed_names():
    return FILES


def wheel_names():
    """The newest wheel in dist/, if `make wheel` left one."""
    wheels = sorted((Path(__file__).resolve().parents[2] / "dist").glob("*.whl"), key=lambda p: p.stat().st_mtime)
    return sorted(zipfile.ZipFile(wheels[-1]).namelist()) if wheels else pytest.skip("no wheel in dist/")


@pytest.mark.parametrize("names", [installed_names, wheel_names], ids=["installed", "wheel"])
def test_only_the_package_is_shipped(names):
    for name in names():
        ours = name.startswith(("llama_dflash/", "llama_dflash-")) or name == "llama_dflash.pth"
        assert ours or name.endswith("/bin/llama-dflash"), name
        assert not name.endswith((".h", ".hpp", ".cpp", ".cu", ".cmake", ".pc", ".a", ".patch")), name


@pytest.mark.parametrize("names", [installed_names, wheel_names], ids=["installed", "wheel"])
def test_the_schema_of_results_is_there(names):
    assert "llama_dflash/bench/results.schema.json" in names()


@pytest.mark.parametrize("names", [installed_names, wheel_names], ids=["installed", "wheel"])
def test_the_prompt_sets_are_there(names):
    assert "llama_dflash/bench/prompt_sets/edit.jsonl" in names()


@pytest.mark.parametrize("names", [installed_names, wheel_names], ids=["installed", "wheel"])
def test_libraries_are_there_once_each(names):
    libraries = [Path(n).name for n in names() if n.startswith("llama_dflash/lib/")]
    stems = [name.split(".")[0] for name in libraries]
    assert len(set(stems)) == len(stems), f"versioned copies: {libraries}"
    if sys.platform == "linux":
        assert {"libllama.so", "libggml.so", "libggml-base.so", "libllama_dflash.so"} <= set(libraries)


def test_the_licences_of_what_is_bundled_are_there():
    names = {Path(n).name for n in FILES if "licenses" in n}
    assert {"LICENSE", "LICENSE-llama.cpp.txt", "LICENSE-llama-cpp-python.txt"} <= names


def test_llama_cpp_python_is_no_dependency():
    """It would compile llama.cpp a second time."""
    assert not [r for r in DIST.requires or [] if r.lower().replace("_", "-").startswith("llama-cpp-python")]


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("readelf"), reason="needs readelf")
def test_libraries_find_each_other_wherever_the_package_is():
    for library in _library.lib_dir.glob("*.so"):
        dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True).stdout
        paths = [line for line in dynamic.splitlines() if "RUNPATH" in line or "RPATH" in line]
        assert len(paths) == 1 and "[$ORIGIN]" in paths[0], (library.name, paths)
