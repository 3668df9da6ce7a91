"""Measures plain decoding, chains and trees on the same prompts, ours and llama.cpp's own, and writes JSON.

    python benchmarks/bench.py --target M.gguf --draft-model D.gguf --prompts P.jsonl:8 --out results.json

benchmarks/README.md says what the numbers mean; plot.py and report.py show them.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import jsonschema

import llama_dflash  # first, so that llama_cpp is over its library
import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from methods import Budget, Generation, Method, Models, Ours, TopTwo, load
from summary import summarise

HERE = Path(__file__).resolve().parent
SCHEMA = HERE / "results.schema.json"
WARM_UP_TOKENS = 16


# ---------------------------------------------------------------- what is asked for


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one kind. style: "raw" goes on after a text, "chat" answers a question by the target's template."""

    name: str
    style: str
    texts: List[str]


def read_prompts(spec: str, style: Optional[str]) -> PromptSet:
    """Reads FILE.jsonl or, for its first N rows, FILE.jsonl:N. A row has a `prompt` (raw) or a `question` (chat)."""
    file, _, n = spec.rpartition(":")
    if not (file and n.isdigit()):
        file, n = spec, ""
    try:
        lines = [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [json.loads(line) for line in lines][: int(n) if n else None]
    except (OSError, ValueError) as error:
        raise SystemExit(f"--prompts {spec}: {error}") from None
    for key, usual in (("prompt", "raw"), ("question", "chat")):
        if rows and all(isinstance(row, dict) and isinstance(row.get(key), str) for row in rows):
            return PromptSet(Path(file).stem, style or usual, [row[key] for row in rows])
    raise SystemExit(f'--prompts {spec}: expected rows of JSON, each with a "prompt" or each with a "question"')


def tokenize(prompts: PromptSet, llm: llama_dflash.Llama) -> List[List[int]]:
    template = llm.metadata.get("tokenizer.chat_template") if prompts.style == "chat" else None
    if template is None:
        return [llm.tokenize(text.encode(), add_bos=True, special=True) for text in prompts.texts]
    eos, bos = (
        llm._model.token_get_text(token) if token != -1 else "" for token in (llm.token_eos(), llm.token_bos())
    )
    chat = Jinja2ChatFormatter(template=template, eos_token=eos, bos_token=bos)
    answers = [chat(messages=[{"role": "user", "content": text}]) for text in prompts.texts]
    return [llm.tokenize(a.prompt.encode(), add_bos=not a.added_special, special=True) for a in answers]


def budgets(text: str) -> List[Budget]:
    """"4,8,auto" as a list."""
    found: List[Budget] = [part if part == "auto" else int(part) for part in text.split(",") if part]
    if any(isinstance(b, int) and b < 1 for b in found):
        raise ValueError(text)
    return found


def parse_arguments(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Plain decoding against chains and draft trees, greedy, prompt by prompt.",
        epilog="Without the first token, which evaluating the prompt gives, all times are those of decoding alone.",
    )
    add = parser.add_argument
    add("--target", action="append", required=True, type=Path, metavar="M.gguf", help="a target; may be repeated")
    add("--draft-model", required=True, type=Path, metavar="D.gguf", help="the DFlash drafter of all these targets")
    add(
        "--prompts",
        action="append",
        required=True,
        metavar="FILE.jsonl[:N]",
        help='rows with a "prompt" or a "question", the first N of them; may be repeated',
    )
    add("--style", choices=["raw", "chat"], help="default: raw for prompts, chat for questions")
    add("--llama-server", type=Path, metavar="PATH", help="an unpatched llama-server, to measure llama.cpp's own chain")
    add("--chain-budgets", type=budgets, default="3,7,15,auto", metavar="LIST", help="of our chain (%(default)s)")
    add("--tree-budgets", type=budgets, default="4,8,15,16,22,32,auto", metavar="LIST", help="of our tree (%(default)s)")
    add("--server-lengths", type=budgets, default="3,7,15", metavar="LIST", help="of llama.cpp's chain (%(default)s)")
    add("--max-tokens", type=int, default=128, metavar="N", help="per prompt (%(default)s)")
    add("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: all cores (%(default)s)")
    add("--repeats", type=int, default=1, metavar="N", help="of every prompt (%(default)s)")
    add("--ctx", type=int, default=1024, metavar="N", help="context of the target (%(default)s)")
    add("--minutes", type=float, metavar="X", help="start no further prompts after about this long")
    add("--out", required=True, type=Path, metavar="results.json")
    args = parser.parse_args(argv)
    files = [*args.target, args.draft_model, *filter(None, [args.llama_server])]
    for path in files:
        if not path.is_file():
            parser.error(f"no such file: {path}")
    if len({path.stem for path in args.target}) < len(args.target):
        parser.error("two targets have the same file name")
    return args


def methods_of(args: argparse.Namespace) -> List[Method]:
    methods = [Method("plain")]
    methods += [Method("chain", b) for b in args.chain_budgets]
    methods += [Method("tree", b) for b in args.tree_budgets]
    if args.llama_server:
        methods += [Method("server-plain"), *(Method("server-chain", b) for b in args.server_lengths)]
    return methods


# ---------------------------------------------------------------- what is said about the surroundings


def machine() -> Dict[str, Any]:
    cpu = platform.processor() or "unknown"
    try:
        cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)[1]
    except (OSError, TypeError):
        pass
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(gib, 1), "system": f"{platform.system()} {platform.machine()}"}


