"""Tensors of a pytorch_model.bin, as torch.save() writes it since version 1.6, read without torch.

The file is a zip archive: one member is a pickle that says which tensors there are, the others, stored as they are, hold
their values. A pickle may run any code: here nothing is found but what a tensor consists of.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np

from .checkpoint import Source

_STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
_SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
# what zipfile and pickle raise for damaged files
_DAMAGE = (
    *(zipfile.BadZipFile, pickle.UnpicklingError, struct.error, KeyError, ValueError, TypeError, AttributeError, EOFError),
    *(IndexError, OverflowError, NotImplementedError, RecursionError, MemoryError, RuntimeError, OSError),
)
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member: ends with the lengths of its name and of an extra field


@dataclass(frozen=True)
class _Storage:
    dtype: str
    member: str


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    start: int  # in items
    shape: Tuple[int, ...]
    stride: Tuple[int, ...]


def read_torch_file(file: Path) -> Dict[str, Source]:
    """The tensors of a file, by name.

    Raises:
        ValueError: If it is damaged, of an older format, or holds something else than tensors by name.
    """
    try:
        with zipfile.ZipFile(file) as archive, file.open("rb") as data:
            members = {info.filename: info for info in archive.infolist()}
            (listing,) = [name for name in members if name.endswith("/data.pkl")]
            folder = listing[: -len("data.pkl")]
            tensors = _Listing(archive.open(listing)).load()
            if not isinstance(tensors, dict) or not all(isinstance(tensor, _Tensor) for tensor in tensors.values()):
                raise ValueError("it holds something else than tensors by name")
            return {
                str(name): _source(file, data, members[folder + "data/" + tensor.storage.member], tensor)
                for name, tensor in tensors.items()
            }
    except _DAMAGE as error:
        raise ValueError(
            f"{file} can't be read ({type(error).__name__}: {error}): expected what torch.save() writes of a model's tensors."
            " Fetch it again, or save it as safetensors"
        ) from None


def _source(file: Path, data: Any, member: zipfile.ZipInfo, tensor: _Tensor) -> Source:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{member.filename} is compressed")
    expected = tuple(int(np.prod(tensor.shape[i + 1 :], dtype=np.int64)) for i in range(len(tensor.shape)))
    if any(stride != wanted for stride, wanted, n in zip(tensor.stride, expected, tensor.shape) if n > 1):
        raise ValueError(f"a tensor of shape {list(tensor.shape)} has its values in another order")
    data.seek(member.header_offset)
    n_name, n_extra = _LOCAL_HEADER.unpack(data.read(_LOCAL_HEADER.size))
    size = _SIZES[tensor.storage.dtype]
    start, n_bytes = tensor.start * size, int(np.prod(tensor.shape, dtype=np.int64)) * size
    if start < 0 or start + n_bytes > member.file_size:
        raise ValueError(f"{member.filename} has {member.file_size} bytes, a tensor ends at {start + n_bytes}")
    offset = member.header_offset + _LOCAL_HEADER.size + n_name + n_extra + start
    if offset + n_bytes > file.stat().st_size:
        raise ValueError(f"{member.filename} ends after the file's last byte")
    return Source(file, tensor.storage.dtype, tensor.shape, offset, n_bytes)


def _rebuild(storage: _Storage, start: int, shape: Tuple[int, ...], stride: Tuple[int, ...], *_: Any) -> _Tensor:
    return _Tensor(storage, int(start), tuple(map(int, shape)), tuple(map(int, stride)))


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    return tensor


class _Listing(pickle.Unpickler):
    """A pickle in which tensors are places in the archive."""

    _KNOWN = {
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        ("collections", "OrderedDict"): OrderedDict,
    }

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no tensor consists of")
        return self._KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, member, *_ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"it asks for a {kind!r}")
        return _Storage(str(dtype), str(member))
