"""Whole rounds of speculation as a user has them: llama_dflash.Llama, acceptance made up."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from llama_dflash import DFlashDraft, Llama
from llama_dflash._engine import Engine
from llama_dflash.stats import PHASES
from llama_cpp import LlamaState  # after llama_dflash, which says where it comes from

from target import KV_TYPES, Settings, random_tokens

WARMUP = 8  # rounds: every graph is captured, every buffer is as large as it gets
GREEDY = dict(temp=0.0)
SAMPLERS = {  # usual chains; the last one leaves nothing out
    "temperature 0.7, top_k 20, top_p 0.8": dict(temp=0.7, top_k=20, top_p=0.8, min_p=0.0),
    "temperature 0.8, top_k 40, top_p 0.95, min_p 0.05": dict(temp=0.8),
    "temperature 0.7, top_k 20, repeat_penalty 1.1, presence_penalty 0.5": dict(
        temp=0.7, top_k=20, repeat_penalty=1.1, presence_penalty=0.5
    ),
    "temperature 0.7, top_k 0, top_p 0.95": dict(temp=0.7, top_k=0),
}


@dataclass(frozen=True)
class Draft:
    """length: tokens a round that are accepted whatever the target says; None: what it really accepts."""

    budget: int
    length: float | None


class Speculation:
    """A target with its drafter. Another draft goes on with what is in both memories, or starts again from keep()."""

    def __init__(self, target: str, drafter: str, settings: Settings, draft: Draft, *, verbose: bool) -> None:
        self._drafter, self._settings = drafter, settings
        self.llm = Llama(
            target,
            draft_model=self._draft_model(draft),
            n_ctx=settings.n_ctx,
            n_batch=settings.n_ubatch,
            n_ubatch=settings.n_ubatch,
            n_threads=settings.n_threads,
            n_threads_batch=settings.n_threads,
            n_gpu_layers=settings.n_gpu_layers,
            type_k=KV_TYPES[settings.kv],
            type_v=KV_TYPES[settings.kv],
            flash_attn=True,
            verbose=verbose,
        )
        self._accept(draft)
        self._rng = np.random.default_rng(2)
        self._kept: LlamaState | None = None

    def close(self) -> None:
        self.llm._engine.close()  # it may be another than the one that `llm` knows how to close
        self.llm.close()

    def fill(self, n: int) -> float:
        """Evaluates n random tokens as a prompt, in an empty memory. Returns the seconds it took, the drafter's part
        included."""
        tokens = random_tokens(self._rng, n, self.llm.n_vocab())
        self.llm.eval(tokens[: self._settings.n_ubatch])  # kernels are loaded, buffers grown
        self.llm.reset()
        started = time.perf_counter()
        self.llm.eval(tokens)
        float(self.llm._ctx.get_logits_ith(-1)[0])  # waits for the GPU
        return time.perf_counter() - started

    def keep(self) -> None:
        """Every later use() starts from what is in memory now."""
        self._kept = self.llm.save_state()

    def use(self, draft: Draft) -> None:
        """Drafts with other settings from now on."""
        state = self.llm._engine.get_state()
        self.llm._engine.close()
        self.llm._memory.engine = Engine(self.llm.ctx, [self._draft_model(draft)], n_gpu_layers=self._settings.n_gpu_layers)
        self.llm._engine.set_state(state)
        self._accept(draft)
        if self._kept is not None:
            self.llm.load_state(self._kept)

    def rounds(self, n_rounds: int, sampler: dict[str, Any] = GREEDY) -> list[dict[str, float]]:
        """Seconds by phase, and tokens, of each round after the warm-up. sampler: settings of Llama.generate()."""
        llm, seen = self.llm, []
        root = random_tokens(self._rng, 1, llm.n_vocab())
        stream = llm.generate(root, reset=False, **sampler)
        with contextlib.closing(stream):
            for _ in stream:
                if llm.last_tree is not None and not llm.last_tree.drafted(len(llm.last_tree.sampled) - 1):
                    seen.append(llm.speculative_stats)  # a round is over
                if len(seen) == WARMUP + n_rounds:
                    break
        return [_difference(a, b) for a, b in zip(seen[WARMUP - 1 :], seen[WARMUP:])]

    def _draft_model(self, draft: Draft) -> DFlashDraft:
        return DFlashDraft(self._drafter, budget=draft.budget)

    def _accept(self, draft: Draft) -> None:
        self.llm._engine.set_synthetic_length(draft.length or 0.0)


def _difference(before: Any, after: Any) -> dict[str, float]:
    phases = {phase: after.seconds[phase] - before.seconds[phase] for phase in PHASES}
    return {**phases, "tokens": after.tokens - before.tokens, "nodes": after.nodes - before.nodes}


def summary(draft: Draft, rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Medians in milliseconds; tokens per second from the sums, so that slow rounds count."""
    totals = [sum(r[phase] for phase in PHASES) for r in rounds]
    return {
        "budget": draft.budget,
        "length_asked": draft.length,
        "length": statistics.mean(r["tokens"] for r in rounds),
        "nodes": statistics.mean(r["nodes"] for r in rounds),
        "rounds": len(rounds),
        "ms": 1000 * statistics.median(totals),
        "ms_mean": 1000 * statistics.mean(totals),
        "ms_most": 1000 * max(totals),
        "phases_ms": {phase: 1000 * statistics.median(r[phase] for r in rounds) for phase in PHASES},
        "tokens_per_second": sum(r["tokens"] for r in rounds) / sum(totals),
    }