def _git(*command: str) -> str:
    try:
        return subprocess.run(["git", *command], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def versions(args: argparse.Namespace) -> Dict[str, Any]:
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "../llama_dflash", "../native", "../patches")
    server = None
    if args.llama_server:
        env = {**os.environ, "LD_LIBRARY_PATH": str(args.llama_server.resolve().parent)}
        done = subprocess.run([args.llama_server, "--version"], capture_output=True, text=True, env=env)
        server = (done.stderr + done.stdout).strip().splitlines()[0] if done.stderr or done.stdout else "unknown"
    return {
        "llama_dflash": llama_dflash.__version__,
        "git_commit": _git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "") or None,
        "llama_cpp_python": llama_cpp.__version__,
        "llama_server": server,
        "python": platform.python_version(),
    }


def command_line(argv: List[str]) -> str:
    """The command, with paths as seen from here or its parent, others by their names alone."""

    def shown(word: str) -> str:
        if os.sep not in word:
            return word
        path, _, n = word.partition(":")
        relative = os.path.relpath(path)
        short = relative if not relative.startswith(os.path.join("..", "..")) else Path(path).name
        return short + (f":{n}" if n else "")

    words = [option + eq + shown(value) for option, eq, value in (w.rpartition("=") for w in argv)]
    return shlex.join(["python", *words])


# ---------------------------------------------------------------- results


class Results:
    """The result file, complete and valid at every save."""

    def __init__(self, args: argparse.Namespace, prompts: List[PromptSet], argv: List[str]) -> None:
        self._path = args.out
        self.content: Dict[str, Any] = {
            "schema": 1,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "complete": False,
            "command": command_line(argv),
            "machine": machine(),
            "versions": versions(args),
            "settings": {
                "max_tokens": args.max_tokens,
                "threads": args.threads,
                "repeats": args.repeats,
                "n_ctx": args.ctx,
                "flash_attn": True,
                "temperature": 0.0,
                "batch_invariant": os.environ.get("GGML_CPU_BATCH_INVARIANT", "0") not in ("", "0"),
            },
            "drafter": {"name": args.draft_model.stem, "bytes": args.draft_model.stat().st_size},
            "targets": [],
            "sets": [{"name": p.name, "style": p.style, "prompts": len(p.texts)} for p in prompts],
            "runs": [],
            "summary": [],
        }
        self._validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))

    def add(self, run: Dict[str, Any]) -> None:
        self.content["runs"].append(run)

    def save(self) -> None:
        """Writes all or nothing: an interrupted run leaves the file of the last prompt."""
        self.content["summary"] = summarise(self.content["runs"])
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(to_json(self.content), encoding="utf-8")
        os.replace(partial, self._path)

    def validate(self) -> None:
        self._validator.validate(json.loads(json.dumps(self.content)))


def to_json(content: Dict[str, Any]) -> str:
    """JSON with a line for every run, so that it can be read and compared."""

    def value(v: Any) -> str:
        if isinstance(v, list) and v and isinstance(v[0], dict):
            return "[\n  " + ",\n  ".join(map(json.dumps, v)) + "\n ]"
        return json.dumps(v)

    return "{\n " + ",\n ".join(f"{json.dumps(k)}: {value(v)}" for k, v in content.items()) + "\n}\n"


