"""Binding of the speculation engine's C ABI (native/engine/llama-dflash.h)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import warnings
from typing import Iterator, List, Optional, Tuple

import llama_cpp
import numpy as np
import numpy.typing as npt

from . import _library
from .draft import DFlashDraft
from .stats import PHASES, DraftTree, SpeculativeStats

MODES = {"tree": 0, "chain": 1}

DONE, NO_ROOM, ABORTED = 0, 1, 2  # what a round returns


class _Params(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("mode", "budget", "n_context", "n_gpu_layers", "type_k", "type_v", "n_threads", "flash_attn", "short_block", "device_outputs")
    ] + [("synthetic_length", ctypes.c_float)]


class _Result(ctypes.Structure):
    _fields_ = [
        ("n_nodes", ctypes.c_int32),
        ("node_token", ctypes.POINTER(ctypes.c_int32)),
        ("parents", ctypes.POINTER(ctypes.c_int32)),
        ("logprob", ctypes.POINTER(ctypes.c_float)),
    ]


class _Token(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("token", "node", "child")]


class _Stats(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rounds", "drafted", "nodes", "accepted", "tokens")),
        ("seconds", ctypes.c_double * len(PHASES)),
    ]


_SIGNATURES = {
    "default_params": (_Params, []),
    "load": (ctypes.c_void_p, [llama_cpp.llama_context_p_ctypes, ctypes.c_char_p, _Params]),
    "free": (None, [ctypes.c_void_p]),
    "last_error": (ctypes.c_char_p, []),
    "check_model": (ctypes.c_int32, [ctypes.c_char_p]),
    "no_abort": (None, [ctypes.c_bool]),
    "sample": (ctypes.c_int32, [llama_cpp.llama_sampler_p_ctypes, llama_cpp.llama_context_p_ctypes, ctypes.c_int32]),
    "block_size": (ctypes.c_int32, [ctypes.c_void_p]),
    "uses_trees": (ctypes.c_bool, [ctypes.c_void_p]),
    "observe": (ctypes.c_int32, [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]),
    "truncate": (ctypes.c_int32, [ctypes.c_void_p, ctypes.c_int32]),
    "round": (
        ctypes.c_int32,
        [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(_Result)],
    ),
    "next": (
        ctypes.c_int32,
        [ctypes.c_void_p, llama_cpp.llama_sampler_p_ctypes, ctypes.c_bool, ctypes.POINTER(_Token)],
    ),
    "settle": (ctypes.c_int32, [ctypes.c_void_p]),
    "news": (ctypes.c_char_p, [ctypes.c_void_p]),
    "set_abort_callback": (None, [ctypes.c_void_p, llama_cpp.ggml_abort_callback, ctypes.c_void_p]),
    "logprobs": (
        ctypes.c_int32,
        [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_float)],
    ),
    "get_stats": (_Stats, [ctypes.c_void_p]),
    "reset_stats": (None, [ctypes.c_void_p]),
    "state_size": (ctypes.c_size_t, [ctypes.c_void_p]),
    "state_get": (ctypes.c_size_t, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]),
    "state_set": (ctypes.c_int32, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]),
}


class _Functions:
    """The library's functions, without their prefix."""

    def __init__(self) -> None:
        library = _library.open_library("llama_dflash")
        for name, (restype, argtypes) in _SIGNATURES.items():
            function = getattr(library, f"llama_dflash_{name}")
            function.restype, function.argtypes = restype, argtypes
            setattr(self, name, function)


_functions: Optional[_Functions] = None


def _library_functions() -> _Functions:
    global _functions
    if _functions is None:
        _functions = _Functions()
    return _functions


def check_model(path: str) -> None:
    """Raises ValueError if the target's file has damage that llama.cpp would abort at."""
    functions = _library_functions()
    if functions.check_model(os.fsencode(path)) < 0:
        raise ValueError(_last_error(functions))


@contextlib.contextmanager
def no_abort() -> Iterator[None]:
    """Where llama.cpp would abort the process in this thread, loading a model fails."""
    functions = _library_functions()
    functions.no_abort(True)
    try:
        yield
    finally:
        functions.no_abort(False)


def sample(sampler: llama_cpp.llama_sampler_p, ctx: llama_cpp.llama_context_p, idx: int) -> int:
    """llama_sampler_sample(), whose exceptions would end the process.

    Raises:
        RuntimeError: If the sampler failed: a grammar that no token satisfies, or no logits.
    """
    functions = _library_functions()
    token = functions.sample(sampler, ctx, idx)
    if token < 0:
        raise RuntimeError(_last_error(functions))
    return token


def _last_error(functions: _Functions) -> str:
    return functions.last_error().decode("utf-8", errors="replace")


