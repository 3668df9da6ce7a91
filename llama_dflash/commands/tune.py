"""`llama-dflash tune`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any, List

from ..cli import add_command, layers, positive
from . import models

EPILOG = """\
examples:
  llama-dflash tune model.gguf
  llama-dflash tune qwen3.5-27b --draft-model drafter.gguf,ngram
  llama-dflash tune model.gguf --seconds 20 --json

Measures plain decoding with different numbers of threads, then what n-grams, the drafters and both bring on three short texts, and
keeps what was fastest for this model on this machine: `run` takes it from then on. Let nothing else run meanwhile."""


def add(commands: Any, name: str, help: str) -> None:
    parser = add_command(commands, name, help, _run, EPILOG)
    parser.add_argument("model", metavar="MODEL", help="a GGUF file, a model on the Hub, or a short name")
    parser.add_argument("--draft-model", metavar="DRAFTER", help=models.DRAFTERS)
    parser.add_argument("--threads", type=positive, metavar="N", help="do not try others")
    parser.add_argument("--n-gpu-layers", type=layers, default=-1, metavar="N", help="layers on the GPU, -1 for all (default)")
    parser.add_argument("--seconds", type=positive, default=60, metavar="N", help="about as long as it measures (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args: argparse.Namespace) -> int:
    from .. import tuning

    chosen = models.find(args.model, args.draft_model)
    candidates = _candidates(chosen)
    result = tuning.tune(
        chosen.file, candidates, seconds=args.seconds, say=models.say_on_stderr, n_gpu_layers=args.n_gpu_layers, threads=args.threads
    )
    path = tuning.result_file(chosen.file)
    if args.json:
        print(json.dumps({**asdict(result), "file": str(path)}, indent=2))
        return 0
    what = " and ".join(result.draft_model) or "no drafter"
    gain = result.tokens_per_second / result.plain_tokens_per_second
    print(f"best: {what}, {result.threads} threads: {result.tokens_per_second:.1f} tokens/s, {gain:.2f} times plain decoding")
    print(f"kept in {path}; `llama-dflash run` takes it from now on")
    if result.learned:
        print(f"in Python: n_threads={result.threads}, draft_model={result.draft_model}, tuned={result.learned!r} (of the first drafter)")
    return 0


def _candidates(chosen: models.Chosen) -> List[List[str]]:
    """Lists of drafters to try: n-grams, the ones that were named or found, and both together."""
    from ..drafts import AutoDraft, parse

    named: List[str] = []
    for item in ["auto"] if chosen.drafters is None else chosen.drafters:
        (draft,) = parse(item)
        ready = AutoDraft(on_choice=models.say_on_stderr) if isinstance(draft, AutoDraft) else draft
        named += [one.file or str(one.word) for one in ready.all_ready_for(chosen.file)]
    others = [name for name in named if name != "ngram"]
    lists = [["ngram"], others, [*others, "ngram"]] if others else [["ngram"]] if named else []
    return [names for i, names in enumerate(lists) if names and names not in lists[:i]]
