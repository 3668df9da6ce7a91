"""Whether a tensor of a checkpoint is a copy of the target's, in whatever quantisation the target's file has it."""

from __future__ import annotations

import gguf
import numpy as np

from ..gguf_file import GgufFile
from .checkpoint import Source, as_float32

N_ROWS = 32  # that are compared, from all over the tensor
MOST_ERROR = 0.5  # relative; quantisation to two bits makes about 0.3, another tensor 1.4


def is_copy(source: Source, target: GgufFile, name: str) -> bool:
    """Compares some rows of `source` [n_rows, n_columns] with the target's tensor `name`."""
    found = target.find_tensor(name)
    if found is None:
        return False
    file, tensor = found
    n_rows, n_columns = source.shape
    if tensor.shape != (n_columns, n_rows):
        return False
    kind = gguf.GGMLQuantizationType[tensor.type]
    rows = np.linspace(0, n_rows - 1, min(N_ROWS, n_rows)).astype(np.int64)
    theirs = np.frombuffer(file.data(tensor), dtype=np.uint8).reshape(n_rows, -1)[rows]
    try:
        theirs = gguf.quants.dequantize(theirs, kind)
    except NotImplementedError:  # a type that the package can't read
        return False
    ours = as_float32(source.rows(rows), source.dtype)
    norm = float(np.linalg.norm(ours))
    return norm > 0 and float(np.linalg.norm(ours - theirs)) < MOST_ERROR * norm
