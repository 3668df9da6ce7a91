"""`NGramDraft`: drafts without a model, from what the text itself and others have said before."""

from __future__ import annotations

import ctypes
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from .draft import Draft

REMEMBERED = 1 << 16  # tokens of earlier answers

Text = Union[str, "os.PathLike[str]", Sequence[int]]


@dataclass(frozen=True)
class NGramDraft(Draft):
    """Drafts what followed earlier, in the prompt and the answer so far, where their last tokens have occurred before
    (SuffixDecoding, arXiv 2411.04975). Needs no model and takes microseconds, so it suits every target; it gains where answers
    repeat what they were given: edits, extraction, quotes, code, tool calls. For `Llama(draft_model="ngram")`.

    Args:
        budget: Nodes of the draft tree beside its root in every round, at least 1 and less than the target's n_ubatch.
            "auto" chooses in every round what promises the most tokens per second by the costs measured so far, and decodes
            plainly where nothing that is probable enough was found.
        mode: "tree" verifies the most probable continuations at once, "chain" the most probable one. Targets whose memory
            can't hold a tree verify chains in either mode.
        corpus: More texts to draft from: each a str, the path of a UTF-8 text file, or tokens of the target. They are
            indexed once, when the target is loaded, 140 bytes a token, and shared by all conversations.
        remember: Whether answers are drafted from in later conversations of the same `Llama`, as long as it lives: the last
            65,536 tokens of them. Without it a conversation's drafts come from its own text and the corpus alone. Drafts never
            change a text, but how long it takes then depends on what was answered before.
        device_outputs: Whether tokens at temperature 0 are found where the logits are computed. None: on a GPU.
        calibrated: Whether a node counts as probable as what was accepted so far says of nodes like it. False: as the drafter
            says.
        tuned: A file that `Llama.save_tuned` wrote: what was learned then about costs and acceptance is where learning goes
            on. None: from nothing.

    Raises:
        ValueError: If a setting has a wrong type or value. Files are read when a `Llama` is made.
    """

    kind = "ngram"
    word = "ngram"
    article = "an"

    budget: Union[str, int] = "auto"
    mode: str = "tree"
    corpus: Tuple[Text, ...] = ()
    remember: bool = False
    device_outputs: Optional[bool] = None
    calibrated: bool = True
    tuned: Optional[str] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_flag("remember")
        if isinstance(self.corpus, (str, bytes, os.PathLike)):
            self._refuse("corpus", "a list of texts, even if it is one")
        try:
            texts = tuple(text if isinstance(text, (str, os.PathLike)) else _as_tokens(text) for text in self.corpus)
        except (TypeError, ValueError):
            self._refuse("corpus", "a list whose items are texts, paths, or lists of tokens")
        object.__setattr__(self, "corpus", texts)

    def ready_for(self, target: str) -> NGramDraft:
        """The same with the texts of its files."""
        texts = tuple(_read(text) if isinstance(text, os.PathLike) else text for text in self.corpus)
        return dataclasses.replace(self, corpus=texts)

    def in_tokens(self, tokenize: Callable[[bytes], List[int]]) -> NGramDraft:
        texts = tuple(tuple(tokenize(text.encode())) if isinstance(text, str) else text for text in self.corpus)
        return dataclasses.replace(self, corpus=texts)

    def engine_params(self, n_gpu_layers: int) -> Dict[str, Any]:
        sizes = [len(text) for text in self.corpus]
        return {
            "corpus": (ctypes.c_int32 * sum(sizes))(*(token for text in self.corpus for token in text)),
            "corpus_sizes": (ctypes.c_int32 * len(sizes))(*sizes),
            "n_corpus": len(sizes),
            "n_remembered": REMEMBERED if self.remember else 0,
        }


def _as_tokens(tokens: Sequence[int]) -> Tuple[int, ...]:
    res = tuple(tokens)
    if not all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 2**31 for token in res):
        raise ValueError("no tokens")
    return res


def _read(path: "os.PathLike[str]") -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"NGramDraft: corpus: {path} can't be read: {error}") from None
