"""Converts a drafter as it is published, a safetensors checkpoint, into the GGUF file that llama.cpp reads.

What is written computes what the class of the drafter's authors computes (docs/drafters.md). Where llama.cpp's own
converter does that too, the file equals the one it writes, key by key and tensor by tensor. But the target is its GGUF
file instead of its checkpoint, nothing needs torch, and memory holds a few rows of one tensor at a time.

dflash.py plans what is written for a DFlash drafter: config.py reads its config (attention.py and rope.py: windows, causality
and rotary embeddings), keys.py makes the keys, tensors.py names and checks the tensors. eagle3.py plans it for an EAGLE-3 head.
checkpoint.py reads tensors (torch_file.py: those of a pytorch_model.bin), cache.py keeps converted drafters for
`Llama(draft_model=<checkpoint>)`.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Tuple, Union

import gguf
import numpy as np
import numpy.typing as npt

from ..gguf_file import ARRAY, GgufFile
from . import dflash, eagle3
from .checkpoint import Checkpoint, as_float32
from .tensors import Tensor

AUTO = "auto"
TYPES = {
    "f32": "ALL_F32",
    "bf16": "MOSTLY_BF16",
    "f16": "MOSTLY_F16",
    "q8_0": "MOSTLY_Q8_0",
    "q5_1": "MOSTLY_Q5_1",
    "q5_0": "MOSTLY_Q5_0",
    "q4_1": "MOSTLY_Q4_1",
    "q4_0": "MOSTLY_Q4_0",
}
"""The types that matrices can be written in, and what GGUF calls such files."""

Path_ = Union[str, "os.PathLike[str]"]
OnProgress = Callable[[int, int], None]  # bytes written, bytes in all


def convert(
    checkpoint: Path_, target: Path_, out: Path_, type: str = AUTO, on_progress: Optional[OnProgress] = None
) -> Path:
    """Writes the GGUF file of a drafter.

    Args:
        checkpoint: The published drafter: a folder with config.json and *.safetensors, or such a file in one.
        target: The GGUF file of the target it was made for, in any quantisation. Its tokenizer goes into the drafter.
        out: Where to write. The file appears there when it is complete.
        type: Of the matrices: one of TYPES, or "auto" for BF16 where the checkpoint has BF16 and else F16, as llama.cpp's
            converter does. Norms and other vectors stay F32.
        on_progress: Is called with the number of bytes written and that of the whole file.

    Returns:
        The path written to.

    Raises:
        ValueError: If the checkpoint is no drafter's, incomplete or damaged, or was not made for the target.
        OSError: If the file can't be written.
    """
    job = _Job(Checkpoint(checkpoint), GgufFile(target), type)
    out = Path(out)
    with _appears_when_complete(out) as unfinished:
        job.write(unfinished, on_progress or (lambda done, total: None))
    return out


def check(checkpoint: Path_, target: Path_) -> None:
    """Finds out whether `convert` would convert a checkpoint for a target. Only headers and small tables are read.

    Raises:
        ValueError: If the checkpoint is no drafter's, incomplete or damaged, or was not made for the target.
    """
    _Job(Checkpoint(checkpoint), GgufFile(target), AUTO)


class _Job:
    """A conversion whose parts have been found to fit."""

    def __init__(self, checkpoint: Checkpoint, target: GgufFile, type: str) -> None:
        self.checkpoint = checkpoint
        self.target = target
        kind = eagle3 if eagle3.is_eagle3(checkpoint.config) else dflash
        self.plan = kind.plan(checkpoint, target)
        self.type = self._guessed_type() if type == AUTO else type
        if self.type not in TYPES:
            raise ValueError(
                f"type is {type!r}, expected {AUTO} or one of {', '.join(TYPES)}: llama.cpp's llama-quantize makes"
                " others of an f16 file"
            )

    def _guessed_type(self) -> str:
        types = self.plan.matrix_types
        return next(({"BF16": "bf16", "F16": "f16"}[dtype] for dtype in types if dtype in ("BF16", "F16")), "f16")

    def write(self, path: Path, on_progress: OnProgress) -> None:
        tensors = self.plan.tensors
        types = [self._type_of(tensor) for tensor in tensors]
        sizes = [_n_bytes(tensor, kind) for tensor, kind in zip(tensors, types)]
        writer = gguf.GGUFWriter(path, self.plan.arch)
        for tensor, kind, size in zip(tensors, types, sizes):
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, raw_dtype=kind)
        self._add_keys(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        self._append_data(path, list(zip(tensors, types)), sum(sizes), on_progress)

    def _type_of(self, tensor: Tensor) -> gguf.GGMLQuantizationType:
        types = gguf.GGMLQuantizationType
        if tensor.dtype == "I64":
            return types.I64
        if len(tensor.shape) < 2 or tensor.name.endswith("_norm.weight") or not tensor.name.endswith(".weight"):
            return types.F32
        wanted = types[self.type.upper()]
        block, _ = gguf.GGML_QUANT_SIZES[wanted]
        return wanted if tensor.shape[-1] % block == 0 else types.F16

    def _add_keys(self, writer: gguf.GGUFWriter) -> None:
        parameters = writer.get_total_parameter_count()
        about = _model_card(self.checkpoint.folder, parameters[0])
        about.name = about.name or self.checkpoint.folder.resolve().name
        about.size_label = about.size_label or gguf.size_label(*parameters)
        writer.add_type("model")
        about.set_gguf_meta_model(writer)
        for name, kind, value in self.plan.keys:
            getattr(writer, f"add_{kind}")(f"{self.plan.arch}.{name}", value)
        writer.add_file_type(gguf.LlamaFileType[TYPES[self.type]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        mask_key = "tokenizer.ggml.mask_token_id"
        for name in self.target.values:
            if name.startswith("tokenizer.") and (name != mask_key or self.plan.mask_token is None):
                writer.add_key_value(name, *_copied(self.target, name))
        if self.plan.mask_token is not None:
            writer.add_uint32(mask_key, self.plan.mask_token)

    def _append_data(self, path: Path, tensors: List[Tuple[Tensor, Any]], total: int, on_progress: OnProgress) -> None:
        done = 0
        with path.open("ab") as file:
            for tensor, kind in tensors:
                _pad(file)
                for chunk in tensor.chunks():
                    data = _encoded(chunk, tensor.dtype, kind)
                    file.write(data)
                    done += data.nbytes
                    on_progress(done, total)
            _pad(file)
            file.flush()
            os.fsync(file.fileno())  # so that the name never stands for less than the file


def _model_card(folder: Path, n_parameters: int) -> gguf.Metadata:
    """Name, licence and the like, from the checkpoint's README.md and its folder's name.

    A drafter needs none of it: where the README's front matter is no YAML, or holds what GGUF can't (`language: [no]` is
    false to YAML), it is left out.
    """
    try:
        about = gguf.Metadata.load(None, folder, None, n_parameters)
        values = [about.license, about.license_name, about.license_link, *(about.tags or []), *(about.languages or [])]
        about.set_gguf_meta_model(gguf.GGUFWriter(None, "dflash"))
    except Exception:
        return gguf.Metadata()
    return about if all(isinstance(value, (str, type(None))) for value in values) else gguf.Metadata()


def _copied(file: GgufFile, name: str) -> Tuple[Any, Any, Any]:
    """A key's value, type and items' type as GGUFWriter takes them. Strings stay bytes."""
    value, kinds = file.values[name], gguf.GGUFValueType
    if value.kind == ARRAY:
        return list(file.items(name)), kinds.ARRAY, kinds(value.item_kind)
    return file.get(name), kinds(value.kind), None


def _n_bytes(tensor: Tensor, kind: gguf.GGMLQuantizationType) -> int:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(tensor.shape, dtype=np.int64)) // block * size


def _encoded(rows: npt.NDArray[Any], dtype: str, kind: gguf.GGMLQuantizationType) -> npt.NDArray[Any]:
    """Rows of a tensor of type `dtype` as ggml has them."""
    return rows if kind.name == dtype else gguf.quants.quantize(as_float32(rows, dtype), kind)


def _pad(file: Any) -> None:
    file.write(b"\0" * (-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))


@contextlib.contextmanager
def _appears_when_complete(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which becomes `path` at the end, or goes away where an exception ends it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()
