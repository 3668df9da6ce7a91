"""What `llama-dflash tune` found out about this machine and a model, and how it is found out.

A result is a JSON file in the cache, folder "tuned", by the machine and the model's file; beside it lies what the engine
learned about costs and acceptance (`Llama.save_tuned`). The commands take them by default; in Python, `tuned=` takes the
latter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from .cache_folder import cache_folder

FORMAT = 1
TEXTS = (  # what is written on: code, prose, and an answer that repeats its question
    ("raw", "def quicksort(items):\n    "),
    ("chat", "Explain in a few sentences why the sky is blue, and why it is red in the evening."),
    ("chat", "Write this list again, in alphabetical order: pear, apple, quince, cherry, plum, fig, lemon, orange, melon."),
)
N_TOKENS = 48  # of each text

Say = Callable[[str], None]


@dataclass(frozen=True)
class Tuned:
    """What is best for a model on this machine.

    Attributes:
        threads: For decoding and for drafts alike.
        draft_model: As `draft_model=` takes it; empty: no drafter is faster than plain decoding.
        budget: Draft nodes a round.
        tokens_per_second, plain_tokens_per_second: Over the texts, with the drafters and without.
        learned: The file for `tuned=`; None without drafters.
        measured: Everything that was tried, by its name, in tokens per second.
    """

    threads: int
    draft_model: List[str]
    budget: str
    tokens_per_second: float
    plain_tokens_per_second: float
    learned: Optional[str]
    measured: Dict[str, float]
    model: str = ""
    format: int = FORMAT


def n_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---------------------------------------------------------------- what is kept


def result_file(model: str) -> Path:
    return cache_folder() / "tuned" / f"{Path(model).stem[:80]}-{_key(model)}.json"


def find(model: str) -> Optional[Tuned]:
    """What was found for a model's file on this machine; None if nothing was."""
    try:
        found = Tuned(**json.loads(result_file(model).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.format == FORMAT else None


def with_learned(model: str, draft_model: Sequence[str], say: Optional[Say] = None) -> List[Any]:
    """Drafts of these names, which go on from what was learned if just these were tuned."""
    from .drafts import AutoDraft, parse

    drafts = [parse(name)[0] for name in draft_model]
    drafts = [dataclasses.replace(draft, on_choice=say) if isinstance(draft, AutoDraft) else draft for draft in drafts]
    found = find(model)
    if not drafts or found is None or found.draft_model != list(draft_model) or not found.learned or not os.path.exists(found.learned):
        return drafts
    return [dataclasses.replace(drafts[0], tuned=found.learned), *drafts[1:]]  # type: ignore[type-var]


def _key(model: str) -> str:
    about = [cpu_name(), n_cpus(), os.path.abspath(model), os.path.getsize(model) if os.path.exists(model) else 0]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found is not None:
            return found[1]
    return platform.processor() or platform.machine() or "unknown"


# ---------------------------------------------------------------- measuring


def tune(model: str, candidates: Sequence[Sequence[str]], *, seconds: float, say: Say, n_gpu_layers: int = -1, threads: Optional[int] = None) -> Tuned:
    """Measures, and keeps what is best.

    Args:
        candidates: Lists of drafters, as `draft_model=` takes them.
        seconds: About as long as it may take, without loading.
        say: Is called with what is going on.
        threads: To use; None: as many as are fastest.

    Raises:
        ValueError: If the model or a drafter does not load.
    """
    path = result_file(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    share = seconds / (len(candidates) + 2)
    measured: Dict[str, float] = {}
    with _loaded(model, [], n_gpu_layers) as llm:
        by_threads = {} if threads is not None else _rates_by_threads(llm, share)
        best_threads = threads or max(by_threads, key=by_threads.__getitem__)
        measured.update({f"plain, {n} threads": rate for n, rate in by_threads.items()})
        _set_threads(llm, best_threads)
        plain = measured["plain"] = _rate(llm, share)
    say(f"plain decoding: {plain:.1f} tokens/s with {best_threads} threads")
    best: Tuple[List[str], float, str] = [], plain, ""
    for names in map(list, candidates):
        with _loaded(model, names, n_gpu_layers) as llm:
            _set_threads(llm, best_threads)
            name = " and ".join(os.path.basename(name) for name in names)
            rate = measured[name] = _rate(llm, share)
            say(f"drafts of {name}: {rate:.1f} tokens/s, {rate / plain:.2f} times plain")
            if rate > best[1]:
                learned = str(path.with_suffix(".learned"))
                llm.save_tuned(learned)
                best = names, rate, learned
    result = Tuned(best_threads, best[0], "auto", best[1], plain, best[2] or None, measured, os.path.basename(model))
    path.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    return result


@contextlib.contextmanager
def _loaded(model: str, draft_model: List[str], n_gpu_layers: int):
    from .llama import Llama

    llm = Llama(
        model, draft_model=draft_model or None, n_ctx=1024, n_threads=n_cpus(), n_threads_batch=n_cpus(), flash_attn=True,
        n_gpu_layers=n_gpu_layers, verbose=False,
    )  # fmt: skip
    try:
        yield llm
    finally:
        llm.close()


def _set_threads(llm: Any, n: int) -> None:
    import llama_cpp

    llama_cpp.llama_set_n_threads(llm.ctx, n, n)


def _rates_by_threads(llm: Any, seconds: float) -> Dict[int, float]:
    """Plain decoding with all CPUs, half of them, and one."""
    counts = sorted({1, max(1, n_cpus() // 2), n_cpus()}, reverse=True)
    rates = {}
    for n in counts:
        _set_threads(llm, n)
        rates[n] = _rate(llm, seconds / len(counts), TEXTS[:1])
    return rates


def _rate(llm: Any, seconds: float, texts: Sequence[Tuple[str, str]] = TEXTS) -> float:
    """Tokens a second over texts, each at least once after a first one that does not count; their best time of several."""
    prompts = [_tokens(llm, *text) for text in texts]
    _written(llm, prompts[0])
    best: Dict[int, Tuple[int, float]] = {}
    end = time.monotonic() + seconds
    while True:
        for i, prompt in enumerate(prompts):
            n, took = _written(llm, prompt)
            if i not in best or n / took > best[i][0] / best[i][1]:
                best[i] = n, took
            if time.monotonic() > end and len(best) == len(prompts):
                return sum(n for n, _ in best.values()) / sum(took for _, took in best.values())


def _tokens(llm: Any, style: str, text: str) -> List[int]:
    from .chat import template_of

    chat = template_of(llm) if style == "chat" else None
    return llm.tokenize(text.encode()) if chat is None else chat([{"role": "user", "content": text}])


def _written(llm: Any, prompt: List[int]) -> Tuple[int, float]:
    """Tokens after the first one, which belongs to the prompt, and the seconds that they took."""
    llm.reset()
    tokens = llm.generate(prompt, temp=0.0)
    next(tokens)
    started = time.perf_counter()
    n = 0
    for _ in tokens:
        n += 1
        if n == N_TOKENS:
            break
    seconds = time.perf_counter() - started
    tokens.close()
    return n, max(seconds, 1e-9)
