"""`AutoDraft`: whatever drafts best for a target, found out when the target is known."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional, Tuple, Union

from .draft import Draft
from .mtp import MTPDraft, n_mtp_layers
from .ngram import NGramDraft


class Found(NamedTuple):
    """drafts: What drafts, none if nothing can. why: A sentence about it."""

    drafts: List[Draft]
    why: str


@dataclass(frozen=True)
class AutoDraft(Draft):
    """`draft_model="auto"`: the drafter that is published for the target, its own MTP layer, or drafts from the text itself.

    The target's GGUF file is looked up in llama_dflash/pairs.json by its architecture, sizes and vocabulary. A drafter that is
    listed there comes from the Hub, the first time with a download. Without one, or where the Hub is out of reach, the target's
    MTP layer drafts if its file has one. N-grams draft beside either, and alone where there is neither.

    Args:
        budget, mode, calibrated, tuned, device_outputs: As of the other kinds.
        on_choice: Is called with a sentence that says what was taken and why. None: it is printed to stderr.

    Raises:
        ValueError: If a setting has a wrong type or value.
    """

    kind = "auto"
    article = "an"
    word = "auto"

    budget: Union[str, int] = "auto"
    mode: str = "tree"
    calibrated: bool = True
    tuned: Optional[str] = None
    device_outputs: Optional[bool] = None
    on_choice: Optional[Callable[[str], None]] = None

    def all_ready_for(self, target: str) -> List[Draft]:
        found = choose(target)
        (self.on_choice or _print)(found.why)
        names = ("budget", "mode", "calibrated", "tuned", "device_outputs")
        settings = {name: getattr(self, name) for name in names}
        return [dataclasses.replace(draft, **settings) for draft in found.drafts]  # type: ignore[type-var]


def _print(sentence: str) -> None:
    print(f"llama-dflash: {sentence}", file=sys.stderr)


def choose(target: str) -> Found:
    """What `draft_model="auto"` takes for a target's GGUF file."""
    if not Path(target).is_file():
        return Found([], f"{target} is no file")  # whoever loads it says so
    from .. import _engine

    problems = _engine.misfits(target)
    if problems:
        return Found([], f"no drafter: {problems[0]}")
    published, why_not = _published(target)
    if published is not None:
        draft, what = published
        return Found([draft, NGramDraft()], f"drafting with {what}, and with n-grams of the text")
    if n_mtp_layers(target) == 1:
        return Found([MTPDraft().ready_for(target), NGramDraft()], f"drafting with the model's own MTP layer and n-grams of the text ({why_not})")
    return Found([NGramDraft()], f"drafting with n-grams of the text alone ({why_not})")


def _published(target: str) -> Tuple[Optional[Tuple[Draft, str]], str]:
    """The first drafter of pairs.json for it that is to be had, and what it is; else None and why."""
    from ..gguf_file import GgufFile
    from ..hub import HubError, HubId
    from ..hub.drafter import fetch_drafter
    from ..pairs import FORMATS, targets_like
    from . import of_path

    found = targets_like(GgufFile(target))
    if not found:
        return None, "no drafter is known for this model: `llama-dflash pairs` lists those that are"
    if len(found) > 1:
        names = ", ".join(known.name for known in found)
        return None, f"by its sizes it may be {names}, and its file does not say which: `llama-dflash pairs` lists their drafters"
    if importlib.util.find_spec("huggingface_hub") is None:
        return None, f'{found[0].drafters[0].repo} is published for it, and to fetch it: pip install "llama-dflash[hub]"'
    problem = ""
    for drafter in found[0].drafters:
        try:
            path = fetch_drafter(HubId(drafter.repo), target)
            (draft,) = of_path(str(path)).all_ready_for(target)
        except (HubError, ValueError) as error:
            problem = problem or str(error)
            continue
        return (draft, f"{drafter.repo} ({FORMATS[drafter.format]}, for {found[0].name})"), ""
    return None, problem
