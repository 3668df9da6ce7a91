"""`llama-dflash serve`: reads the command line, checks it, and runs the server."""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any, List, Optional, Sequence, Tuple

from .. import drafts, tuning
from ..commands import models
from . import checks, options
from .process import Server, named

HELP = """\
usage: llama-dflash serve -m MODEL [--draft-model DRAFTER] [--budget auto|N] [--verbose] [llama-server's options]

llama.cpp's own server for many users at once, with draft trees: OpenAI's and Anthropic's API, tool calls, slots,
prompt caches, metrics. http://127.0.0.1:8080/tree shows the trees.

  -m MODEL, --model MODEL
                         the target: a GGUF file, a model on the Hub, or a short name that `pull` gave. -hf USER/REPO and
                         --models-dir DIR (several models) are llama-server's
  --draft-model DRAFTER  what drafts: a file, an id on the Hub, mtp (the target's own layer), ngram (the text itself), auto,
                         several of these with commas between them, or none (default: what `pull` or `tune` chose, else none)
  --budget auto|N        draft nodes of a conversation in every round (default: auto, by measured costs)
  --verbose              llama.cpp's log on stderr; without it, its errors and a line for each request
  -h, --help             this
  --help-all             all options of llama-server, which are passed on as they are

Unless they are given: --host 127.0.0.1 --port 8080 --parallel 4 --flash-attn on --kv-unified --metrics

examples:
  llama-dflash serve -m target.gguf --draft-model drafter.gguf
  llama-dflash serve -m qwen3.5-27b --host 0.0.0.0 --api-key-file keys.txt
  llama-dflash serve -m Qwen3.5-27B-Q4_K_M.gguf --draft-model mtp,ngram -c 131072 --parallel 8 -ctk q8_0 -ctv q8_0

Exit codes: 0 ended by Ctrl-C or SIGTERM, 1 a problem that is stated, 2 wrong usage.
"""


def add(commands: Any, name: str, help: str) -> None:
    """All words as they are: llama.cpp's options are not argparse's to read (options.py)."""
    parser = commands.add_parser(name, help=help, add_help=False, prefix_chars="\0")
    parser.set_defaults(run=run)
    parser.add_argument("words", nargs="*")


def run(args: argparse.Namespace) -> int:
    words: Sequence[str] = args.arguments
    if any(word in ("-h", "--help", "--usage") for word in words):
        print(HELP, end="")
        return 0
    if "--help-all" in words:
        return subprocess.run([str(checks.binary()), "--help"]).returncode
    try:
        asked = options.read(words)
    except options.WrongUsage as problem:
        print(f"{HELP.splitlines()[0]}\nllama-dflash serve: {problem}", file=sys.stderr)
        return 2
    binary = checks.binary()
    if "says" in asked.found:
        return subprocess.run([str(binary), *asked.passed]).returncode
    target, names = _models(asked)
    drafters = checks.drafters(target, names)
    if asked.budget is not None and not drafters:
        raise ValueError(f"--budget {asked.budget}: there is nothing to draft with; give --draft-model, too")
    checks.free_port(asked.host, asked.port)
    model = ["--model", target] if target is not None else []
    command = [str(binary), *asked.defaults, *model, *tree_words(drafters, asked.budget), *asked.passed]
    return Server(command, _what(asked, drafters), asked.shows_log, asked.found.get("api_prefix", "")).run()


def _models(asked: options.Options) -> Tuple[Optional[str], List[str]]:
    """The target's file, None for one that llama.cpp fetches itself, and what `draft_model=` would be given: what was said, else
    what `pull` or `tune` chose for the target, else nothing."""
    said = None if asked.draft_model is None else [name for value in asked.draft_model for name in models.split(value)]
    if asked.model is None:
        return None, said or []
    chosen = models.find(asked.model, None)
    if said is not None or "spec_type" in asked.found or "chain_drafter" in asked.found:
        return chosen.file, said or []
    if chosen.drafters is not None:
        return chosen.file, chosen.drafters
    found = tuning.find(chosen.file)
    return chosen.file, [] if found is None else list(found.draft_model)


def tree_words(drafters: Sequence[drafts.Draft], budget: Optional[str]) -> List[str]:
    """llama-server's words for drafters; none without any."""
    if not drafters:
        return []
    files = [draft.file for draft in drafters if draft.file is not None]
    others = [*files[1:], *(draft.word for draft in drafters if draft.file is None and draft.word is not None)]
    words = ["--spec-type", "tree"]
    words += ["--spec-draft-model", files[0]] if files else []
    words += ["--spec-draft", ",".join(others)] if others else []
    return words + ["--spec-tree-budget", budget or "auto"]


def _what(asked: options.Options, drafters: Sequence[drafts.Draft]) -> str:
    target = next((asked.found[what] for what in ("model", "model_elsewhere", "models") if what in asked.found), "")
    if not drafters:
        return f"{named(target)}, without draft trees"
    return f"{named(target)}, drafts of {', '.join(named(draft.file or draft.word or draft.kind) for draft in drafters)}"
