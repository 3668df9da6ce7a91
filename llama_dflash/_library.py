"""Makes `llama_cpp` run over the patched libllama of this package, whatever else is installed.

The rules:
- `llama_cpp` is not imported yet: it is imported here, from the copy that the wheel bundles
  (`_bundled/`), over the libraries in `lib/`. An installed llama-cpp-python stays as it is and is
  what `import llama_cpp` means in processes that do not import llama_dflash.
- `llama_cpp` is imported and runs over a libllama of ours: nothing to do.
- `llama_cpp` is imported and runs over a library of its own: ImportError. One process can't use
  two of them.
- `LLAMA_CPP_LIB_PATH` is honoured if the libraries there are ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import sys
from pathlib import Path
from typing import Dict, Iterator, Optional

LLAMA_CPP_PYTHON_VERSION = "0.3.36"

_PACKAGE = Path(__file__).resolve().parent
_LIB_PATH = "LLAMA_CPP_LIB_PATH"
_OURS = "llama_tree_decode"  # the patched libllama exports it, a stock one does not

lib_dir: Path
"""Where the libraries in use are; set by `load`."""


def load() -> None:
    """Imports `llama_cpp` over the patched libraries, or raises ImportError that says what to do."""
    global lib_dir
    bindings = sys.modules.get("llama_cpp.llama_cpp")
    if bindings is None:
        _import_llama_cpp()
        bindings = sys.modules["llama_cpp.llama_cpp"]
    elif not hasattr(bindings._lib, _OURS):
        raise ImportError(
            "llama_cpp was imported before llama_dflash and runs over a library of its own: "
            f"{bindings._lib._name}. Import llama_dflash first: move `import llama_dflash` (or "
            "`from llama_dflash import Llama`) above the first `import llama_cpp` of this process."
        )
    found = sys.modules["llama_cpp"].__version__
    if found != LLAMA_CPP_PYTHON_VERSION:
        raise ImportError(
            f"llama_cpp {found} from {sys.modules['llama_cpp'].__file__} runs over the library of "
            f"llama_dflash, which needs llama_cpp {LLAMA_CPP_PYTHON_VERSION}. Unset {_LIB_PATH} and "
            "import llama_dflash before llama_cpp."
        )
    lib_dir = Path(bindings._lib._name).parent


def is_command_line() -> bool:
    """Whether this process is the command `llama-dflash`, which need not wait half a second for llama_cpp to say what its options are."""
    program = Path(sys.argv[0]).name if getattr(sys, "argv", None) else ""
    if program == "-m":
        words = getattr(sys, "orig_argv", [])  # since Python 3.10
        return any(pair == ("-m", "llama_dflash") for pair in zip(words, words[1:]))
    return program in ("llama-dflash", "llama-dflash.exe", "llama-dflash-script.py")


def open_library(name: str) -> ctypes.CDLL:
    """Opens another of our libraries, beside the libllama in use. `name` is without `lib` and suffix."""
    path = _library_file(lib_dir, name)
    if path is None:
        raise ImportError(f"no library '{name}' in {lib_dir}: build and install llama_dflash again")
    return ctypes.CDLL(str(path))


def has_gpu() -> bool:
    """Whether there is a GPU that this build computes on. (llama_supports_gpu_offload() also says yes to RPC, without a worker.)"""
    find = open_library("ggml").ggml_backend_dev_by_type
    find.argtypes, find.restype = [ctypes.c_int], ctypes.c_void_p
    return any(find(kind) for kind in (1, 2))  # GGML_BACKEND_DEVICE_TYPE_GPU, _IGPU


def _import_llama_cpp() -> None:
    libraries = _find_libraries()
    layer = _find_python_layer(libraries)
    # the stock mtmd_cpp, loaded late for images, has a variable of its own
    with _environment({_LIB_PATH: str(libraries), "MTMD_CPP_LIB": str(libraries)}):
        if layer is not None:
            sys.path.insert(0, str(layer))
        try:
            importlib.import_module("llama_cpp")
            if libraries != _PACKAGE / "lib" and _library_file(libraries, "mtmd"):
                importlib.import_module("llama_cpp.mtmd_cpp")
        finally:
            if layer is not None:
                sys.path.remove(str(layer))


def _find_libraries() -> Path:
    override = os.environ.get(_LIB_PATH)
    if override is not None:
        _check_override(Path(override))
        return Path(override).resolve()
    # a source checkout has no libraries: take those of the installed llama-dflash
    for find in (lambda: _PACKAGE, _installed_package):
        package = find()
        if package is not None and _library_file(package / "lib", "llama"):
            return package / "lib"
    raise ImportError(
        f"llama_dflash has no libraries in {_PACKAGE / 'lib'}. If this is a source checkout, run "
        f"`pip install .` in it; a build of your own is used with {_LIB_PATH}=<directory of libllama>."
    )


def _check_override(directory: Path) -> None:
    library = _library_file(directory, "llama")
    problem = "has no libllama"
    if library is not None:
        try:
            if hasattr(ctypes.CDLL(str(library)), _OURS):
                return
            problem = f"has a libllama without draft trees ({library.name} lacks {_OURS})"
        except OSError as error:
            problem = f"has a libllama that does not load ({error})"
    raise ImportError(
        f"{_LIB_PATH}={directory} {problem}. Unset it to use the library that llama_dflash ships, or "
        "point it to the llama_dflash/lib of a build of llama-dflash."
    )


def _find_python_layer(libraries: Path) -> Optional[Path]:
    """The folder to import `llama_cpp` from, or None for an installed llama-cpp-python."""
    for package in (_PACKAGE, libraries.parent):
        if (package / "_bundled" / "llama_cpp").is_dir():
            return package / "_bundled"
    import importlib.metadata  # here: it takes a while

    try:
        found = importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found == LLAMA_CPP_PYTHON_VERSION:
        return None
    raise ImportError(
        f"llama_dflash runs from a folder without the bundled llama_cpp ({_PACKAGE}) and needs "
        f"llama-cpp-python {LLAMA_CPP_PYTHON_VERSION}; installed is {found or 'none'}. Run `pip install .` "
        "in the source checkout."
    )


def _installed_package() -> Optional[Path]:
    import importlib.metadata

    try:
        path = importlib.metadata.distribution("llama-dflash").locate_file("llama_dflash")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(path))


def _library_file(directory: Path, name: str) -> Optional[Path]:
    for file in (f"lib{name}.so", f"lib{name}.dylib", f"{name}.dll", f"lib{name}.dll"):
        if (directory / file).is_file():
            return directory / file
    return None


@contextlib.contextmanager
def _environment(values: Dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