class Engine:
    """A drafter at work for one target context. Sequence 0 only, one thread at a time.

    Raises:
        ValueError: If the drafter's file or settings do not fit the target.
    """

    def __init__(self, ctx: llama_cpp.llama_context_p, draft: DFlashDraft, *, n_gpu_layers: int) -> None:
        self._c = _library_functions()
        params = self._c.default_params()
        params.mode = MODES[draft.mode]
        params.budget = 0 if draft.budget == "auto" else draft.budget
        params.n_context = draft.context
        params.n_gpu_layers = n_gpu_layers if draft.n_gpu_layers is None else draft.n_gpu_layers
        params.type_k = params.type_k if draft.type_k is None else draft.type_k
        params.type_v = params.type_v if draft.type_v is None else draft.type_v
        params.flash_attn = draft.flash_attn
        params.short_block = draft.block == "short"
        params.device_outputs = params.device_outputs if draft.device_outputs is None else draft.device_outputs
        params.synthetic_length = draft.synthetic_length or 0.0
        self._pointer = self._c.load(ctx, os.fsencode(draft.path), params)
        if not self._pointer:
            raise ValueError(f"draft_model: {_last_error(self._c)}")
        self.block_size: int = self._c.block_size(self._engine)
        self.uses_trees: bool = self._c.uses_trees(self._engine)

    def close(self) -> None:
        """Frees the drafter. Its target must still be there."""
        pointer, self._pointer = self._pointer, None
        if pointer:
            self._c.free(pointer)

    @property
    def closed(self) -> bool:
        return self._pointer is None

    @property
    def _engine(self) -> int:
        if self._pointer is None:
            raise RuntimeError("this Llama was closed")
        return self._pointer

    def observe(self, pos: int, n_tokens: int, n_after: int) -> None:
        """Takes the features of the target's last decode: n_tokens from position pos on, n_after are to follow."""
        self._check(self._c.observe(self._engine, pos, n_tokens, n_after))
        self._tell_news()

    def truncate(self, n_past: int) -> None:
        """Forgets what is known of positions n_past and later."""
        self._check(self._c.truncate(self._engine, n_past))

    def start(self, root: int, n_past: int, n_max: int) -> Tuple[int, Optional[DraftTree]]:
        """Begins a round of at most n_max tokens: drafts after `root`, which sits at position n_past, and verifies.

        Returns:
            DONE and the tree, or NO_ROOM or ABORTED and None: the target is then as before.
        """
        result = _Result()
        status = self._c.round(self._engine, root, n_past, n_max, ctypes.byref(result))
        self._check(status)
        self._tell_news()
        return status, _tree(result) if status == DONE else None

    def next(self, sampler: llama_cpp.llama_sampler_p, greedy: bool, tree: DraftTree) -> Tuple[int, bool]:
        """Samples the next token of the round whose tree is given, and writes it down there.

        Args:
            greedy: The sampler is a plain argmax.

        Returns:
            The token, and whether the round goes on.
        """
        sampled = _Token()
        self._check(self._c.next(self._engine, sampler, greedy, ctypes.byref(sampled)))
        tree.sampled.append(sampled.token)
        if sampled.child >= 0:
            tree.path.append(sampled.child)
        return sampled.token, sampled.child >= 0

    def settle(self) -> int:
        """Ends the round where it is. Returns how many positions the target's memory then holds."""
        n_past = self._c.settle(self._engine)
        self._check(n_past)
        return n_past

    def round(
        self, sampler: llama_cpp.llama_sampler_p, root: int, n_past: int, *, greedy: bool, n_max: int
    ) -> Tuple[int, Optional[DraftTree]]:
        """A whole round, for tests and tools."""
        status, tree = self.start(root, n_past, n_max)
        while tree is not None and self.next(sampler, greedy, tree)[1]:
            pass
        return status, tree

    def _tell_news(self) -> None:
        news = self._c.news(self._engine)
        if news is not None:
            warnings.warn(
                f"The drafter failed: {news.decode('utf-8', errors='replace')}. The text goes on without drafts; it is "
                "tried again later.",
                RuntimeWarning,
                stacklevel=2,
            )

    def logprobs(self, root: int, n_past: int, n_positions: int, n_vocab: int) -> npt.NDArray[np.single]:
        """The drafter's log-probabilities [n_positions, n_vocab] of the tokens after `root` at position n_past."""
        out = np.empty((n_positions, n_vocab), dtype=np.single)
        self._check(
            self._c.logprobs(self._engine, root, n_past, n_positions, out.ctypes.data_as(ctypes.POINTER(ctypes.c_float)))
        )
        return out

    def stats(self, round_seconds: float = 0.0) -> SpeculativeStats:
        """What was done since reset_stats(). `round_seconds`: what the rounds took as the caller sees it."""
        stats = self._c.get_stats(self._engine)
        seconds = dict(zip(PHASES, stats.seconds))
        seconds["other"] += max(0.0, round_seconds - sum(stats.seconds))
        return SpeculativeStats(stats.rounds, stats.nodes, stats.accepted, stats.tokens, seconds)

    def reset_stats(self) -> None:
        self._c.reset_stats(self._engine)

    def get_state(self) -> bytes:
        """The drafter's memory; nothing if it can't be had."""
        buffer = ctypes.create_string_buffer(self._c.state_size(self._engine))
        size = self._c.state_get(self._engine, buffer, len(buffer))
        return buffer.raw[:size]

    def set_state(self, data: bytes) -> None:
        """Restores get_state()'s bytes. On failure the drafter remembers nothing, which harms no text."""
        self._check(self._c.state_set(self._engine, data, len(data)))

    def _check(self, status: int) -> None:
        if status < 0:
            raise RuntimeError(_last_error(self._c))


def _tree(result: _Result) -> DraftTree:
    nodes: List[List] = [values[: result.n_nodes] for values in (result.node_token, result.parents, result.logprob)]
    return DraftTree(*nodes, path=[0], sampled=[])