def first_difference(a: List[int], b: List[int]) -> Optional[int]:
    """The first position at which two texts differ; None if they are equal."""
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))


# ---------------------------------------------------------------- measuring


class Progress:
    """One line per prompt on stderr, with the time that remains."""

    def __init__(self) -> None:
        self.begun = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{(time.monotonic() - self.begun) / 60:5.1f} min] {text}", file=sys.stderr, flush=True)


class TargetBench:
    """All methods over one target, loaded once and kept: threads of idle ones sleep."""

    def __init__(self, models: Models, methods: List[Method], sets: List[PromptSet], args: argparse.Namespace) -> None:
        self.models, self.methods, self.sets, self.args = models, methods, sets, args
        self.name = models.target.stem
        self.loaded: Dict[str, Any] = {}

    def __enter__(self) -> "TargetBench":
        return self

    def __exit__(self, *_: Any) -> None:
        for program in self.loaded.values():
            program.close()

    @property
    def plain(self) -> Ours:
        return self.loaded["plain"]

    def load(self, progress: Progress) -> None:
        for method in self.methods:
            started = time.monotonic()
            program = self.loaded[method.name] = load(self.models, method)
            if method.kind == "plain":
                self.prompts = {s.name: tokenize(s, program.llm) for s in self.sets}
                self._check_lengths()
            first = self.prompts[self.sets[0].name][0]
            program.generate(first, min(WARM_UP_TOKENS, self.args.max_tokens))  # the weights are read; auto learns
            progress.say(f"{self.name}: {method.name} loaded in {time.monotonic() - started:.1f} s")

    def _check_lengths(self) -> None:
        for name, prompts in self.prompts.items():
            longest = max(map(len, prompts))
            if longest + self.args.max_tokens + 64 > self.args.ctx:
                raise SystemExit(
                    f"{name}: a prompt of {longest} tokens and {self.args.max_tokens} more do not fit: "
                    f"use --ctx {math.ceil((longest + self.args.max_tokens + 64) / 256) * 256}"
                )

    def describe(self) -> Dict[str, Any]:
        model = self.plain.llm._model
        arch, _, quantisation = model.desc().split(" ", 2)
        return {
            "name": self.name,
            "type": f"{arch}, {model.n_params() / 1e6:.0f}M parameters, {quantisation}",
            "bytes": self.models.target.stat().st_size,
        }

    def estimate(self) -> float:
        """Seconds that a prompt would take with every method as slow as plain decoding, from a few tokens of it."""
        started = time.monotonic()
        written = self.plain.generate(self.prompts[self.sets[0].name][0], WARM_UP_TOKENS)
        evaluating = time.monotonic() - started - written.seconds
        per_token = written.seconds / max(1, len(written.tokens) - 1)
        return len(self.methods) * (evaluating + per_token * self.args.max_tokens)

    def cells(self) -> Iterator[Tuple[int, int, PromptSet]]:
        """(repeat, row, set): the sets take turns, so that a run that is cut short has as many prompts of each."""
        for repeat in range(self.args.repeats):
            for row in range(max(len(s.texts) for s in self.sets)):
                for prompts in self.sets:
                    if row < len(prompts.texts):
                        yield repeat, row, prompts

    def measure(self, repeat: int, row: int, prompts: PromptSet, turn: int) -> List[Dict[str, Any]]:
        """Every method on one prompt, one right after the other; which comes first changes from prompt to prompt."""
        prompt = self.prompts[prompts.name][row]
        start = turn % len(self.methods)
        written: Dict[str, Generation] = {}
        for method in self.methods[start:] + self.methods[:start]:
            written[method.name] = self.loaded[method.name].generate(prompt, self.args.max_tokens)

        reference = written["plain"].tokens
        if any(first_difference(reference, g.tokens) is not None for g in written.values()):
            top = self.plain.top_two(prompt, reference)
        else:
            top = TopTwo()
        return [self._run(repeat, row, prompts, m, written[m.name], reference, top) for m in self.methods]

    def _run(
        self,
        repeat: int,
        row: int,
        prompts: PromptSet,
        method: Method,
        generation: Generation,
        reference: List[int],
        top: TopTwo,
    ) -> Dict[str, Any]:
        at = first_difference(reference, generation.tokens)
        both = at is not None and at < min(len(reference), len(generation.tokens))
        return {
            "target": self.name,
            "set": prompts.name,
            "prompt": row,
            "repeat": repeat,
            "method": method.name,
            "kind": method.kind,
            "budget": method.budget,
            "baseline": method.baseline,
            "prompt_tokens": len(self.prompts[prompts.name][row]),
            "tokens": len(generation.tokens),
            "decoded": len(generation.tokens) - 1,
            "seconds": generation.seconds,
            "rounds": generation.rounds,
            "nodes": generation.nodes,
            "accepted": generation.accepted,
            "round_tokens": generation.round_tokens,
            "phases": generation.phases,
            "first_difference": at,
            "top_two_gap": top.gaps[at] if at is not None and at < len(top.gaps) else None,
            "is_second_best": generation.tokens[at] == top.seconds[at] if both else None,
        }


