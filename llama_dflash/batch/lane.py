"""A lane: one sequence of the context, the text that it holds, and the request that it works for."""

from __future__ import annotations

import contextlib
import ctypes
import time
from typing import Optional

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import LlamaState
from llama_cpp import _internals as internals

from .._engine import Engine
from ..checkpoints import Tokens, common_prefix
from ..memory import Memory
from .request import Request


class Lane:
    """
    Attributes:
        id: Its sequence.
        memory: Of that sequence.
        text: [n_tokens] The tokens in memory.
        request: Whose text is written; None: it is free.
        n_prompt: Tokens of the prompt of its request, or of the last one.
        n_new: Tokens that are or were evaluated before the request's next token.
        ready: Everything before the request's next token is in memory: it takes part in rounds.
        used_at: time.monotonic() when it became free.
    """

    def __init__(self, id: int, ctx: internals.LlamaContext, engine: Engine, memory: Memory) -> None:
        self.id = id
        self.memory = memory
        self.memory.engine = engine
        self.text: npt.NDArray[np.intc] = np.empty(0, dtype=np.intc)
        self.request: Optional[Request] = None
        self.n_prompt = 0
        self.n_new = 0
        self.ready = False
        self.used_at = 0.0
        self._ctx, self._engine = ctx, engine

    @property
    def n_tokens(self) -> int:
        return len(self.text)

    # ---------------------------------------------------------------- its request

    def take(self, request: Request) -> None:
        """Works for a request, whose beginning is in memory."""
        self.request, self.ready = request, False
        self.n_prompt = request.n_prompt
        self.n_new = len(request.to_evaluate) - self.n_tokens
        self._engine.reset_stats(lane=self.id)

    def leave(self) -> None:
        """Is free again. The text stays in memory."""
        self.request, self.ready, self.used_at = None, False, time.monotonic()

    # ---------------------------------------------------------------- its memory

    def usable(self, text: Tokens) -> int:
        """How many of the first tokens of a text can be had from here without evaluating them again."""
        n_shared = common_prefix(self.text, text)
        checkpoints = self.memory.checkpoints
        if checkpoints is None or n_shared == self.n_tokens:
            return n_shared if self._holds_beginning() else 0
        best = checkpoints.best(text, n_shared)
        return 0 if best is None else best.n_tokens

    def _holds_beginning(self) -> bool:
        """False where a sliding window has lost the first tokens."""
        if self.memory.checkpoints is not None:
            return True
        return llama_cpp.llama_memory_seq_pos_min(self._ctx.memory, self.id) <= 0

    def keep(self, text: Tokens) -> None:
        """Puts the memory at the end of what it shares with `text`, or at a checkpoint before that."""
        n_shared = common_prefix(self.text, text)
        if n_shared == self.n_tokens:
            return
        if not self._holds_beginning():
            return self.clear()
        if not self.memory.cut_back(n_shared):
            n_shared = self.memory.restore(text, n_shared)
            self._engine.truncate(n_shared, lane=self.id)
        self.text = text[:n_shared].copy()

    def clear(self) -> None:
        self.memory.clear()
        self.text = self.text[:0]

    def copy_of(self, other: Lane, text: Tokens) -> None:
        """Holds what another lane shares with `text`. The copy is made by the context's next decode, before which nothing else
        may change this lane."""
        self.clear()
        best = None
        if self.memory.checkpoints is not None:
            best = other.memory.checkpoints.best(text, common_prefix(other.text, text))
            if best is not None:
                self.memory.checkpoints.insert(best.tokens, best.states)
            self.memory.checkpoints.n_known = other.memory.checkpoints.n_known
        with contextlib.suppress(RuntimeError):  # its drafters then know nothing of it
            self._engine.set_state(self._engine.get_state(lane=other.id), lane=self.id)
        llama_cpp.llama_memory_seq_cp(self._ctx.memory, other.id, self.id, -1, -1)
        self.text = other.text.copy()
        self.keep(text)

    def recover(self, *, lost: bool) -> None:
        """After an error: the text is what is really in memory; nothing, if that is unknown."""
        n_in_memory = 0 if lost else self.memory.n_tokens
        if n_in_memory == 0:
            self.clear()
        elif n_in_memory < self.n_tokens:
            self.memory.lost(n_in_memory)
            self.text = self.text[:n_in_memory]

    # ---------------------------------------------------------------- states

    def state(self) -> LlamaState:
        """All that it holds, for a cache: the sequence's state, and what `Memory.state` says as attributes.

        Raises:
            RuntimeError: If llama.cpp could not save it.
        """
        size = llama_cpp.llama_state_seq_get_size(self._ctx.ctx, self.id)
        buffer = np.empty(size, dtype=np.uint8)
        n_bytes = llama_cpp.llama_state_seq_get_data(self._ctx.ctx, buffer.ctypes.data_as(_bytes_p), size, self.id)
        if n_bytes == 0:
            raise RuntimeError("llama.cpp could not save a conversation's state")
        no_logits = np.empty((0, 0), dtype=np.single)
        state = LlamaState(self.text.copy(), no_logits, self.n_tokens, buffer[:n_bytes].tobytes(), n_bytes, seed=0)
        vars(state).update(self.memory.state(), of_a_lane=True)
        return state

    def load(self, state: LlamaState) -> bool:
        """Holds what state() gave. False if it is another's: the lane is then empty."""
        self.clear()
        data = np.frombuffer(state.llama_state, dtype=np.uint8)
        n_read = llama_cpp.llama_state_seq_set_data(self._ctx.ctx, data.ctypes.data_as(_bytes_p), len(data), self.id)
        if n_read != len(data) or self.memory.n_tokens != state.n_tokens:
            self.clear()
            return False
        self.text = np.array(state.input_ids[: state.n_tokens], dtype=np.intc)
        self.memory.load(self.text, **{name: getattr(state, name) for name in ("draft_state", "checkpoint") if hasattr(state, name)})
        return True


_bytes_p = ctypes.POINTER(ctypes.c_uint8)
