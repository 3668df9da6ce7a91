"""RPC workers: processes, on other hosts or this one, that hold layers of a model and compute them (docs/rpc.md).

A worker is `llama-dflash rpc-server`. The backend is ggml's; what is ours of it is in native/rpc.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from typing import Iterator, List, Optional, Sequence, Tuple, Union

from . import _library

TIMEOUT_SECONDS = 60.0  # the default: no forward pass should take a worker longer

_GPU, _ACCELERATOR = 1, 3  # of ggml_backend_dev_type

_size, _pointer, _text = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p

_SIGNATURES = {
    "ggml": {
        "ggml_backend_dev_count": (_size, []),
        "ggml_backend_dev_get": (_pointer, [_size]),
        "ggml_backend_dev_by_name": (_pointer, [_text]),
    },
    "ggml-base": {
        "ggml_backend_dev_name": (_text, [_pointer]),
        "ggml_backend_dev_description": (_text, [_pointer]),
        "ggml_backend_dev_memory": (None, [_pointer, ctypes.POINTER(_size), ctypes.POINTER(_size)]),
        "ggml_backend_dev_type": (ctypes.c_int, [_pointer]),
        "ggml_backend_reg_dev_count": (_size, [_pointer]),
        "ggml_backend_reg_dev_get": (_pointer, [_pointer, _size]),
    },
    "ggml-rpc": {
        "llama_dflash_rpc_build": (_text, []),
        "llama_dflash_rpc_set_timeout": (None, [ctypes.c_double]),
        "llama_dflash_rpc_connect": (_pointer, [_text]),
        "llama_dflash_rpc_n_lost": (ctypes.c_int64, [_text]),
        "llama_dflash_rpc_n_refused": (ctypes.c_int64, [_text]),
        "llama_dflash_rpc_why": (_text, [_text]),
        "llama_dflash_rpc_serve": (ctypes.c_int32, [_text, _text, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(_pointer)]),
    },
}


class WorkerError(RuntimeError):
    """An RPC worker can't be reached, is of another version, or was lost. What a lost one held of the model and of the text's
    memory is gone; the tokens are still in `Llama.input_ids`. Once the worker is back, a new `Llama` goes on from them."""


class _Functions:
    """Functions of ggml's libraries, by their names."""

    def __init__(self) -> None:
        for library_name, signatures in _SIGNATURES.items():
            try:
                library = _library.open_library(library_name)
            except ImportError:
                raise ValueError("this llama-dflash was built without RPC (-DGGML_RPC=off): build it again with it") from None
            for name, (restype, argtypes) in signatures.items():
                function = getattr(library, name)
                function.restype, function.argtypes = restype, argtypes
                setattr(self, name, function)


_functions: Optional[_Functions] = None


def _ggml() -> _Functions:
    global _functions
    if _functions is None:
        _library.load()  # of a command nobody has done it yet
        _functions = _Functions()
    return _functions


# ---------------------------------------------------------------- the client's side


def parse_endpoints(given: Union[str, Sequence[str]]) -> List[str]:
    """The workers of `rpc_servers=`: "host:port,host:port", or a list of such words.

    Raises:
        ValueError: If one is no host with a port, or is there twice.
    """
    words = given.split(",") if isinstance(given, str) else list(given)
    endpoints = [word.strip() if isinstance(word, str) else word for word in words]
    for endpoint in endpoints:
        match = re.fullmatch(r"([^\s:]+):(\d+)", endpoint) if isinstance(endpoint, str) else None
        if match is None or not 0 < int(match[2]) < 65536:
            raise ValueError(f'rpc_servers: {endpoint!r} is no worker, expected "host:port", or several with commas between them')
    if len(set(endpoints)) < len(endpoints):
        raise ValueError(f"rpc_servers: {given!r} names a worker twice")
    return endpoints


