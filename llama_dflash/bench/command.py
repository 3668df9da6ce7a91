"""The command line of `llama-dflash bench`, and of benchmarks/bench.py: what is asked for, and what is done with it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import signal
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

from .. import info
from ..drafts import DFlashDraft, Draft, parse
from .measure import TargetBench, Wanted, run_target
from .methods import Budget, Method, Models
from .progress import Progress
from .prompts import read_prompts
from .results import Results
from .summary import ALL
from .tables import page

EPILOG = """\
examples:
  llama-dflash bench --target target.gguf --draft-model drafter.gguf --prompts prompts.jsonl:8 --out results.json
  llama-dflash bench --target target.gguf --draft-model drafter.gguf --prompts prompts.jsonl --minutes 10 \\
      --chain-budgets 7 --tree-budgets 8,16,auto --out results.json --markdown results.md --plots pictures

Every way of decoding goes on after the same prompts, greedily; times are those of decoding alone, without the prompt's
evaluation. Each loads the target by itself: their files are mapped, so that a CPU has the weights in memory once, but on a
GPU everything is there as often as there are budgets, and one plainly. Ctrl-C keeps what was measured."""


SERVER_NGRAM = ("ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _layers(text: str) -> int:
    value = int(text)
    if value < -1:
        raise ValueError(text)
    return value


def _lengths(text: str) -> List[Budget]:
    """"4,8" as a list."""
    return list(dict.fromkeys(_positive(part) for part in text.split(",") if part))


def _budgets(text: str) -> List[Budget]:
    """"4,8,auto" as a list."""
    return list(dict.fromkeys(part if part == "auto" else _positive(part) for part in text.split(",") if part))


for _type, _name in ((_positive, "number"), (_layers, "number"), (_lengths, "list"), (_budgets, "list")):
    _type.__name__ = _name  # which argparse says is invalid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--target", action="append", required=True, type=Path, metavar="M.gguf", help="a target; may be repeated")
    add(
        "--draft-model",
        action="append",
        required=True,
        metavar="D.gguf",
        help='the drafter of all these targets: a file, its published checkpoint, or "ngram"; of several, one tree is made',
    )
    add(
        "--prompts",
        action="append",
        required=True,
        metavar="FILE.jsonl[:N]",
        help='rows with a "prompt" or a "question", the first N of them, or "edit", our own set; may be repeated',
    )
    add("--field", metavar="NAME", help="where a row has its text, if under another name")
    add("--style", choices=["raw", "chat"], help="default: chat for questions, raw for all else")
    add("--out", required=True, type=Path, metavar="results.json", help="written after every prompt")
    add("--markdown", type=Path, metavar="FILE.md", help="write the tables there, instead of printing them")
    add("--plots", type=Path, metavar="FOLDER", help="draw a PNG per target there (needs matplotlib)")
    add("--chain-budgets", type=_budgets, default="3,7,15,auto", metavar="LIST", help="of our chain (%(default)s)")
    trees = "4,8,15,16,22,32,auto"
    add("--tree-budgets", type=_budgets, default=trees, metavar="LIST", help="of our tree (%(default)s)")
    add("--block", choices=["whole", "short"], default="whole", help="what a drafter denoises a round (%(default)s)")
    add("--llama-server", type=Path, metavar="PATH", help="an unpatched llama-server, to measure llama.cpp's own chain")
    add("--server-lengths", type=_lengths, default="3,7,15", metavar="LIST", help="of llama.cpp's chain (%(default)s)")
    add("--server-ngram", choices=SERVER_NGRAM, default=SERVER_NGRAM[0], help='llama.cpp\'s "ngram" method (%(default)s)')
    add("--server-match", type=_positive, default=3, metavar="N", help="tokens that it looks for (%(default)s)")
    add("--max-tokens", type=_positive, default=128, metavar="N", help="per prompt (%(default)s)")
    add("--threads", type=_positive, default=os.cpu_count(), metavar="N", help="default: all cores (%(default)s)")
    add("--n-gpu-layers", type=_layers, default=0, metavar="N", help="on the GPU, -1 for all (%(default)s)")
    add("--repeats", type=_positive, default=1, metavar="N", help="of every prompt (%(default)s)")
    add("--ctx", type=_positive, default=1024, metavar="N", help="context of the target (%(default)s)")
    add("--minutes", type=float, metavar="X", help="start no further prompts after about this long")


def run(args: argparse.Namespace, program: Sequence[str], checkout: Optional[Path] = None) -> int:
    """Measures, writes the results and shows them.

    Args:
        args: As of `add_arguments`, and `arguments`, the words that they were parsed from.
        program: The words before these.
        checkout: This repository's folder, if its commit is to be in the results.

    Returns:
        The exit code: 0, or 1 if it was interrupted.

    Raises:
        ValueError: If a file is missing, damaged or does not fit, or a prompt does not fit into the context.
        ImportError: If a picture is wanted and matplotlib is missing.
    """
    progress = Progress()
    plot = _plotter() if args.plots else None
    sets = [read_prompts(spec, args.style, args.field) for spec in args.prompts]
    if len({s.name for s in sets}) < len(sets):
        raise ValueError("--prompts: two files have the same name")
    if ALL in {s.name for s in sets}:
        raise ValueError(f'--prompts: "{ALL}" is what all prompts together are called, rename the file')
    for path in filter(None, [args.out, args.markdown]):
        _check_writable(path)
    models = _models(args)
    wanted = Wanted(_methods(args), sets, args.max_tokens, args.repeats)
    results = Results(args, models[0], sets, program, checkout)

    counts = {"target": len(models), "prompt": sum(len(s.texts) for s in sets), "method": len(wanted.methods)}
    progress.say(", ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in counts.items()))
    finished = False
    with _ended_by_sigterm_as_by_ctrl_c() as raise_if_lost:
        try:
            _measure(models, wanted, results, progress, args.minutes, raise_if_lost)
            finished = True
        except KeyboardInterrupt:
            kept = f"{args.out} holds what was measured" if results.content["runs"] else "nothing was measured"
            progress.say(f"interrupted: {kept}")
    if results.content["runs"]:
        results.save()
        results.validate()
        progress.say(f"written: {args.out}")
        _show(results.content, args, plot, progress)
    return 0 if finished else 1


def _check_writable(path: Path) -> None:
    """Makes the folder. Rather before the measurement than after it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{path} is a folder" if path.is_dir() else f"{path.parent} is not writable")


