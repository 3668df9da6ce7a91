"""Tokens of several lanes, decoded in one forward."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import List, Sequence

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import _internals as internals

from .._engine import Engine
from .lane import Lane


@dataclass(frozen=True)
class Piece:
    """Tokens that come next in a lane."""

    lane: Lane
    tokens: npt.NDArray[np.intc]
    n_after: int  # so many more are to follow
    wants_all_logits: bool = False


class Batches:
    """The context's decodes outside of rounds.

    Args:
        ctx: The context.
        engine: At work there.
        n_most: Tokens of a batch, at most.
    """

    def __init__(self, ctx: internals.LlamaContext, engine: Engine, n_most: int) -> None:
        self._ctx, self._engine, self.n_most = ctx, engine, n_most
        self._lane_ids = np.empty(n_most, dtype=np.intc)
        self._pos = np.empty(n_most, dtype=np.intc)
        self._n_seq_ids = np.ones(n_most, dtype=np.intc)
        self._seq_ids = self._lane_ids.ctypes.data + self._lane_ids.itemsize * np.arange(n_most, dtype=np.uintp)

    def decode(self, pieces: Sequence[Piece]) -> List[int]:
        """Adds tokens to lanes. Logits are there for the last one of every piece, or all.

        Returns:
            The row of every piece's first token.

        Raises:
            RuntimeError: If the forward failed. What the lanes hold is then unknown.
        """
        tokens = np.concatenate([piece.tokens for piece in pieces]).astype(np.intc)
        outputs = np.zeros(len(tokens), dtype=np.int8)
        rows, row = [], 0
        for piece in pieces:
            end = row + len(piece.tokens)
            self._lane_ids[row:end] = piece.lane.id
            self._pos[row:end] = np.arange(piece.lane.n_tokens, piece.lane.n_tokens + len(piece.tokens))
            outputs[end - 1 if not piece.wants_all_logits else row : end] = 1
            rows.append(row)
            row = end
        self._decode(tokens, outputs)
        parts = [(p.lane.id, p.lane.n_tokens, p.tokens.tolist(), row, p.n_after) for p, row in zip(pieces, rows)]
        self._engine.observe_batch(parts)
        return rows

    def _decode(self, tokens: npt.NDArray[np.intc], outputs: npt.NDArray[np.int8]) -> None:
        batch = llama_cpp.llama_batch()
        batch.n_tokens = len(tokens)
        for name, values in (
            *(("token", tokens), ("pos", self._pos), ("n_seq_id", self._n_seq_ids), ("seq_id", self._seq_ids), ("logits", outputs)),
        ):
            kind = type(getattr(batch, name))
            setattr(batch, name, ctypes.cast(values.ctypes.data, kind))
        status = llama_cpp.llama_decode(self._ctx.ctx, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode of {len(tokens)} tokens returned {status}")

    def logits(self, row: int, n_vocab: int) -> npt.NDArray[np.single]:
        """A copy of the logits [n_vocab] of a row of the last forward."""
        return np.ctypeslib.as_array(self._ctx.get_logits_ith(row), shape=(n_vocab,)).copy()
