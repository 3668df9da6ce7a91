"""`llama-dflash pull`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any, Dict, List

from ..cli import add_command
from . import models

EPILOG = """\
examples:
  llama-dflash pull unsloth/Qwen3.5-27B-GGUF:Q4_K_M
  llama-dflash pull unsloth/Qwen3.5-27B-GGUF:Q4_K_M --draft-model z-lab/Qwen3.5-27B-DFlash --name qwen
  llama-dflash pull models/target.gguf --draft-model drafter.gguf
  llama-dflash pull

Without a model: what was pulled so far. Whether the drafter fits is checked before the model is downloaded. Private models:
`hf auth login`, or HF_TOKEN=. Files go where huggingface_hub keeps them (HF_HOME), converted drafters into ~/.cache/llama-dflash."""


def add(commands: Any, name: str, help: str) -> None:
    parser = add_command(commands, name, help, _run, EPILOG)
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a model on the Hub (org/name, org/name:Q4_K_M), or a GGUF file")
    parser.add_argument("--draft-model", metavar="DRAFTER", default="auto", help="a drafter on the Hub or here, ngram, mtp, several with"
                        " commas between them, or none (default: auto, the one that is known for this model)")  # fmt: skip
    parser.add_argument("--name", help="the short name (default: made of the model's)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--names", action="store_true", help=argparse.SUPPRESS)  # for shells


def _run(args: argparse.Namespace) -> int:
    from .. import short_names

    if args.names:
        print("\n".join(short_names.pulled()))
        return 0
    if args.model is None:
        return _show_all(args.json)
    said: List[str] = []
    known = short_names.find(args.model)
    chosen = models.find(known.model if known else args.model, args.draft_model)
    drafters = _ready(chosen, said.append)
    entry = short_names.Pulled(
        name=(args.name or (known.name if known else short_names.proposed(args.model))).lower(),
        model=known.model if known else args.model if not os.path.exists(args.model) else os.path.abspath(args.model),
        file=os.path.abspath(chosen.file),
        draft_model=drafters,
    )
    short_names.save(entry)
    if args.json:
        print(json.dumps(_facts(entry, said), indent=2))
        return 0
    for sentence in said:
        print(sentence, file=sys.stderr)
    print(f"{entry.name}: {entry.file}")
    print(f"drafts of {' and '.join(entry.draft_model) or 'nobody'}\nllama-dflash run {entry.name}")
    return 0


def _ready(chosen: models.Chosen, say: Any) -> List[str]:
    """The drafters, downloaded and converted, as names for later."""
    from ..drafts import AutoDraft, Draft, parse
    from ..hub.drafter import misfits

    names: List[str] = []
    for item in chosen.drafters or []:
        (draft,) = parse(item)
        ready: List[Draft] = (AutoDraft(on_choice=say) if isinstance(draft, AutoDraft) else draft).all_ready_for(chosen.file)
        for one in ready:
            problems = misfits(chosen.file, one.file) if one.file else []
            if problems:
                raise ValueError(f"{item} does not fit {chosen.file}: {'; '.join(problems)}")
            names.append(os.path.abspath(one.file) if one.file else str(one.word))
    return names


def _facts(entry: Any, said: List[str]) -> Dict[str, Any]:
    return {"name": entry.name, "model": entry.model, "file": entry.file, "draft_model": entry.draft_model, "notes": said}


def _show_all(as_json: bool) -> int:
    from .. import short_names
    from ..info import size_text

    entries = list(short_names.pulled().values())
    if as_json:
        print(json.dumps([_facts(entry, []) for entry in entries], indent=2))
        return 0
    if not entries:
        print("Nothing was pulled yet: llama-dflash pull org/name")
    for entry in entries:
        size = size_text(os.path.getsize(entry.file)) if os.path.exists(entry.file) else "gone"
        drafters = ", ".join(os.path.basename(name) for name in entry.draft_model) or "none"
        print(f"{entry.name:24} {size:>10}  drafter: {drafters}  ({entry.model})")
    return 0
