"""Lossless speculative decoding with draft trees for llama-cpp-python.

    from llama_dflash import Llama
    llm = Llama("target.gguf", draft_model="drafter.gguf")

`Llama` is `llama_cpp.Llama` with one more kind of `draft_model`.
"""

from . import _library

_library.load()  # before anything imports llama_cpp

from .drafts import DFlashDraft, Eagle3Draft, ModelDraft, MTPDraft, NGramDraft  # noqa: E402
from ._install import install  # noqa: E402
from .llama import Llama  # noqa: E402
from .batch import LlamaBatch  # noqa: E402
from .stats import DraftTree, SpeculativeStats  # noqa: E402

__version__ = "0.1.0"
__all__ = [
    *("DFlashDraft", "DraftTree", "Eagle3Draft", "Llama", "LlamaBatch", "MTPDraft", "ModelDraft", "NGramDraft", "SpeculativeStats"),
    *("__version__", "install"),
]
