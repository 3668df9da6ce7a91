"""Binding of the speculation engine's C ABI (native/engine/llama-dflash.h)."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import warnings
from typing import Iterator, List, Optional, Sequence, Tuple, Union

from . import _library

_library.load()  # where the command line has not needed llama_cpp before

import llama_cpp  # noqa: E402
import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from llama_cpp import _logger  # noqa: E402

from .drafts import CommonSettings, Draft, common_settings  # noqa: E402
from .stats import PHASES, DraftTree, SpeculativeStats  # noqa: E402

PathLike = Union[str, "os.PathLike[str]"]

MODES = {"tree": 0, "chain": 1}
WHOLE_ROW, ARGMAX, TOP_K = 0, 1, 2  # llama_dflash_choice

DONE, NO_ROOM, ABORTED = 0, 1, 2  # what a round returns


class _Params(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("mode", "budget", "n_lanes", "device_outputs", "calibrated")]


class _DrafterParams(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_char_p),
        ("path", ctypes.c_char_p),
        *(
            (name, ctypes.c_int32)
            for name in ("n_context", "n_gpu_layers", "type_k", "type_v", "n_threads", "flash_attn", "short_block", "depth", "width")
        ),
        ("corpus", ctypes.POINTER(ctypes.c_int32)),
        ("corpus_sizes", ctypes.POINTER(ctypes.c_int32)),
        ("n_corpus", ctypes.c_int32),
        ("n_remembered", ctypes.c_int32),
    ]


class _Request(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("lane", "root", "n_past", "n_max")]


class _Result(ctypes.Structure):
    _fields_ = [
        ("n_nodes", ctypes.c_int32),
        ("node_token", ctypes.POINTER(ctypes.c_int32)),
        ("parents", ctypes.POINTER(ctypes.c_int32)),
        ("logprob", ctypes.POINTER(ctypes.c_float)),
    ]


class _Token(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("token", "node", "row", "child")]


class _Stats(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rounds", "drafted", "nodes", "accepted", "tokens")),
        ("seconds", ctypes.c_double * len(PHASES)),
    ]


_int, _engine_p, _bytes_p = ctypes.c_int32, ctypes.c_void_p, ctypes.c_char_p
_tokens_p, _floats_p = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_float)
_sampler_p, _context_p = llama_cpp.llama_sampler_p_ctypes, llama_cpp.llama_context_p_ctypes

_SIGNATURES = {
    "default_params": (_Params, []),
    "default_drafter_params": (_DrafterParams, []),
    "load": (_engine_p, [_context_p, ctypes.POINTER(_DrafterParams), _int, _Params]),
    "free": (None, [_engine_p]),
    "last_error": (ctypes.c_char_p, []),
    "check_model": (_int, [ctypes.c_char_p]),
    "misfits": (ctypes.c_char_p, [_bytes_p, _bytes_p]),
    "kind_of": (ctypes.c_char_p, [_bytes_p]),
    "injected_at_once": (_int, []),
    "no_abort": (None, [ctypes.c_bool]),
    "sample_from_top": (_int, [_sampler_p, _floats_p, _int]),
    "sample": (_int, [_sampler_p, _context_p, _int]),
    "uses_trees": (ctypes.c_bool, [_engine_p]),
    "target_decoded": (None, [_engine_p]),
    "observe": (_int, [_engine_p, _int, _int, _tokens_p, _int, _int, _int]),
    "truncate": (_int, [_engine_p, _int, _int]),
    "round": (_int, [_engine_p, ctypes.POINTER(_Request), _int, ctypes.POINTER(_Result)]),
    "next": (_int, [_engine_p, _int, _sampler_p, ctypes.c_int, ctypes.POINTER(_Token)]),
    "row": (_int, [_engine_p, _int]),
    "decided": (_int, [_engine_p, _int, _sampler_p, ctypes.c_int]),
    "sampled": (_int, [_engine_p, _int, _int, ctypes.POINTER(_Token)]),
    "settle": (_int, [_engine_p, _int]),
    "news": (ctypes.c_char_p, [_engine_p]),
    "set_abort_callback": (None, [_engine_p, llama_cpp.ggml_abort_callback, ctypes.c_void_p]),
    "explain": (ctypes.c_char_p, [_engine_p]),
    "learned": (ctypes.c_char_p, [_engine_p]),
    "learn": (_int, [_engine_p, ctypes.c_char_p]),
    "set_synthetic_length": (_int, [_engine_p, ctypes.c_float]),
    "logprobs": (_int, [_engine_p, _int, _int, _int, _int, _floats_p]),
    "get_stats": (_Stats, [_engine_p, _int]),
    "reset_stats": (None, [_engine_p, _int]),
    "state_size": (ctypes.c_size_t, [_engine_p, _int, _int]),
    "state_get": (ctypes.c_size_t, [_engine_p, _int, _int, _bytes_p, ctypes.c_size_t]),
    "state_set": (_int, [_engine_p, _int, _int, _bytes_p, ctypes.c_size_t]),
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


def misfits(target: PathLike, drafter: PathLike = "") -> List[str]:
    """Why a drafter, or one without a file, can't draft for a target: sentences, none if the two fit. Reads what the files say about themselves, no
    weights."""
    functions = _library_functions()
    with _quiet():
        lines = functions.misfits(os.fsencode(target), os.fsencode(drafter))
    if lines is None:
        raise ValueError(_last_error(functions))
    return lines.decode("utf-8", errors="replace").split("\n") if lines else []


def injected_at_once() -> int:
    """How many positions a DFlash drafter takes in with one forward."""
    return _library_functions().injected_at_once()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """llama.cpp logs nothing, unless somebody has set a log of their own."""
    level = _logger.logger.level
    _logger.logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        _logger.logger.setLevel(level)


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
    """Drafters at work for one target context. A lane is one of its sequences. One thread at a time.

    Args:
        ctx: The target's context.
        drafts: The drafters and their settings.
        common: What is one for all of them; None: as they say together.
        n_gpu_layers: Of the target; of a drafter, if it does not say otherwise.
        n_lanes: Sequences 0 to n_lanes - 1 are served.

    Raises:
        ValueError: If a drafter's file or settings do not fit the target.
    """

    def __init__(
        self,
        ctx: llama_cpp.llama_context_p,
        drafts: Sequence[Draft],
        common: Optional[CommonSettings] = None,
        *,
        n_gpu_layers: int,
        n_lanes: int = 1,
    ) -> None:
        self._c = _library_functions()
        common = common or common_settings(drafts)
        params = self._c.default_params()
        params.mode = MODES[common.mode]
        params.budget = 0 if common.budget == "auto" else common.budget
        params.n_lanes = n_lanes
        params.device_outputs = params.device_outputs if common.device_outputs is None else common.device_outputs
        params.calibrated = common.calibrated
        given = [self._drafter_params(draft, n_gpu_layers) for draft in drafts]
        self._pointer = self._c.load(ctx, (_DrafterParams * len(given))(*given), len(given), params)
        if not self._pointer:
            raise ValueError(f"draft_model: {_last_error(self._c)}")
        self.n_drafters = len(given)
        self.uses_trees: bool = self._c.uses_trees(self._engine)

    def _drafter_params(self, draft: Draft, n_gpu_layers: int) -> _DrafterParams:
        params = self._c.default_drafter_params()
        params.kind = draft.kind.encode()
        for name, value in draft.engine_params(n_gpu_layers).items():
            setattr(params, name, value)
        return params

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

    def observe(self, pos: int, tokens: Sequence[int], n_after: int, *, lane: int = 0) -> None:
        """Takes note of the target's last decode, outside of rounds: these tokens of one lane, from position pos on.
        n_after more are to follow."""
        self._c.target_decoded(self._engine)
        self._observe(lane, pos, tokens, 0, n_after)
        self._tell_news()

    def observe_batch(self, parts: Sequence[Tuple[int, int, Sequence[int], int, int]]) -> None:
        """Takes note of the target's last decode, outside of rounds, of tokens of several lanes.

        Args:
            parts: (lane, position of its first token, its tokens, the first one's row in the batch, how many more of the lane
                are to follow) of every lane, whose tokens are one after the other there.
        """
        self._c.target_decoded(self._engine)
        for lane, pos, tokens, first_row, n_after in parts:
            self._observe(lane, pos, tokens, first_row, n_after)
        self._tell_news()

    def _observe(self, lane: int, pos: int, tokens: Sequence[int], first_row: int, n_after: int) -> None:
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        self._check(self._c.observe(self._engine, lane, pos, array, len(tokens), first_row, n_after))

    def truncate(self, n_past: int, *, lane: int = 0) -> None:
        """Forgets what is known of positions n_past and later."""
        self._check(self._c.truncate(self._engine, lane, n_past))

    def start(self, root: int, n_past: int, n_max: int) -> Tuple[int, Optional[DraftTree]]:
        """Begins a round of lane 0: as start_all()."""
        status, trees = self.start_all([(0, root, n_past, n_max)])
        return status, trees[0] if trees else None

    def start_all(self, requests: Sequence[Tuple[int, int, int, int]]) -> Tuple[int, List[DraftTree]]:
        """Begins a round: drafts after the root of every lane, and verifies all trees in one forward.

        Args:
            requests: (lane, root, n_past, n_max) of every lane: its last token, its position, and how many tokens the round
                may have at most.

        Returns:
            DONE and the trees, or NO_ROOM or ABORTED and none: the target is then as before.
        """
        given = (_Request * len(requests))(*requests)
        results = (_Result * len(requests))()
        status = self._c.round(self._engine, given, len(requests), results)
        self._check(status)
        self._tell_news()
        return status, [_tree(result) for result in results] if status == DONE else []

    def next(self, sampler: llama_cpp.llama_sampler_p, choice: int, tree: DraftTree, *, lane: int = 0) -> Tuple[int, bool]:
        """Samples the next token of the lane's round whose tree is given, and writes it down there.

        Args:
            choice: What the sampler has to see of a row of logits: WHOLE_ROW, ARGMAX or TOP_K.

        Returns:
            The token, and whether the round goes on.
        """
        sampled = self._next(sampler, choice, tree, lane)
        return sampled.token, sampled.child >= 0

    def next_row(self, sampler: llama_cpp.llama_sampler_p, choice: int, tree: DraftTree, *, lane: int) -> Tuple[int, bool, int]:
        """As next(), and the row of the target's last decode that the token was sampled from."""
        sampled = self._next(sampler, choice, tree, lane)
        return sampled.token, sampled.child >= 0, sampled.row

    def _next(self, sampler: llama_cpp.llama_sampler_p, choice: int, tree: DraftTree, lane: int) -> _Token:
        sampled = _Token()
        self._check(self._c.next(self._engine, lane, sampler, choice, ctypes.byref(sampled)))
        tree.sampled.append(sampled.token)
        if sampled.child >= 0:
            tree.path.append(sampled.child)
        return sampled

    def settle(self, *, lane: int = 0) -> int:
        """Ends the lane's round where it is. Returns how many positions the target's memory then holds."""
        n_past = self._c.settle(self._engine, lane)
        self._check(n_past)
        return n_past

    def round(
        self, sampler: llama_cpp.llama_sampler_p, root: int, n_past: int, *, greedy: bool, n_max: int
    ) -> Tuple[int, Optional[DraftTree]]:
        """A whole round of lane 0, for tests and tools."""
        status, tree = self.start(root, n_past, n_max)
        while tree is not None and self.next(sampler, ARGMAX if greedy else WHOLE_ROW, tree)[1]:
            pass
        return status, tree

    def set_synthetic_length(self, length: float) -> None:
        """To time models of random weights: every round accepts so many tokens in the mean (the bonus token included, at
        least 1; 0: no longer), whatever the target says. The text is then meaningless."""
        self._check(self._c.set_synthetic_length(self._engine, length))

    def _tell_news(self) -> None:
        news = self._c.news(self._engine)
        if news is not None:
            warnings.warn(
                f"A drafter failed: {news.decode('utf-8', errors='replace')}. The text goes on without drafts; it is "
                "tried again later.",
                RuntimeWarning,
                stacklevel=2,
            )

    def logprobs(self, root: int, n_past: int, n_positions: int, n_vocab: int, *, lane: int = 0) -> npt.NDArray[np.single]:
        """The DFlash drafter's log-probabilities [n_positions, n_vocab] of the tokens after `root` at position n_past."""
        out = np.empty((n_positions, n_vocab), dtype=np.single)
        self._check(self._c.logprobs(self._engine, lane, root, n_past, n_positions, out.ctypes.data_as(_floats_p)))
        return out

    def learned(self) -> str:
        """What was learned while it ran: costs of rounds, and what the drafters' probabilities are worth."""
        return self._c.learned(self._engine).decode("ascii")

    def learn(self, text: str) -> None:
        """Goes on from what learned() gave, of the same kinds of drafters.

        Raises:
            RuntimeError: If it is no such text, or of other drafters.
        """
        self._check(self._c.learn(self._engine, text.encode("utf-8", errors="replace")))

    def explain(self) -> str:
        """In two sentences, what a budget of "auto" does and why."""
        return self._c.explain(self._engine).decode("utf-8", errors="replace")

    def stats(self, round_seconds: float = 0.0, *, lane: int = 0) -> SpeculativeStats:
        """What was done since reset_stats(). `round_seconds`: what the rounds took as the caller sees it."""
        stats = self.counts(lane=lane)
        seconds = dict(zip(PHASES, stats.seconds))
        seconds["other"] += max(0.0, round_seconds - sum(stats.seconds))
        return SpeculativeStats(stats.rounds, stats.nodes, stats.accepted, stats.tokens, seconds, why=self.explain())

    def counts(self, *, lane: int) -> _Stats:
        """The numbers alone: fields rounds, drafted, nodes, accepted, tokens and seconds, by phase."""
        return self._c.get_stats(self._engine, lane)

    def reset_stats(self, *, lane: int = 0) -> None:
        self._c.reset_stats(self._engine, lane)

    def get_state(self, *, lane: int = 0) -> bytes:
        """What the drafters remember of a lane; nothing if it can't be had."""
        parts = [self._drafter_state(lane, drafter) for drafter in range(self.n_drafters)]
        return b"".join(len(part).to_bytes(8, "little") + part for part in parts)

    def _drafter_state(self, lane: int, drafter: int) -> bytes:
        buffer = ctypes.create_string_buffer(self._c.state_size(self._engine, lane, drafter))
        size = self._c.state_get(self._engine, lane, drafter, buffer, len(buffer))
        return buffer.raw[:size]

    def set_state(self, data: bytes, *, lane: int = 0) -> None:
        """Restores get_state()'s bytes. On failure the drafters remember nothing, which harms no text."""
        for drafter in range(self.n_drafters):
            size = int.from_bytes(data[:8], "little")
            part, data = data[8 : 8 + size], data[8 + size :]
            self._check(self._c.state_set(self._engine, lane, drafter, part, len(part)))

    def _check(self, status: int) -> None:
        if status < 0:
            raise RuntimeError(_last_error(self._c))


def _tree(result: _Result) -> DraftTree:
    nodes: List[List] = [values[: result.n_nodes] for values in (result.node_token, result.parents, result.logprob)]
    return DraftTree(*nodes, path=[0], sampled=[])
