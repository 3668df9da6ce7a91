"""How commands find the model and the drafters that were named, and load them."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from typing import Any, List, Optional

from ..cli import layers, positive

DRAFTERS = (
    "what drafts: a file, an id on the Hub, ngram, mtp, auto, several of these with commas between them, or none (default: what"
    " `pull` or `tune` chose for this model, else auto)"
)


@dataclass(frozen=True)
class Chosen:
    """file: The target's GGUF file. drafters: As `draft_model=` takes them; none for plain decoding; None: nothing was said."""

    file: str
    drafters: Optional[List[str]]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--draft-model", metavar="DRAFTER", help=DRAFTERS)
    parser.add_argument("--ctx", type=positive, metavar="N", help="context, in tokens (default: 8192, or what the model was trained for)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: as `tune` found, else all)")
    parser.add_argument("--n-gpu-layers", type=layers, default=-1, metavar="N", help="layers on the GPU, -1 for all (default)")


def find(model: str, draft_model: Optional[str]) -> Chosen:
    """The target's file, which is downloaded if it has to be, and what was said about drafters.

    Raises:
        ValueError: If there is no such model.
    """
    from .. import short_names
    from ..hub import as_hub_id
    from ..hub.target import fetch_target

    said = None if draft_model is None else split(draft_model)
    known = short_names.find(model)
    if known is not None:
        said = known.draft_model if said is None else said
        if os.path.exists(known.file):
            return Chosen(known.file, said)
        model = known.model  # its file is gone: the Hub may still have it
    if os.path.isfile(model):
        return Chosen(model, said)
    id = as_hub_id(model)
    if id is None:
        raise ValueError(f"no such model: {model}. {_what_there_is()}")
    return Chosen(str(fetch_target(id, drafters=said)), said)


def split(draft_model: str) -> List[str]:
    """"a,b" as a list; "none" as an empty one. A file's name may have commas."""
    if draft_model in ("none", ""):
        return []
    return [draft_model] if os.path.exists(draft_model) else [part.strip() for part in draft_model.split(",") if part.strip()]


def _what_there_is() -> str:
    from .. import short_names

    names = ", ".join(short_names.pulled())
    return "Name a GGUF file, a model on the Hub (org/name)" + (f", or a short name that `pull` gave: {names}" if names else "")


def load(args: argparse.Namespace, chosen: Chosen, draft_model: Any, **settings: Any) -> Any:
    """A `Llama` as the command line asks for it, with what `tune` found for what it leaves open."""
    from .. import Llama, tuning
    from ..gguf_file import GgufFile
    from ..tuning import n_cpus

    found = tuning.find(chosen.file)
    n_threads = args.threads or (found.threads if found else n_cpus())
    trained = GgufFile(chosen.file).of_arch("context_length")
    n_ctx = args.ctx or min(8192, trained if isinstance(trained, int) and trained > 0 else 8192)
    return Llama(
        chosen.file, draft_model=draft_model, n_ctx=n_ctx, n_threads=n_threads, n_threads_batch=n_threads,
        n_gpu_layers=args.n_gpu_layers, verbose=False, **settings,
    )  # fmt: skip


def drafters_for(chosen: Chosen, say: Any = None) -> Any:
    """`draft_model=` for a model: what was said, else what `tune` found, else "auto"."""
    from .. import tuning
    from ..drafts import AutoDraft

    if chosen.drafters is not None:
        return tuning.with_learned(chosen.file, chosen.drafters, say) or None
    found = tuning.find(chosen.file)
    if found is not None:
        return tuning.with_learned(chosen.file, found.draft_model, say) or None
    return AutoDraft(on_choice=say)


def say_nothing(sentence: str) -> None:
    pass


def say_on_stderr(sentence: str) -> None:
    print(sentence, file=sys.stderr)
