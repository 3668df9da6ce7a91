"""Grammars (GBNF) that are wrong, or too ambiguous, are exceptions. Their bounds are in native/libllama/llama-grammar-limits.cpp.

llama.cpp says nothing of why a grammar is no grammar, and llama-cpp-python went on with a sampler that was not there.
"""

from __future__ import annotations

import ctypes
from typing import Any, Optional

import llama_cpp

_NEEDS_VOCABULARY = "no vocab to parse token"  # the parser's words for <token>, where no model is at hand


class GrammarError(ValueError):
    """A grammar that can't be used: it is wrong, it costs too much, or the model has no token that goes on as it wants."""


def check_grammar(grammar: Optional[llama_cpp.LlamaGrammar], vocab: Any = None) -> None:
    """Raises GrammarError if no sampler can be made of a grammar.

    Args:
        grammar: As for `create_completion`; None is fine.
        vocab: The model's (llama_vocab). Without it, names of tokens in a grammar are not looked up.
    """
    text = getattr(grammar, "_grammar", None)
    if not text:
        return
    if "\0" in text:
        raise GrammarError(f"the grammar has a zero byte at character {text.index(chr(0))}, expected text")
    try:
        said = text.encode("utf-8"), grammar._root.encode("utf-8")
    except UnicodeEncodeError as error:
        raise GrammarError(f"the grammar is no valid Unicode: {error}") from None
    _take_error()  # of a sampler that nobody asked about
    sampler = llama_cpp.llama_sampler_init_grammar(vocab, *said)
    if sampler:
        llama_cpp.llama_sampler_free(sampler)
        return
    reason = _take_error() or "it could not be parsed"
    if vocab is None and reason.startswith(_NEEDS_VOCABULARY):
        return
    raise GrammarError(f"the grammar is wrong: {_shortened(reason)}")


def raise_grammar_error() -> None:
    """Raises GrammarError if a grammar gave up since the last call, while this thread sampled: the token that was sampled
    is not to be believed."""
    reason = _take_error()
    if reason is not None:
        raise GrammarError(f"the grammar can't be followed: {_shortened(reason)}")


def _take_error() -> Optional[str]:
    error = _library().llama_grammar_take_error()
    return None if error is None else error.decode("utf-8", errors="replace")


def _library() -> ctypes.CDLL:
    library = llama_cpp.llama_cpp._lib
    library.llama_grammar_take_error.restype = ctypes.c_char_p
    return library


def _shortened(reason: str, n_most: int = 300) -> str:
    """The parser quotes all that is left of a grammar."""
    reason = " ".join(reason.split())
    return reason if len(reason) <= n_most else reason[:n_most] + " …"
