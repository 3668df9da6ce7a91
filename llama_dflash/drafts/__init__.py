"""What a user says about drafters: one small class of settings a kind, and `parse` for what `draft_model=` takes.

A new kind is a file here and an entry in `KINDS`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, List, Tuple, Type, Union

from ..gguf_file import architecture
from ..hub import as_hub_id
from .auto import AutoDraft
from .converted import is_eagle3_checkpoint
from .dflash import DFlashDraft
from .draft import CommonSettings, Draft, common_settings
from .eagle3 import Eagle3Draft
from .file_draft import CACHE_TYPES, FileDraft, gguf_at
from .hub_draft import HubDraft
from .model import ModelDraft
from .mtp import MTPDraft, is_mtp_alone
from .ngram import NGramDraft

__all__ = [
    *("AutoDraft", "CACHE_TYPES", "CommonSettings", "DFlashDraft", "Draft", "DraftModel", "Eagle3Draft", "FileDraft", "HubDraft"),
    *("KINDS", "MTPDraft", "ModelDraft", "NGramDraft", "common_settings", "of_path", "parse"),
]

# A kind that takes files of any architecture comes last.
KINDS: Tuple[Type[Draft], ...] = (DFlashDraft, Eagle3Draft, MTPDraft, NGramDraft, AutoDraft, ModelDraft)

if TYPE_CHECKING:
    from llama_cpp.llama_speculative import LlamaDraftModel

OneDraftModel = Union[str, "os.PathLike[str]", Draft]
DraftModel = Union[OneDraftModel, List[OneDraftModel], "LlamaDraftModel"]  # or None


def parse(draft_model: Any) -> Union[List[Draft], LlamaDraftModel]:
    """The drafters that `draft_model=` names, or the stock object that it is.

    Args:
        draft_model: The path of a drafter, its id on the Hub, the word of a kind that needs no file, a `Draft`, a list of
            these, a `LlamaDraftModel` of llama-cpp-python or another callable, or None.

    Returns:
        A list of drafts, empty for None; or the stock object as it is.

    Raises:
        ValueError: If it is something else, or a path of a file that no kind of drafter drafts with.
    """
    if draft_model is None:
        return []
    if isinstance(draft_model, (list, tuple)):
        if not draft_model:
            raise ValueError(f"draft_model is an empty list, expected {_accepted()}")
        return [_one(item, "an item of draft_model") for item in draft_model]
    if callable(draft_model):
        return draft_model
    return [_one(draft_model, "draft_model")]


def _one(item: Any, what: str) -> Draft:
    if isinstance(item, Draft):
        return item
    for kind in KINDS:
        if kind.word is not None and item == kind.word:
            return kind()
    if not isinstance(item, (str, os.PathLike)):
        raise ValueError(f"{what} is a {type(item).__name__}, expected {_accepted()}")
    path = os.fspath(item)
    if isinstance(path, str) and _is_word(path):
        raise ValueError(f'{what} is "{path}", which is no file, expected {_accepted()}')
    if as_hub_id(path) is not None:
        return HubDraft(path, of_path)
    return of_path(path)


def _is_word(path: str) -> bool:
    """Nothing that looks like the name of a file, nor is there one."""
    return os.path.basename(path) == path and not os.path.splitext(path)[1] and not os.path.exists(path)


def of_path(path: Any) -> FileDraft:
    """The draft of a file or a checkpoint. The kind of a GGUF file is that of its architecture, the kind of a checkpoint what its config.json says; a file of an MTP
    layer alone has the target's architecture. What can't be read, because it is missing or damaged, is taken for a DFlash
    drafter, which says what is wrong."""
    file = gguf_at(path) if isinstance(path, str) else None
    if isinstance(path, str) and file is None and is_eagle3_checkpoint(path):
        return Eagle3Draft(path)
    if file is not None and is_mtp_alone(file):
        return MTPDraft(path)
    found = None if file is None else architecture(file)
    with_files = [kind for kind in KINDS if issubclass(kind, FileDraft)]
    for kind in with_files:
        if found is not None and kind.drafts_with(found):
            return kind(path)
    if found is None:
        return DFlashDraft(path)
    known = " or ".join(f'"{name}"' for kind in with_files for name in kind.architectures)
    raise ValueError(
        f'draft_model: {file} has architecture "{found}", expected {known}: draft_model takes {_accepted()}'
    )


def _accepted() -> str:
    words = [f'"{kind.word}"' for kind in KINDS if kind.word is not None]
    paths = [kind.asked_for for kind in KINDS if issubclass(kind, FileDraft)]
    objects = [f"{kind.article} {kind.__name__}" for kind in KINDS]
    return ", ".join([*paths, "its id on the Hub (org/name)", *words, *objects, "a list of these, a LlamaDraftModel of llama-cpp-python, or None"])