class Workers:
    """The workers of one `Llama`.

    Attributes:
        devices: For llama_model_params.devices: those of the workers, then this machine's GPUs, then NULL.
    """

    def __init__(self, endpoints: Sequence[str], timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Connects to them.

        Args:
            endpoints: "host:port" of each.
            timeout_seconds: Of a worker that does not answer. Counts for workers that this process is not connected to yet.

        Raises:
            WorkerError: If there is none, it is busy, or of another version.
            ValueError: If this llama-dflash has no RPC.
        """
        self._lost: Optional[str] = None  # why it is of no use any more
        self._failures = {endpoint: _failures(endpoint) for endpoint in endpoints}  # before this
        found = _devices(endpoints, timeout_seconds) if endpoints else []
        self.devices = (ctypes.c_void_p * (len(found) + 1))(*found, None) if found else None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Where what fails in a `with` block fails because a worker was lost, the error says so; after that, nothing is tried.

        Raises:
            WorkerError: Then, in place of the RuntimeError or ValueError.
        """
        self._check()
        try:
            yield
        except (RuntimeError, ValueError) as error:
            self._look(error)
            raise

    def loaded(self) -> None:
        """Nothing was lost while the model was loaded, and what can't be connected to from now on concerns others.

        Raises:
            WorkerError: If something was, where it was taken for something else.
        """
        self._look(None)
        self._failures = {endpoint: (_failures(endpoint)[0], None) for endpoint in self._failures}

    def _check(self) -> None:
        if self._lost is not None:
            raise WorkerError(self._lost)

    def _look(self, error: Optional[Exception]) -> None:
        for endpoint, before in self._failures.items():
            n_lost, n_refused = _failures(endpoint)
            if self._lost is None and (n_lost > before[0] or before[1] is not None and n_refused > before[1]):
                why = _ggml().llama_dflash_rpc_why(endpoint.encode()).decode()
                self._lost = f"{why}. The tokens are still in input_ids; once it is back, a new Llama goes on from them"
        if self._lost is not None and not isinstance(error, WorkerError):
            raise WorkerError(self._lost) from error


def _failures(endpoint: str) -> Tuple[int, Optional[int]]:
    """How many connections were lost so far, and how many could not be made."""
    return _ggml().llama_dflash_rpc_n_lost(endpoint.encode()), _ggml().llama_dflash_rpc_n_refused(endpoint.encode())


def _devices(endpoints: Sequence[str], timeout_seconds: float) -> List[int]:
    ggml = _ggml()
    ggml.llama_dflash_rpc_set_timeout(timeout_seconds)
    found: List[int] = []
    for endpoint in endpoints:
        reg = ggml.llama_dflash_rpc_connect(endpoint.encode())
        if not reg:
            why = ggml.llama_dflash_rpc_why(endpoint.encode()).decode() or f"the RPC worker {endpoint} has no devices"
            raise WorkerError(f"rpc_servers: {why}")
        found += [ggml.ggml_backend_reg_dev_get(reg, i) for i in range(ggml.ggml_backend_reg_dev_count(reg))]
    return found + _devices_here((_GPU,))


# ---------------------------------------------------------------- the worker's side


def _devices_here(types: Tuple[int, ...]) -> List[int]:
    ggml = _ggml()
    all_devices = [ggml.ggml_backend_dev_get(i) for i in range(ggml.ggml_backend_dev_count())]
    return [device for device in all_devices if ggml.ggml_backend_dev_type(device) in types]


def devices_to_serve(names: Optional[Sequence[str]] = None) -> List[int]:
    """The devices that a worker offers.

    Args:
        names: As ggml calls them, "CUDA0" or "CPU". None: all GPUs, or the CPU where there is none.

    Raises:
        ValueError: If there is no device of such a name.
    """
    ggml = _ggml()
    if names is None:
        return _devices_here((_GPU,)) or [ggml.ggml_backend_dev_by_name(b"CPU")]
    found = [ggml.ggml_backend_dev_by_name(name.encode()) for name in names]
    if not all(found):
        here = ", ".join(ggml.ggml_backend_dev_name(ggml.ggml_backend_dev_get(i)).decode() for i in range(ggml.ggml_backend_dev_count()))
        raise ValueError(f"no device {names[found.index(None)]!r}, expected some of: {here}")
    return found


def device_text(device: int) -> str:
    """Name, description and memory of a device, for people."""
    ggml = _ggml()
    free, total = _size(), _size()
    ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    name, description = ggml.ggml_backend_dev_name(device).decode(), ggml.ggml_backend_dev_description(device).decode()
    return f"{name}: {description}, {total.value >> 20} MiB, {free.value >> 20} MiB free"


def build() -> str:
    """Which build this is. A worker and its client have to be the same."""
    return _ggml().llama_dflash_rpc_build().decode()


def serve(endpoint: str, devices: Sequence[int], n_threads: int, cache: Optional[str] = None) -> str:
    """Serves clients at "address:port", one at a time, until the process ends.

    Returns:
        Why it could not: only then it returns.
    """
    ggml = _ggml()
    array = (ctypes.c_void_p * len(devices))(*devices)
    folder = None if cache is None else cache.encode()
    ggml.llama_dflash_rpc_serve(endpoint.encode(), folder, n_threads, len(devices), array)
    return ggml.llama_dflash_rpc_why(endpoint.encode()).decode() or "the port can't be used"
