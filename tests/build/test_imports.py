"""Which llama_cpp a process gets, and over which library, whatever is installed and imported first.

`stock` is an installed llama-cpp-python: its Python layer as it is in the sdist, over a libllama
without our functions. That library is ours with the name of one function changed, since compiling
a real one takes minutes; the rules look at nothing else.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llama_dflash
from llama_dflash import _library

LIB = _library.lib_dir
WHERE = "import llama_cpp.llama_cpp as b, os; print(os.path.dirname(b.__file__), b._lib._name, sep='|')"


@pytest.fixture(scope="module")
def stock(sdist_tree, tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    shutil.copytree(sdist_tree / "llama_cpp", site / "llama_cpp")
    for pristine in (sdist_tree / ".pristine" / "llama_cpp").glob("*"):
        shutil.copy(pristine, site / "llama_cpp")
    shutil.copytree(LIB, site / "llama_cpp" / "lib")
    for library in (site / "llama_cpp" / "lib").glob("libllama.*"):
        data = library.read_bytes()
        assert b"\0llama_tree_decode\0" in data
        library.write_bytes(data.replace(b"\0llama_tree_decode\0", b"\0llama_tree_xxcode\0"))
    return site


def python(code, site=None, cwd=os.sep, **environment):
    environment = {**os.environ, **environment}
    environment.pop("PYTHONPATH", None)
    if site:
        environment["PYTHONPATH"] = str(site)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment)


def where(code, **options):
    """The folder of llama_cpp's Python layer and of its library after `code`."""
    done = python(f"{code}\n{WHERE}", **options)
    assert done.returncode == 0, done.stderr
    layer, library = done.stdout.strip().splitlines()[-1].split("|")
    return Path(layer), Path(library).parent


def import_error(code, **options):
    done = python(code, **options)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: "), done.stderr
    return last


def is_bundled(layer):
    return layer.parts[-3:] == ("llama_dflash", "_bundled", "llama_cpp")


def test_llama_dflash_brings_its_own_llama_cpp():
    layer, library = where("import llama_dflash")
    assert is_bundled(layer) and library == LIB


def test_the_environment_is_left_as_it_was():
    code = "import os; before = dict(os.environ); import llama_dflash; assert dict(os.environ) == before"
    assert python(code).returncode == 0
    assert python(code, LLAMA_CPP_LIB_PATH=str(LIB), MTMD_CPP_LIB="/somewhere").returncode == 0


def test_sys_path_is_left_as_it_was():
    assert python("import sys; p = list(sys.path); import llama_dflash; assert sys.path == p").returncode == 0


def test_without_llama_cpp_python_either_order_works():
    layer, library = where("import llama_cpp")
    assert is_bundled(layer) and library == LIB
    assert where("import llama_cpp, llama_dflash") == (layer, library)


def test_an_installed_llama_cpp_python_keeps_working(stock):
    assert where("import llama_cpp", site=stock) == (stock / "llama_cpp", stock / "llama_cpp" / "lib")


def test_llama_dflash_wins_over_an_installed_llama_cpp_python_when_first(stock):
    layer, library = where("import llama_dflash, llama_cpp.llama_chat_format, llama_cpp", site=stock)
    assert is_bundled(layer) and library == LIB


def test_llama_cpp_over_its_own_library_first_says_what_to_do(stock):
    message = import_error("import llama_cpp, llama_dflash", site=stock)
    assert "Import llama_dflash first" in message
    assert "from llama_dflash import Llama" in message
    assert str(stock / "llama_cpp" / "lib") in message


def test_llama_cpp_over_our_library_first_is_fine(stock):
    layer, library = where("import llama_cpp, llama_dflash", site=stock, LLAMA_CPP_LIB_PATH=str(LIB))
    assert layer == stock / "llama_cpp" and library == LIB


def test_another_version_of_llama_cpp_over_our_library_is_refused(stock, tmp_path):
    shutil.copytree(stock / "llama_cpp", tmp_path / "llama_cpp")
    init = tmp_path / "llama_cpp" / "__init__.py"
    init.write_text(init.read_text().replace(_library.LLAMA_CPP_PYTHON_VERSION, "0.3.1"))
    message = import_error("import llama_cpp, llama_dflash", site=tmp_path, LLAMA_CPP_LIB_PATH=str(LIB))
    assert "0.3.1" in message and _library.LLAMA_CPP_PYTHON_VERSION in message


def test_a_library_path_of_the_user_is_honoured_when_it_is_ours(stock, tmp_path):
    ours = tmp_path / "lib"
    shutil.copytree(LIB, ours)
    layer, library = where("import llama_dflash", site=stock, LLAMA_CPP_LIB_PATH=str(ours))
    assert is_bundled(layer) and library == ours


def test_a_library_path_of_the_user_that_is_not_ours_says_what_was_found(stock, tmp_path):
    theirs = stock / "llama_cpp" / "lib"
    message = import_error("import llama_dflash", LLAMA_CPP_LIB_PATH=str(theirs))
    assert str(theirs) in message and "lacks llama_tree_decode" in message and "Unset it" in message
    message = import_error("import llama_dflash", LLAMA_CPP_LIB_PATH=str(tmp_path))
    assert str(tmp_path) in message and "has no libllama" in message
    (tmp_path / "libllama.so").write_text("not a library")
    if sys.platform == "linux":
        assert "does not load" in import_error("import llama_dflash", LLAMA_CPP_LIB_PATH=str(tmp_path))


@pytest.mark.parametrize("first", ["llama_dflash", "llama_cpp"])
@pytest.mark.skipif(not list(LIB.glob("*mtmd*")), reason="built without mtmd")
def test_mtmd_comes_from_the_same_place(stock, tmp_path, first):
    code = f"import {first}, llama_cpp.mtmd_cpp as m; print(m._libmtmd._name)"
    done = python(code)
    assert Path(done.stdout.strip()).parent == LIB, done.stderr
    ours = tmp_path / "lib"
    shutil.copytree(LIB, ours)
    if first == "llama_dflash":
        for environment in ({}, {"LLAMA_CPP_LIB_PATH": str(ours)}):
            done = python(code, site=stock, **environment)
            assert Path(done.stdout.strip()).parent == (ours if environment else LIB), done.stderr


def test_a_source_checkout_uses_the_installed_libraries(checkout, tmp_path):
    shutil.copytree(checkout / "llama_dflash", tmp_path / "llama_dflash", ignore=shutil.ignore_patterns("lib", "_bundled"))
    layer, library = where(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import llama_dflash")
    assert is_bundled(layer) and library == LIB


def test_the_bundled_server_is_there():
    done = python("import importlib.util as u, llama_dflash; print(u.find_spec('llama_cpp.server.app').origin)")
    assert "_bundled" in done.stdout, done.stderr
    if all(importlib.util.find_spec(m) for m in ("uvicorn", "fastapi", "sse_starlette", "starlette_context", "pydantic_settings", "yaml")):
        assert python("import runpy, sys; sys.argv[1:] = ['--help']; runpy.run_module('llama_cpp.server')").returncode == 0


def test_the_bundled_layer_is_that_of_the_pinned_sdist(sdist_tree):
    bundled = Path(llama_dflash.__file__).parent / "_bundled" / "llama_cpp"
    for path in sorted(p for p in bundled.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        assert path.read_bytes() == (sdist_tree / "llama_cpp" / path.relative_to(bundled)).read_bytes(), path


def test_python_and_cmake_mean_the_same_version(pin):
    assert _library.LLAMA_CPP_PYTHON_VERSION == pin["version"]
