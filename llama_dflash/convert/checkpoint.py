"""A checkpoint as it is published: config.json and safetensors files, or one of torch's own (torch_file.py). Read without
torch, a few rows at a time.

The format: 8 bytes with the length of a JSON header, the header (type, shape and place of every tensor), the data.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import numpy.typing as npt

CHUNK_BYTES = 16 << 20  # of a tensor that is read at once

# bfloat16, which numpy lacks, is read as uint16
_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "I32": np.int32,
    "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A tensor in a safetensors file. `shape` as in torch: a matrix is [out, in]."""

    file: Path
    dtype: str
    shape: Tuple[int, ...]
    offset: int  # bytes
    n_bytes: int

    def read(self) -> npt.NDArray[Any]:
        """All of it, bfloat16 as uint16."""
        return next(self.chunks(max(self.n_bytes, 1)), np.empty(self.shape, _TYPES[self.dtype])).reshape(self.shape)

    def rows(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Some rows of a matrix, bfloat16 as uint16."""
        values = np.memmap(self.file, _TYPES[self.dtype], "r", self.offset, self.shape)
        return np.array(values[indices])

    def chunks(self, most_bytes: int = CHUNK_BYTES) -> Iterator[npt.NDArray[Any]]:
        """Its rows [some of the rows, row's length], about `most_bytes` of them at a time."""
        width = self.shape[-1] if self.shape else 1
        row_bytes = max(width * np.dtype(_TYPES[self.dtype]).itemsize, 1)
        n_rows = self.n_bytes // row_bytes
        step = max(most_bytes // row_bytes, 1)
        with self.file.open("rb") as file:
            file.seek(self.offset)
            for first in range(0, n_rows, step):
                n = min(step, n_rows - first)
                yield np.frombuffer(file.read(n * row_bytes), dtype=_TYPES[self.dtype]).reshape(n, width)


def as_float32(values: npt.NDArray[Any], dtype: str) -> npt.NDArray[np.float32]:
    """Values as they were read from a safetensors file of type `dtype`, as float32."""
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


class Checkpoint:
    """The config and the tensors of a checkpoint.

    Args:
        path: A folder with config.json and model.safetensors, model-*-of-*.safetensors or pytorch_model.bin; or such a file
            beside a config.json. A shard of several stands for its folder.

    Raises:
        ValueError: If a file is missing, damaged or truncated.
    """

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        path = Path(path)
        is_file = path.is_file()
        self.folder = path.parent if is_file else path
        if not path.exists():
            raise ValueError(f"no such checkpoint: {path}")
        self.config = self._read_config(path)
        if (self.folder / "mask_embedding.pt").is_file():
            raise ValueError(
                f"{self.folder} has a mask embedding of its own (mask_embedding.pt), which does not convert here: use"
                " llama.cpp's convert_hf_to_gguf.py --target-model-dir"
            )
        names = [path.name] if is_file and "-of-" not in path.name else self._part_names()
        self.files = [self.folder / name for name in names]
        self.tensors: Dict[str, Source] = {}
        for file in self.files:
            self.tensors.update(_tensors_of(file))
        self._check_index()

    def _read_config(self, path: Path) -> Dict[str, Any]:
        file = self.folder / "config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(
                f"{path} has no config.json {'beside' if path.is_file() else 'in'} it, which says how the drafter is"
                " built: fetch the whole checkpoint (config.json and *.safetensors) into one folder"
            ) from None
        except (OSError, ValueError, RecursionError) as error:  # the last: nested thousands of levels deep
            raise ValueError(f"{file} is no readable JSON ({error}): fetch it again") from None
        if not isinstance(config, dict):
            raise ValueError(f"{file} holds a {type(config).__name__}, expected an object: fetch it again")
        return config

    def _index(self) -> Dict[str, str]:
        """Which file each tensor is in, where the checkpoint says so."""
        file = self.folder / "model.safetensors.index.json"
        if not file.is_file():
            return {}
        try:
            weight_map = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
            return {str(name): str(part) for name, part in weight_map.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"{file} holds no weight_map: fetch it again") from None

    def _part_names(self) -> List[str]:
        # as llama.cpp's converter: what the index names, else every model*.safetensors
        names = sorted(set(self._index().values()))
        names = names or sorted(f.name for f in self.folder.glob("model*.safetensors"))
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise ValueError(
                f"{self.folder} lacks {', '.join(missing)}, which model.safetensors.index.json names: fetch the rest"
            )
        if not names and (self.folder / "pytorch_model.bin").is_file():
            return ["pytorch_model.bin"]
        if not names:
            found = ", ".join(sorted(f.name for f in self.folder.iterdir())[:8]) or "nothing"
            raise ValueError(
                f"{self.folder} has no model*.safetensors, nor a pytorch_model.bin (found: {found}): fetch the checkpoint's"
                " weights"
            )
        return names

    def _check_index(self) -> None:
        if len(self.files) > 1:
            missing = sorted(set(self._index()) - set(self.tensors))
            if missing:
                raise ValueError(
                    f"{self.folder} lacks {len(missing)} tensors that model.safetensors.index.json names, such as"
                    f" {missing[0]}: its files are of different downloads, fetch it again"
                )


def _tensors_of(file: Path) -> Dict[str, Source]:
    if file.suffix != ".bin":
        return _read_header(file)
    from .torch_file import read_torch_file

    return read_torch_file(file)


def _read_header(file: Path) -> Dict[str, Source]:
    n_bytes = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if n_bytes < 8 or 8 + length > n_bytes:
            raise ValueError(
                f"{file} is truncated or no safetensors file: its header ends at byte {8 + length}, the file has"
                f" {n_bytes}"
            )
        try:
            header = json.loads(opened.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            return {name: _source(file, name, entry, 8 + length, n_bytes) for name, entry in sorted(entries.items())}
        except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} has a damaged header ({type(error).__name__}: {error}): fetch it again") from None


def _source(file: Path, name: str, entry: Dict[str, Any], start: int, n_bytes: int) -> Source:
    dtype, shape, (first, last) = entry["dtype"], tuple(int(n) for n in entry["shape"]), entry["data_offsets"]
    if dtype not in _TYPES:
        raise ValueError(
            f"{file}: tensor {name} is of type {dtype}, expected BF16, F16 or F32: quantised checkpoints do not"
            " convert, take the original one"
        )
    if start + last > n_bytes:
        raise ValueError(
            f"{file} is truncated: tensor {name} ends at byte {start + last}, the file has {n_bytes}. Fetch it again"
        )
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(_TYPES[dtype]).itemsize
    if first < 0 or last - first != size:
        raise ValueError(
            f"{file} is damaged: tensor {name} of shape {list(shape)} has {last - first} bytes, expected {size}"
        )
    return Source(file, dtype, shape, start + first, size)
