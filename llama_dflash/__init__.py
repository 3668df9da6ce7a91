"""Lossless speculative decoding with draft trees for llama-cpp-python.

    from llama_dflash import Llama
    llm = Llama("target.gguf", draft_model="drafter.gguf")

`Llama` is `llama_cpp.Llama` with one more kind of `draft_model`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import _library

__version__ = "0.1.0"

_PLACES = {  # of what this package offers
    "DFlashDraft": "drafts",
    "DraftTree": "stats",
    "Eagle3Draft": "drafts",
    "Llama": "llama",
    "LlamaBatch": "batch",
    "MTPDraft": "drafts",
    "ModelDraft": "drafts",
    "NGramDraft": "drafts",
    "SpeculativeStats": "stats",
    "WorkerError": "workers",
    "install": "_install",
}
__all__ = [*_PLACES, "__version__"]

if TYPE_CHECKING:
    from ._install import install
    from .batch import LlamaBatch
    from .drafts import DFlashDraft, Eagle3Draft, ModelDraft, MTPDraft, NGramDraft
    from .llama import Llama
    from .stats import DraftTree, SpeculativeStats
    from .workers import WorkerError


def _load_everything() -> None:
    _library.load()  # before anything imports llama_cpp
    for name, module in _PLACES.items():
        globals()[name] = getattr(importlib.import_module(f".{module}", __name__), name)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _load_everything()
    return globals()[name]


if not _library.is_command_line():  # whose commands load what they need
    _load_everything()
