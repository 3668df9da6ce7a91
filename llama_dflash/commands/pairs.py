"""`llama-dflash pairs`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from typing import Any, List

from ..cli import add_command

EPILOG = """\
examples:
  llama-dflash pairs
  llama-dflash pairs qwen3.5-27b
  llama-dflash pairs Qwen3-8B-Q4_K_M.gguf
  llama-dflash pairs --json

The list is llama_dflash/pairs.json; ~/.config/llama-dflash/pairs.json, of the same form, adds to it. Of a GGUF file the
architecture, the sizes and the vocabulary count, not its name. What was checked of these drafters: docs/drafters.md."""


def add(commands: Any, name: str, help: str) -> None:
    parser = add_command(commands, name, help, _run, EPILOG)
    parser.add_argument("model", metavar="MODEL", nargs="?", help="a GGUF file, a short name, or (a part of) a model's name (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
    from .. import pairs, short_names
    from ..gguf_file import GgufFile

    file = None if args.model is None else short_names.target_file(args.model) or args.model
    own_layer = False
    if file is None:
        found = list(pairs.known_targets())
    elif os.path.isfile(file):
        target = GgufFile(file)
        found, own_layer = pairs.targets_like(target), bool(target.of_arch("nextn_predict_layers", 0))
    else:
        found = pairs.targets_called(file)
    if args.json:
        print(json.dumps([dataclasses.asdict(target) for target in found], indent=2))
    else:
        _show(found, args.model, own_layer)
    return 0 if found or own_layer else 1


def _show(found: List[Any], model: "str | None", own_layer: bool) -> None:
    from ..pairs import FORMATS

    for target in found:
        print(f"{target.name} ({target.architecture}, {target.layers} layers of {target.hidden_size}, vocabulary {target.vocabulary})")
        for drafter in target.drafters:
            note = f"  {drafter.note}" if drafter.note else ""
            print(f"  {FORMATS[drafter.format]:8} {drafter.repo}{note}")
    if own_layer:
        print("its own MTP layer: --draft-model mtp")
    if not found and not own_layer:
        print(f"No drafter is known for {model}. --draft-model ngram drafts from the text itself; a smaller model of the same vocabulary drafts too.")
    elif found and model is not None:
        file = model if os.path.isfile(model) else f"{found[0].name}-Q4_K_M.gguf"
        if len(found) == 1:
            print(f"\nllama-dflash run {file} --draft-model {found[0].drafters[0].repo}")
