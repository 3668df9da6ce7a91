"""Binding of the speculation engine's C ABI (native/engine/llama-dflash.h)."""

from __future__ import annotations

import ctypes
import os
from typing import Callable, List, Optional, Tuple

import llama_cpp
import numpy as np
import numpy.typing as npt

from . import _library
from .draft import DFlashDraft
from .stats import PHASES, DraftTree, SpeculativeStats

MODES = {"tree": 0, "chain": 1}
ABANDON = -1  # what on_token returns to end a round without a trace

DONE, NO_ROOM, ABANDONED = 0, 1, 2  # what a round returns


class _Params(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int32)
        for name in ("mode", "budget", "n_context", "n_gpu_layers", "type_k", "type_v", "n_threads", "flash_attn", "short_block", "device_outputs")
    ] + [("synthetic_length", ctypes.c_float)]


class _Result(ctypes.Structure):
    _fields_ = [
        ("n_tokens", ctypes.c_int32),
        ("tokens", ctypes.POINTER(ctypes.c_int32)),
        ("path", ctypes.POINTER(ctypes.c_int32)),
        ("n_nodes", ctypes.c_int32),
        ("node_token", ctypes.POINTER(ctypes.c_int32)),
        ("parents", ctypes.POINTER(ctypes.c_int32)),
        ("logprob", ctypes.POINTER(ctypes.c_float)),
    ]


class _Stats(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rounds", "drafted", "nodes", "accepted", "tokens")),
        ("seconds", ctypes.c_double * len(PHASES)),
    ]


OnToken = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32)

_SIGNATURES = {
    "default_params": (_Params, []),
    "load": (ctypes.c_void_p, [llama_cpp.llama_context_p_ctypes, ctypes.c_char_p, _Params]),
    "free": (None, [ctypes.c_void_p]),
    "last_error": (ctypes.c_char_p, []),
    "block_size": (ctypes.c_int32, [ctypes.c_void_p]),
    "uses_trees": (ctypes.c_bool, [ctypes.c_void_p]),
    "observe": (ctypes.c_int32, [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32]),
    "truncate": (ctypes.c_int32, [ctypes.c_void_p, ctypes.c_int32]),
    "round": (
        ctypes.c_int32,
        [
            ctypes.c_void_p,
            llama_cpp.llama_sampler_p_ctypes,
            ctypes.c_bool,
            ctypes.c_int32,
            ctypes.c_int32,
            ctypes.c_int32,
            OnToken,
            ctypes.c_void_p,
            ctypes.POINTER(_Result),
        ],
    ),
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
            raise ValueError(f"draft_model: {self._last_error()}")
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

    def truncate(self, n_past: int) -> None:
        """Forgets what is known of positions n_past and later."""
        self._check(self._c.truncate(self._engine, n_past))

    def round(
        self,
        sampler: llama_cpp.llama_sampler_p,
        root: int,
        n_past: int,
        *,
        greedy: bool,
        n_max: int,
        on_token: Optional[Callable[[int], int]] = None,
    ) -> Tuple[int, Optional[DraftTree]]:
        """Drafts after `root`, which sits at position n_past, verifies, samples at most n_max tokens, commits.

        Args:
            greedy: The sampler is a plain argmax.
            on_token: Is called with every sampled token before the next is sampled; ABANDON ends the round.

        Returns:
            DONE and the tree, or NO_ROOM or ABANDONED and None: the target is then as before.
        """
        callback = OnToken(lambda _, token: on_token(token)) if on_token else OnToken()
        result = _Result()
        status = self._c.round(
            self._engine, sampler, greedy, root, n_past, n_max, callback, None, ctypes.byref(result)
        )
        self._check(status)
        return status, _tree(result) if status == DONE else None

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
        """The drafter's memory."""
        buffer = ctypes.create_string_buffer(self._c.state_size(self._engine))
        size = self._c.state_get(self._engine, buffer, len(buffer))
        if size == 0:
            raise RuntimeError(self._last_error())
        return buffer.raw[:size]

    def set_state(self, data: bytes) -> None:
        """Restores get_state()'s bytes. On failure the drafter remembers nothing, which harms no text."""
        self._check(self._c.state_set(self._engine, data, len(data)))

    def _check(self, status: int) -> None:
        if status < 0:
            raise RuntimeError(self._last_error())

    def _last_error(self) -> str:
        return self._c.last_error().decode("utf-8", errors="replace")


def _tree(result: _Result) -> DraftTree:
    nodes: List[List] = [values[: result.n_nodes] for values in (result.node_token, result.parents, result.logprob)]
    return DraftTree(*nodes, path=result.path[: result.n_tokens], sampled=result.tokens[: result.n_tokens])
