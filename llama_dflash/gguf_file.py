"""Reads what a GGUF file says about itself, without its tensors' data and without llama.cpp.

The gguf package reads such files too, but takes seconds for a vocabulary of 250,000 tokens and answers a damaged file
with whatever exception comes first. Here arrays are stepped over and decoded when somebody asks, and every problem is a
ValueError with a sentence.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

# GGUF's numbers for the types of values
STRING, ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_FORMATS = {kind: struct.Struct("<" + code) for kind, code in _NUMBERS.items()}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_MOST_DIMENSIONS = 4


@dataclass(frozen=True)
class Value:
    """One key's value, still as bytes of the file: `kind` is its GGUF type, `item_kind` that of an array's items."""

    kind: int
    start: int  # bytes from the start of the file, past an array's item type and count
    end: int
    item_kind: Optional[int] = None
    count: int = 1


@dataclass(frozen=True)
class Tensor:
    """Where a tensor is: shape as ggml has it (the row's length first), offset from the start of the file, in bytes."""

    name: str
    shape: Tuple[int, ...]
    type: str  # "BF16", "Q4_K", …
    offset: int
    n_bytes: int


def architecture(path: Union[str, "os.PathLike[str]"]) -> Optional[str]:
    """`general.architecture` of a GGUF file; None if the file does not say it: it is missing, damaged, or something else."""
    try:
        return GgufFile(path).get("general.architecture")
    except ValueError:
        return None


class GgufFile:
    """The keys and the list of tensors of a GGUF file.

    Args:
        path: The file. Of a model that was split into several, the first.

    Attributes:
        header_bytes: What of the file comes before the tensors' data.

    Raises:
        ValueError: If there is no such file, it is no GGUF file, or it is damaged or truncated.
    """

    def __init__(self, path: Union[str, "os.PathLike[str]"]) -> None:
        self.path = Path(path)
        self.values: Dict[str, Value] = {}
        self.tensors: List[Tensor] = []
        try:
            with self.path.open("rb") as file:
                self.n_bytes = os.fstat(file.fileno()).st_size
                magic = file.read(4)
                if magic != b"GGUF":
                    raise ValueError(f"{self.path} is no GGUF file: it starts with {magic!r}, expected b'GGUF'")
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise ValueError(f"no such file: {self.path}") from None
        except IsADirectoryError:
            raise ValueError(
                f"{self.path} is a folder, expected a GGUF file (`llama-dflash convert` makes one of a drafter's)"
            ) from None
        except OSError as error:
            raise ValueError(f"{self.path} can't be read: {error.strerror or error}") from None
        try:
            self._read()
        except (struct.error, UnicodeDecodeError, OverflowError, MemoryError):
            raise ValueError(
                f"{self.path} is damaged or truncated ({self.n_bytes} bytes): fetch or convert it again"
            ) from None

    def _read(self) -> None:
        version, n_tensors, n_values = struct.unpack_from("<IQQ", self._bytes, 4)
        if version not in (2, 3):
            raise ValueError(
                f"{self.path} is a GGUF file of version {version & 0xFFFF}, expected 2 or 3 (little endian)"
            )
        at = 24
        for _ in range(n_values):
            name, at = self._string(at)
            (kind,) = _U32.unpack_from(self._bytes, at)
            value = self._value(kind, at + 4)
            self.values[name] = value
            at = value.end
        infos = []
        for _ in range(n_tensors):
            name, at = self._string(at)
            (n_dims,) = _U32.unpack_from(self._bytes, at)
            if n_dims > _MOST_DIMENSIONS:
                raise ValueError(f"{self.path} is damaged: tensor {name} has {n_dims} dimensions")
            *shape, type_number, offset = struct.unpack_from(f"<{n_dims}QIQ", self._bytes, at + 4)
            at += 4 + 8 * n_dims + 12
            infos.append((name, tuple(shape), type_number, offset))
        self.header_bytes = at
        alignment = int(self.get("general.alignment", 32)) or 1
        start = -(-at // alignment) * alignment
        self.tensors = [self._tensor(name, shape, number, start + offset) for name, shape, number, offset in infos]
        for tensor in self.tensors:
            if tensor.offset + tensor.n_bytes > self.n_bytes:
                raise ValueError(
                    f"{self.path} is truncated: tensor {tensor.name} ends at byte {tensor.offset + tensor.n_bytes}, the"
                    f" file has {self.n_bytes}. Fetch or convert it again"
                )

    def _string(self, at: int) -> Tuple[str, int]:
        (length,) = _U64.unpack_from(self._bytes, at)
        end = at + 8 + length
        if end > self.n_bytes:
            raise struct.error
        return self._bytes[at + 8 : end].decode("utf-8", errors="replace"), end

    def _value(self, kind: int, at: int) -> Value:
        if kind != ARRAY:
            return Value(kind, at, self._end(kind, 1, at))
        item_kind, count = struct.unpack_from("<IQ", self._bytes, at)
        return Value(ARRAY, at + 12, self._end(item_kind, count, at + 12), item_kind, count)

    def _end(self, kind: int, count: int, at: int) -> int:
        """Where `count` items of a kind end that start at `at`."""
        if kind == STRING:
            for _ in range(count):
                at += 8 + _U64.unpack_from(self._bytes, at)[0]
        elif kind in _FORMATS:
            at += count * _FORMATS[kind].size
        else:
            raise ValueError(f"{self.path} is damaged: it has a value of type {kind}, which GGUF does not know")
        if at > self.n_bytes:
            raise struct.error
        return at

    def _tensor(self, name: str, shape: Tuple[int, ...], number: int, offset: int) -> Tensor:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType  # here: importing it takes a while

        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise ValueError(
                f"{self.path}: tensor {name} is of ggml type {number}, which the installed gguf package does not know: "
                "update it (pip install -U gguf), or the file is damaged"
            ) from None
        n_items = 1
        for n in shape:
            n_items *= n
        block, size = GGML_QUANT_SIZES[kind]
        return Tensor(name, shape, kind.name, offset, n_items // block * size)

    def get(self, key: str, default: Any = None) -> Any:
        """A key's value as Python has it, a list for an array; `default` if there is no such key."""
        value = self.values.get(key)
        if value is None:
            return default
        if value.kind == ARRAY:
            return [
                item.decode("utf-8", errors="replace") if isinstance(item, bytes) else item for item in self.items(key)
            ]
        (item,) = self._items(value.kind, 1, value.start)
        return item.decode("utf-8", errors="replace") if isinstance(item, bytes) else item

    def items(self, key: str) -> Iterator[Any]:
        """The items of a key that holds an array, strings as bytes."""
        value = self.values[key]
        return self._items(value.item_kind, value.count, value.start)

    def _items(self, kind: Optional[int], count: int, at: int) -> Iterator[Any]:
        if kind == STRING:
            for _ in range(count):
                (length,) = _U64.unpack_from(self._bytes, at)
                yield self._bytes[at + 8 : at + 8 + length]
                at += 8 + length
        elif kind in _FORMATS:
            yield from struct.unpack_from(f"<{count}{_NUMBERS[kind]}", self._bytes, at)
        else:
            raise ValueError(f"{self.path} is damaged: it holds arrays of arrays")

    def find_tensor(self, name: str) -> Optional[Tuple["GgufFile", Tensor]]:
        """A tensor of this file or of another part of the model, with the part that has it."""
        for part in self.parts():
            for tensor in part.tensors:
                if tensor.name == name:
                    return part, tensor
        return None

    def data(self, tensor: Tensor) -> memoryview:
        """A tensor's bytes in this file."""
        return memoryview(self._bytes)[tensor.offset : tensor.offset + tensor.n_bytes]

    def count(self, key: str) -> int:
        """How many items the array of a key has; 0 if there is no such key."""
        return self.values[key].count if key in self.values else 0

    def raw(self, key: str) -> bytes:
        """A value's bytes in the file, for comparing."""
        value = self.values[key]
        return self._bytes[value.start : value.end]

    def digest(self, prefix: str) -> str:
        """A SHA-256 over every key that starts with `prefix` and its value."""
        digest = hashlib.sha256()
        for key in sorted(k for k in self.values if k.startswith(prefix)):
            digest.update(key.encode() + b"\0" + self.raw(key))
        return digest.hexdigest()

    # ------------------------------------------------------------ what a model's file says

    @property
    def arch(self) -> str:
        return str(self.get("general.architecture", "?"))

    def of_arch(self, key: str, default: Any = None) -> Any:
        """The value of a key below the architecture's name, such as "block_count"."""
        return self.get(f"{self.arch}.{key}", default)

    @property
    def n_layers(self) -> int:
        """Layers of the model itself: without those for multi-token prediction, which come last."""
        return int(self.of_arch("block_count", 0)) - int(self.of_arch("nextn_predict_layers", 0))

    @property
    def n_vocab(self) -> int:
        return self.count("tokenizer.ggml.tokens")

    def parts(self) -> List["GgufFile"]:
        """This file and, of a model that was split, its other parts."""
        n_parts = int(self.get("split.count", 1) or 1)
        match = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", self.path.name)
        if n_parts <= 1 or match is None:
            return [self]
        names = (f"{match.group(1)}-{i:05}-of-{match.group(2)}.gguf" for i in range(2, n_parts + 1))
        return [self, *(GgufFile(self.path.with_name(name)) for name in names)]
