"""Makes other people's code use llama_dflash.Llama: code that says `from llama_cpp import Llama` and has no say in it."""

from __future__ import annotations

import sys

import llama_cpp
import llama_cpp.llama

from .llama import Llama


def install() -> None:
    """Puts `llama_dflash.Llama` in the place of `llama_cpp.Llama`, for the rest of the process.

    Code that imports the class from now on gets ours, and so do loaded modules that have imported it by name. Objects
    that were made before stay what they are. What the class does without a DFlash drafter is unchanged, so this is safe
    for code that knows nothing of drafters. Calling it again does nothing.
    """
    stock = llama_cpp.llama.Llama
    if stock is Llama:
        raise RuntimeError("llama_cpp.llama.Llama was replaced by hand: install() replaces only llama_cpp.Llama")
    llama_cpp.Llama = Llama  # type: ignore[misc]
    for name, module in list(sys.modules.items()):
        if not name.startswith(("llama_cpp.", "llama_dflash")) and getattr(module, "__dict__", {}).get("Llama") is stock:
            module.Llama = Llama  # type: ignore[attr-defined]