def _models(args: argparse.Namespace) -> List[Models]:
    """What is loaded for each target: their files are there and fit."""
    for path in [*args.target, *filter(None, [args.llama_server])]:
        if not path.is_file():
            raise ValueError(f"no such file: {path}")
    if len({path.stem for path in args.target}) < len(args.target):
        raise ValueError("--target: two targets have the same file name")
    models = []
    for target in args.target:
        drafts = tuple(draft for item in args.draft_model for draft in _drafts(item, target, args.block))
        models.append(
            Models(
                target, drafts, args.threads, args.ctx, args.llama_server, args.n_gpu_layers, args.server_ngram, args.server_match
            )
        )
    if args.llama_server and not models[0].server_can():
        raise ValueError(f"--llama-server: it can't draft with {' and '.join(args.draft_model)} together: leave it out")
    return models


def _drafts(item: str, target: Path, block: str) -> List[Draft]:
    """A drafter whose file is there and fits; "auto" may find several."""
    (named,) = parse(item)
    ready = named.all_ready_for(str(target))
    for draft in ready:
        problems = info.problems(info.Model(target), info.Model(draft.file)) if draft.file else []
        if problems:
            raise ValueError(f"{item} does not fit {target}: {'; '.join(problems)}")
    return [dataclasses.replace(draft, block=block) if isinstance(draft, DFlashDraft) else draft for draft in ready]


def _methods(args: argparse.Namespace) -> List[Method]:
    methods = [Method("plain")]
    methods += [Method("chain", b) for b in args.chain_budgets]
    methods += [Method("tree", b) for b in args.tree_budgets]
    if args.llama_server:
        methods += [Method("server-plain"), *(Method("server-chain", b) for b in args.server_lengths)]
    return methods


def _measure(
    models: List[Models],
    wanted: Wanted,
    results: Results,
    progress: Progress,
    minutes: Optional[float],
    raise_if_lost: Callable[[], None],
) -> None:
    deadline = time.monotonic() + minutes * 60 if minutes else math.inf
    finished = []
    try:
        for i, of_target in enumerate(models):
            n_left = len(models) - i
            with TargetBench(of_target, wanted) as bench:
                share = (deadline - time.monotonic()) / n_left
                finished.append(run_target(bench, results, progress, share, n_left, raise_if_lost))
    except (ValueError, OSError):
        if results.content["runs"]:
            progress.say("a problem: the result file holds what was measured before")
        raise
    finally:
        progress.close()
    results.content["complete"] = all(finished)


@contextlib.contextmanager
def _ended_by_sigterm_as_by_ctrl_c() -> Iterator[Callable[[], None]]:
    """Yields what raises a KeyboardInterrupt again that was lost: Python drops one that it raises in a __del__."""
    seen = []

    def interrupt(number: int, _: Any) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    def raise_if_lost() -> None:
        if seen:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield raise_if_lost
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _plotter() -> Any:
    """plots.plot, whose import needs matplotlib."""
    try:
        from .plots import plot
    except ImportError as error:
        raise ImportError(f'--plots needs matplotlib: pip install "llama-dflash[bench]" ({error})') from None
    return plot


def _show(content: Dict[str, Any], args: argparse.Namespace, plot: Any, progress: Progress) -> None:
    if args.markdown:
        args.markdown.write_text(page(content), encoding="utf-8")
        progress.say(f"written: {args.markdown}")
    else:
        print(page(content), end="")
    if plot is not None:
        for path in plot(content, args.plots):
            progress.say(f"written: {path}")