def run_target(bench: TargetBench, results: Results, progress: Progress, share: float, n_left: int) -> bool:
    """Measures one target. False if the time was too short for all prompts.

    share: The seconds that it may take.
    n_left: How many targets there are with this one.
    """
    started = time.monotonic()
    bench.load(progress)
    results.content["targets"].append(bench.describe())
    cells = list(bench.cells())
    limit = f" of {share / 60:.1f} min allowed" if math.isfinite(share) else ""
    others = f"; then {n_left - 1} more" if n_left > 1 else ""
    progress.say(
        f"{bench.name} ({bench.describe()['type']}): {len(cells)} prompts x {len(bench.methods)} methods, "
        f"about {bench.estimate() * len(cells) / 60:.1f} min if nothing were gained{limit}{others}"
    )
    begun = time.monotonic()
    for done, (repeat, row, prompts) in enumerate(cells, 1):
        if prompts is bench.sets[0] and done > 1 and time.monotonic() - started > share:
            progress.say(f"{bench.name}: time is up after {done - 1} of {len(cells)} prompts")
            return False
        runs = bench.measure(repeat, row, prompts, turn=done)
        for run in runs:
            results.add(run)
        results.save()
        left = (time.monotonic() - begun) / done * (len(cells) - done)
        progress.say(f"{bench.name}: {done}/{len(cells)} {prompts.name}[{row}] {brief(runs)}; {left / 60:.1f} min left")
    return True


def brief(runs: List[Dict[str, Any]]) -> str:
    """Plain decoding's tokens per second and the fastest method of each other kind as a multiple."""
    rates = {run["method"]: run["decoded"] / run["seconds"] if run["seconds"] > 0 else 0.0 for run in runs}
    best: Dict[str, Tuple[float, str]] = {}
    for run in runs:
        base = rates[run["baseline"]]
        if run["budget"] is not None and base > 0:
            best[run["kind"]] = max(best.get(run["kind"], (0.0, "")), (rates[run["method"]] / base, run["method"]))
    return ", ".join([f"plain {rates['plain']:.1f} tok/s", *(f"{name} x{ratio:.2f}" for ratio, name in best.values())])


def main(argv: Optional[List[str]] = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_arguments(argv)
    sets = [read_prompts(spec, args.style) for spec in args.prompts]
    if len({s.name for s in sets}) < len(sets):
        raise SystemExit("--prompts: two files have the same name")
    methods = methods_of(args)
    results = Results(args, sets, ["benchmarks/bench.py", *argv])

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    deadline = time.monotonic() + args.minutes * 60 if args.minutes else math.inf
    progress = Progress()
    progress.say(f"{len(args.target)} targets, {sum(len(s.texts) for s in sets)} prompts, {len(methods)} methods")
    finished = []
    try:
        for i, target in enumerate(args.target):
            n_left = len(args.target) - i
            models = Models(target, args.draft_model, args.threads, args.ctx, args.llama_server)
            with TargetBench(models, methods, sets, args) as bench:
                finished.append(run_target(bench, results, progress, (deadline - time.monotonic()) / n_left, n_left))
        results.content["complete"] = all(finished)
    except KeyboardInterrupt:
        progress.say(f"interrupted: {args.out} holds what was measured")
    results.save()
    results.validate()
    progress.say(f"written: {args.out}")
    return 0 if len(finished) == len(args.target) else 130


if __name__ == "__main__":
    sys.exit(main())
