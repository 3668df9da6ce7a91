"""What a conversion is going to write, once a checkpoint and its target have been found to fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, List, Optional, Tuple

from ..gguf_file import GgufFile
from .tensors import Tensor

Key = Tuple[str, str, Any]  # a name without "dflash.", the type by the name of GGUFWriter's method, the value

_CHECKS = {
    "uint32": lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32,
    "float32": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 3e38,
    "bool": lambda value: isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list) and len(value) > 0,
}
_EXPECTED = {
    "uint32": "a whole number",
    "float32": "a number",
    "bool": "true or false",
    "string": "text",
    "array": "a list with items",
}


@dataclass(frozen=True)
class Plan:
    """arch: The architecture, which keys are below. mask_token: None where a drafter has none."""

    arch: str
    keys: List[Key]
    tensors: List[Tensor]
    matrix_types: List[str]  # of the checkpoint's matrices, by safetensors' names
    mask_token: Optional[int]


def checked(keys: Iterator[Key]) -> Iterator[Key]:
    """The keys that have a value.

    Raises:
        ValueError: If one is of the wrong type.
    """
    for name, kind, value in keys:
        if value is None:
            continue
        if not _CHECKS[kind](value):
            raise ValueError(f"config.json gives {name} (by the name in GGUF) as {value!r}, expected {_EXPECTED[kind]}")
        yield name, kind, value


def check_is_target(target: GgufFile) -> None:
    """
    Raises:
        ValueError: If a file is no model that a drafter is made for.
    """
    if target.arch in ("dflash", "eagle3"):
        raise ValueError(
            f"the target {target.path} is a drafter itself (architecture {target.arch}): name the GGUF file of the model"
            " it was made for"
        )
    if not target.n_vocab:
        raise ValueError(
            f"the target {target.path} has no tokenizer (tokenizer.ggml.tokens), which the drafter needs: name the GGUF"
            " file of the model"
        )
