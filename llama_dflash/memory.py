"""What a target's context holds of a text: growing, cutting back, going back to a checkpoint.

The target's cache is llama.cpp's. Two others follow it: the drafter's memory of features, and, where the target is recurrent
or hybrid, checkpoints of its recurrent states (checkpoints.py). `Memory` keeps the three together. It holds no tokens: whoever
evaluates them says which text is in memory, and how long it is, as the stock class's array of tokens may be shorter.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import _internals as internals

from ._engine import Engine
from .checkpoints import Checkpoints, Tokens, branching_places


class Memory:
    """The memory of one conversation: a sequence of a context, its only one or a lane.

    Attributes:
        engine: The drafter at work; None without one.
        checkpoints: Of a target whose memory can't be cut back; None of others.
    """

    def __init__(self, ctx: internals.LlamaContext, checkpoints: Optional[Checkpoints], lane: Optional[int] = None) -> None:
        """
        Args:
            ctx: The context.
            checkpoints: Of the same sequence.
            lane: The sequence, one of several; None: the context's only one.
        """
        self.engine: Optional[Engine] = None
        self.checkpoints = checkpoints
        self._ctx = ctx
        self._lane = lane or 0
        self._removed = -1 if lane is None else lane  # the sequence's name where llama.cpp removes: -1 is all of them

    @property
    def is_stock(self) -> bool:
        """Nothing follows the target's cache: the stock class does all that is to be done."""
        return self.engine is None and self.checkpoints is None

    @property
    def n_tokens(self) -> int:
        """That the target really holds, whatever anybody believes."""
        return llama_cpp.llama_memory_seq_pos_max(self._ctx.memory, self._lane) + 1

    # ---------------------------------------------------------------- growing

    def expect(self, prompt: Tokens, n_before: int, is_special: Callable[[int], bool]) -> None:
        """`prompt` is to be evaluated after n_before tokens: its branching places get checkpoints."""
        if self.checkpoints is not None:
            self.checkpoints.places = [n_before + place for place in branching_places(prompt, is_special)]

    def until_place(self, n_past: int) -> int:
        """How many tokens after n_past evaluation is to stop for a checkpoint; 0 if it need not."""
        return 0 if self.checkpoints is None else self.checkpoints.until_place(n_past)

    def before_draft(self, text: Tokens) -> None:
        """`text` is in memory, and what a stock draft model proposes is evaluated next. It may have to be taken back."""
        if self.checkpoints is not None:
            self.checkpoints.before_draft(text)

    def decoded(self, text: Tokens, tokens: Sequence[int], n_past: int, n_new: int, n_after: int) -> None:
        """The target's last decode has added `tokens` after the first n_past ones: it holds `text` now.

        Args:
            n_new: How many tokens are evaluated for the same request.
            n_after: How many of these are still to come.
        """
        if self.engine is not None:
            self.engine.observe(n_past, tokens, n_after)
        self.evaluated(text, n_past, n_new)

    def evaluated(self, text: Tokens, n_past: int, n_new: int) -> None:
        """As decoded(), where the engine was told already."""
        if self.checkpoints is not None:
            self.checkpoints.evaluated(text, n_past, n_new)

    def grown(self, n_past: int, n_tokens: int) -> None:
        """A round has added tokens: there are n_tokens, n_past before it."""
        if self.checkpoints is not None:
            self.checkpoints.grown(n_past, n_tokens)

    def before_round(self, text: Tokens, n_past: int) -> None:
        """`text` is in memory. Makes a checkpoint if one is due: within a round none can be made."""
        if self.checkpoints is not None:
            self.checkpoints.evaluated(text, n_past)

    # ---------------------------------------------------------------- cutting back

    def cut_back(self, n_past: int) -> bool:
        """Removes what target, drafter and checkpoints know beyond the first n_past tokens.

        Returns:
            False if the target's recurrent states can't be: `go_back` must come next.
        """
        if not self._ctx.kv_cache_seq_rm(self._removed, n_past, -1) and self.checkpoints is not None:
            return False
        self._truncate(n_past)
        return True

    def go_back(self, text: Tokens) -> int:
        """For a memory that can't be cut back to `text`, with which it begins: makes it hold a beginning of it.

        Returns:
            How many of its tokens are in memory. The others are to be evaluated again.

        Raises:
            RuntimeError: If some of them were not evaluated as tokens.
        """
        if len(text) > self.checkpoints.n_known:
            raise RuntimeError(
                f"the memory of this recurrent or hybrid model can't be cut back to {len(text)} tokens, as some of them were "
                "not evaluated by eval(), an image's perhaps: reset() and evaluate the text again"
            )
        n_past = self.restore(text, len(text))
        self._truncate(n_past)
        return n_past

    def ends_at(self, n_past: int) -> bool:
        """True if nothing is left in the target's cache behind the first n_past tokens, now at least."""
        return self._ctx.kv_cache_seq_rm(self._removed, n_past, -1)

    def restore(self, wanted: Tokens, n_past: int) -> int:
        """Puts the memory at the last checkpoint in `wanted`, n_past tokens of which are in memory; or empties it.

        Returns:
            How many tokens of `wanted` it holds then.
        """
        n_restored = self.checkpoints.restore(wanted, n_past)
        if n_restored == 0:
            self._empty()
            self.checkpoints.truncate(0)
        return n_restored

    def _empty(self) -> None:
        if self._removed < 0:
            self._ctx.kv_cache_clear()
        else:
            self._ctx.kv_cache_seq_rm(self._lane, -1, -1)

    def clear(self) -> None:
        """Forgets everything."""
        self._empty()
        self.forget_checkpoints()
        if self.engine is not None:
            self.engine.truncate(0, lane=self._lane)

    def lost(self, n_past: int) -> None:
        """After an error the target holds n_past tokens, fewer than it should."""
        if self.checkpoints is not None:
            self.checkpoints.truncate(n_past)

    def forget_checkpoints(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.clear()

    def _truncate(self, n_past: int) -> None:
        if self.checkpoints is not None:
            self.checkpoints.truncate(n_past)
        if self.engine is not None:
            self.engine.truncate(n_past, lane=self._lane)

    # ---------------------------------------------------------------- states

    def state(self) -> Dict[str, Any]:
        """What a saved state has beside llama.cpp's part: the drafter's memory (`draft_state`, bytes) and the checkpoint of
        the latest turn (`checkpoint`, its place in tokens and its bytes)."""
        state: Dict[str, Any] = {}
        if self.engine is not None:
            state["draft_state"] = self.engine.get_state(lane=self._lane)
        latest = None if self.checkpoints is None else self.checkpoints.latest_turn()
        if latest is not None:
            state["checkpoint"] = latest.n_tokens, latest.states.copy()
        return state

    def load(
        self,
        text: Tokens,
        draft_state: bytes = b"",
        checkpoint: Tuple[int, Optional[npt.NDArray[np.uint8]]] = (0, None),
    ) -> None:
        """The target holds `text` now, from a saved state: the rest of the state follows."""
        if self.checkpoints is not None:
            self.checkpoints.follow(text)
            n_tokens, states = checkpoint
            if 0 < n_tokens <= len(text):
                self.checkpoints.insert(text[:n_tokens], states)
        if self.engine is not None:
            try:
                self.engine.set_state(draft_state, lane=self._lane)
            except RuntimeError:
                self.engine.truncate(0, lane=self._lane)
