"""Damage to files, from a random number generator."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np

BYTES = [0, 1, 2, 0x7F, 0x80, 0xFF]
NUMBERS = [0, 1, 2, 3, 7, 127, 255, 1 << 15, 1 << 31, (1 << 32) - 1, -1, -(1 << 31), 1 << 62]
TYPES = [t for t in gguf.GGMLQuantizationType]
JSON_VALUES: list[Any] = [None, True, 0, -1, 1 << 40, 1e300, "", "x" * 300, [], [[]], {}, {"a": {}}, [0, "1"], "NaN"]


class Gguf:
    """A GGUF file in parts that can be damaged one by one."""

    def __init__(self, path: Path):
        self.data = path.read_bytes()
        reader = gguf.GGUFReader(str(path))
        self.tensors = reader.tensors
        self.alignment = reader.alignment
        self.infos = min(t.field.offset for t in reader.tensors)  # where the descriptions of tensors begin
        self.start = min(t.data_offset for t in reader.tensors)
        self.numbers = [spot for field in reader.fields.values() for spot in _numbers(field)]

    def damaged(self, rng: random.Random) -> tuple[str, bytes]:
        kind = rng.choice([self._truncated, self._flipped, self._flipped, self._other_number, self._retyped, self._retyped])
        return kind(rng)

    def _truncated(self, rng: random.Random) -> tuple[str, bytes]:
        n = rng.randrange(len(self.data)) if rng.random() < 0.5 else rng.randrange(self.start)
        return f"the first {n} of {len(self.data)} bytes", self.data[:n]

    def _flipped(self, rng: random.Random) -> tuple[str, bytes]:
        data, places = bytearray(self.data), []
        for _ in range(rng.choice([1, 1, 2, 5])):
            at = rng.randrange(self.start) if rng.random() < 0.9 else rng.randrange(self.start, len(data))
            data[at] = rng.choice([*BYTES, data[at] ^ (1 << rng.randrange(8))])
            places.append(at)
        return f"bytes at {places}", bytes(data)

    def _other_number(self, rng: random.Random) -> tuple[str, bytes]:
        name, offset, form = rng.choice(self.numbers)
        value: Any = rng.choice(NUMBERS)
        if form in ("<f", "<d"):
            value = rng.choice([0.0, -1.0, 1e30, -1e30, float("nan"), float("inf")])
            packed = struct.pack(form, value)
        else:
            packed = (value % (1 << 64)).to_bytes(8, "little")[: struct.calcsize(form)]
        return f"{name} = {value}", self.data[:offset] + packed + self.data[offset + len(packed) :]

    def _retyped(self, rng: random.Random) -> tuple[str, bytes]:
        """A tensor of another type, or another shape of as many numbers, in a file that is otherwise right."""
        i = rng.randrange(len(self.tensors))
        tensor = self.tensors[i]
        shape = [int(n) for n in tensor.shape]
        if rng.random() < 0.25:
            shape = rng.choice([shape[::-1], [*shape, 1], [int(np.prod(shape))], [1, *shape], [n + 1 for n in shape]])[:4]
        kind = rng.choice(TYPES)
        n = n_bytes(kind, shape)
        fill = np.random.default_rng(rng.randrange(1 << 30)).integers(0, 256, n, dtype=np.uint8).tobytes()
        if rng.random() < 0.5:
            fill = bytes(n)
        return f"{tensor.name} as {kind.name} {shape}", self._with(i, shape, kind, fill)

    def with_type(self, index: int, kind: gguf.GGMLQuantizationType) -> bytes:
        """The file with a tensor of another type, all zeros."""
        shape = [int(n) for n in self.tensors[index].shape]
        return self._with(index, shape, kind, bytes(n_bytes(kind, shape)))

    def _with(self, index: int, shape: list[int], kind: int, fill: bytes) -> bytes:
        infos, data = bytearray(), bytearray()
        for i, tensor in enumerate(self.tensors):
            of, type_ = [int(n) for n in tensor.shape], int(tensor.tensor_type)
            content = self.data[tensor.data_offset : tensor.data_offset + tensor.n_bytes]
            if i == index:
                of, type_, content = shape, int(kind), fill
            name = tensor.name.encode()
            infos += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(of))
            infos += b"".join(struct.pack("<Q", n) for n in of) + struct.pack("<IQ", type_, len(data))
            data += content
            data += bytes(-len(data) % self.alignment)
        head = self.data[: self.infos] + infos
        return head + bytes(-len(head) % self.alignment) + data


def n_bytes(kind: gguf.GGMLQuantizationType, shape: list[int]) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return -(-int(np.prod(shape)) // block) * size


def _numbers(field: gguf.ReaderField):
    """(name, offset, form) of the numbers in a key's value."""
    forms = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
    offsets, at = [], field.offset
    for part in field.parts:
        offsets.append(at)
        at += part.nbytes
    kinds = [int(t) for t in field.types]
    if kinds and kinds[-1] in forms and not field.name.startswith("GGUF."):
        for i in field.data[:8]:
            yield field.name, offsets[i], forms[kinds[-1]]


def damage_checkpoint(folder: Path, rng: random.Random) -> str:
    """Damages a published checkpoint in place: its config.json, or a safetensors file. Says how."""
    config, weights = folder / "config.json", next(folder.glob("*.safetensors"))
    kind = rng.choice(["value", "value", "key", "text", "header", "header", "truncated", "bytes"])
    if kind in ("value", "key"):
        return _damage_json(config, rng, kind)
    if kind == "text":
        return _damage_bytes(config, rng, 0, config.stat().st_size)
    n_header = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    if kind == "header":
        return _damage_bytes(weights, rng, 0, n_header)
    if kind == "bytes":
        return _damage_bytes(weights, rng, 0, weights.stat().st_size)
    data = weights.read_bytes()
    n = rng.randrange(len(data))
    weights.write_bytes(data[:n])
    return f"the first {n} bytes of {weights.name}"


def _damage_json(path: Path, rng: random.Random, kind: str) -> str:
    config = json.loads(path.read_text())
    at = config
    inner = [key for key, value in config.items() if isinstance(value, dict) and value]
    if inner and rng.random() < 0.4:
        at = config[rng.choice(inner)]
    key = rng.choice(sorted(at))
    if kind == "key":
        at[key + "x"] = at.pop(key)
        said = f"no {key}"
    else:
        at[key] = rng.choice(JSON_VALUES)
        said = f"{key} = {str(at[key])[:40]}"
    path.write_text(json.dumps(config))
    return said


def _damage_bytes(path: Path, rng: random.Random, first: int, end: int) -> str:
    data, places = bytearray(path.read_bytes()), []
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(first, end)
        data[at] = rng.choice([*BYTES, data[at] ^ (1 << rng.randrange(8))])
        places.append(at)
    path.write_bytes(bytes(data))
    return f"bytes of {path.name} at {places}"
