"""Checkpoints of a recurrent memory, from which a text can go on at a place before its end.

Attention remembers every token and can forget the last ones. A recurrent layer has one state, of the whole text, so
llama.cpp can't cut the memory of a recurrent or hybrid model back (llama_memory_seq_rm refuses), and a chat's next turn,
which hardly ever begins with exactly the tokens in memory, would be evaluated from its first token on. `Checkpoints`
keeps copies of the recurrent states, bounded in memory, at the places where texts branch off.

A copy of a hybrid's recurrent states is of use as long as its attention layers still hold the tokens before it: its
checkpoints all lie on the text in memory. A purely recurrent model's copy is everything, so other texts' are kept too.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence

import llama_cpp
import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.intc]

STEP = 160  # tokens between two checkpoints while a text is written. Rarely enough to cost little: a large model's states
# are 150 MB. Often enough that going back evaluates fewer than 200 tokens again, a draft tree's included.
CHEAP = 0.005  # seconds: copies that take less are made whenever one is due
SHARE = 0.02  # of the time, at most, goes into the others while a text is written: on a GPU, where 150 MB come from the device
# in the time of two rounds, they are further apart than STEP
NEAR = 32  # tokens: two checkpoints are not closer than this, as evaluating so few again costs about as much as making one
TURN_WEIGHT = 4.0  # how much more than another checkpoint one where a text probably branches off is worth keeping
TEMPLATE_TOKENS = 64  # at most, of a chat template after a message's last special token
RAW_TOKENS = 8  # of a text without special tokens: its end may be tokenized otherwise when the text goes on


def branching_places(prompt: Tokens, is_special: Callable[[int], bool]) -> List[int]:
    """Where, in tokens, other prompts will probably part from this one, in ascending order.

    The last place is the turn, where the next prompt of the same chat does. A chat template ends a prompt with something
    like `<|im_start|>assistant\\n<think>\\n`; the next prompt has the answer there, perhaps without what was thought, so
    the two may part anywhere behind the last special token. Before it: the end of the first message, as a system prompt
    begins many chats, and the last message, which may be written anew.
    """
    special_ids = [token for token in np.unique(prompt).tolist() if is_special(token)]
    special = np.flatnonzero(np.isin(prompt, special_ids)).tolist()
    in_template = special and special[-1] >= len(prompt) - TEMPLATE_TOKENS
    turn = special[-1] if in_template else max(0, len(prompt) - RAW_TOKENS)
    messages = [place for place in special if NEAR <= place < turn]
    long_before = [place for place in messages if place <= turn - NEAR]
    return sorted({*messages[:1], *long_before[-1:], turn})


def common_prefix(a: Tokens, b: Tokens) -> int:
    n = min(len(a), len(b))
    differs = np.flatnonzero(a[:n] != b[:n])
    return int(differs[0]) if len(differs) else n


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The recurrent states after `tokens`."""

    tokens: Tokens
    states: npt.NDArray[np.uint8]
    at_turn: bool  # lies where other texts probably branch off

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def n_bytes(self) -> int:
        return self.states.nbytes + self.tokens.nbytes

    def begins(self, text: Tokens) -> bool:
        """True if `text` begins with this checkpoint's tokens."""
        return self.n_tokens <= len(text) and np.array_equal(self.tokens, text[: self.n_tokens])


class Checkpoints:
    """The checkpoints of one sequence of a context.

    Its owner reports what happens to the memory: `evaluated` or `grown` when tokens are added, `truncate` when some are
    taken away, `clear` and `follow` when it holds another text.
    """

    def __init__(
        self, ctx: llama_cpp._internals.LlamaContext, max_bytes: int, *, whole: bool, lane: Optional[int] = None
    ) -> None:
        """
        Args:
            ctx: The context.
            max_bytes: What all checkpoints may take together.
            whole: The model is purely recurrent: its recurrent states are all that it remembers.
            lane: The sequence, one of several; None: the context's only one.
        """
        self.max_bytes = max_bytes
        self.places: List[int] = []  # branching_places() of the prompt, and perhaps more tokens before it
        self.n_known = 0  # so many tokens at the text's beginning were evaluated as tokens, not as images
        self._ctx = ctx
        self._lane = lane or 0
        self._removed = -1 if lane is None else lane  # the sequence's name where llama.cpp removes: -1 is all of them
        self._whole = whole
        self._line: List[Checkpoint] = []  # on the text in memory, in its order
        self._others: List[Checkpoint] = []  # on other texts, those that were left first in front
        self._draft: Optional[Checkpoint] = None  # before tokens that a stock draft model proposed
        self._spare: Optional[npt.NDArray[np.uint8]] = None  # of a dropped one: memory that need not be got anew
        self._rest_until = 0.0  # time.monotonic() from which on the last copy was worth its time

    # ---------------------------------------------------------------- what there is

    @property
    def n_bytes(self) -> int:
        return sum(c.n_bytes for c in self._all())

    def by_place(self) -> Dict[int, int]:
        """Bytes of the checkpoints on the text in memory by their place, in tokens."""
        return {c.n_tokens: c.n_bytes for c in self._line}

    def latest_turn(self) -> Optional[Checkpoint]:
        """The one that the next turn will start from, if it branches off where it probably will."""
        turn = self.places[-1] if self.places else self._last
        return next((c for c in reversed(self._line) if c.n_tokens <= turn), None)

    def _all(self) -> List[Checkpoint]:
        return [*self._others, *self._line, *([] if self._draft is None else [self._draft])]

    @property
    def _last(self) -> int:
        return self._line[-1].n_tokens if self._line else 0

    # ---------------------------------------------------------------- keeping

    def until_place(self, n_past: int) -> int:
        """How many tokens after n_past the next checkpoint at a branching place is to be made; 0 if none is."""
        if self.max_bytes == 0:
            return 0
        return next((p - n_past for p in self.places if p > n_past and p - self._last >= NEAR), 0)

    def evaluated(self, text: Tokens, n_past: int, n_new: int = 1) -> None:
        """The memory holds `text` now, of which it held n_past tokens before. Makes a checkpoint if one is due.

        Args:
            n_new: How many tokens are evaluated for the same request. A long prompt gets fewer checkpoints than fit.
        """
        self.grown(n_past, len(text))
        if len(text) != self.n_known or self.max_bytes == 0:
            return
        since_last = len(text) - self._last
        if since_last >= NEAR and len(text) in self.places:
            self._add(text, at_turn=True)
        elif since_last >= STEP and not 0 < self.until_place(len(text)) < NEAR and not (n_new == 1 and self._rests()):
            fitting = self.max_bytes // max(1, self._size())
            if since_last >= n_new // max(1, fitting // 2):
                self._add(text, at_turn=False)

    def _rests(self) -> bool:
        """While a text is written: has the last copy not yet been worth its time?"""
        return time.monotonic() < self._rest_until

    def grown(self, n_past: int, n_tokens: int) -> None:
        """The memory holds n_tokens tokens now, of which it held n_past before."""
        if n_past <= self.n_known:  # else others' tokens lie in between, an image perhaps, which no token id tells
            self.n_known = n_tokens

    def before_draft(self, text: Tokens) -> None:
        """`text` is in memory; what is evaluated next may have to be taken back. One such checkpoint is kept."""
        if self._draft is not None:
            self._draft, self._spare = None, self._draft.states
        after_prompt = bool(self.places) and len(text) > self.places[-1]
        if after_prompt and len(text) == self.n_known and self.n_bytes + self._size() <= self.max_bytes:
            self._draft = self._copy(text, at_turn=False)

    def insert(self, text: Tokens, states: npt.NDArray[np.uint8]) -> None:
        """Takes a copy of `states`, those of the latest turn, which is after `text`, in memory now with others after it."""
        if len(text) not in self.by_place() and self._make_room(text.nbytes + states.nbytes, len(text), at_turn=True):
            self._line.append(Checkpoint(text.copy(), states.copy(), at_turn=True))
            self._line.sort(key=lambda c: c.n_tokens)
        self._spare = None

    def _add(self, text: Tokens, at_turn: bool) -> None:
        if self._make_room(text.nbytes + self._size(), len(text), at_turn):
            checkpoint = self._copy(text, at_turn)
            if checkpoint is not None:
                self._line.append(checkpoint)

    def _make_room(self, n_bytes: int, n_tokens: int, at_turn: bool) -> bool:
        """For a checkpoint of n_bytes after n_tokens tokens."""
        if n_bytes > self.max_bytes:
            return False
        while self.n_bytes + n_bytes > self.max_bytes:
            if self._draft is not None:
                self._draft = None
            elif self._others:
                self._spare = self._others.pop(0).states
            else:
                victim = self._least_useful(n_tokens, at_turn)
                if victim is None:
                    return False
                self._line.remove(victim)
                self._spare = victim.states
        return True

    def _least_useful(self, n_tokens: int, at_turn: bool) -> Optional[Checkpoint]:
        """Of the text in memory: the one that leaves the smallest gap for its distance from the end. Thus checkpoints
        are close together near the end and far apart in front. The latest turn's stays, unless a new turn's is made."""
        latest = None if at_turn else self.latest_turn()
        end = max(n_tokens, self._last) + 1
        places = [0, *(c.n_tokens for c in self._line), end]

        def usefulness(i: int) -> float:
            gap = (places[i + 2] - places[i]) / (end - places[i + 1])
            return gap * (TURN_WEIGHT if self._line[i].at_turn else 1.0)

        candidates = [i for i, c in enumerate(self._line) if c is not latest]
        return self._line[min(candidates, key=usefulness)] if candidates else None

    # ---------------------------------------------------------------- going back

    def best(self, text: Tokens, n_past: int) -> Optional[Checkpoint]:
        """The one that restore() would go back to."""
        return max(self._usable(text, n_past), key=lambda c: c.n_tokens, default=None)

    def _usable(self, text: Tokens, n_past: int) -> List[Checkpoint]:
        n_usable = len(text) if self._whole else n_past
        return [c for c in self._all() if c.n_tokens <= n_usable and c.begins(text)]

    def restore(self, text: Tokens, n_past: int) -> int:
        """Puts the memory at the longest beginning of `text` that a checkpoint was made of.

        Args:
            n_past: How many tokens of `text` are in memory, maybe with others after them.

        Returns:
            The number of its tokens. 0 if there is none: the memory is then as it was, or empty if llama.cpp failed.
        """
        usable = self._usable(text, n_past)
        if not usable:
            return 0
        best = max(usable, key=lambda c: c.n_tokens)
        if not self._write(best):
            self._empty()
            self.clear()
            return 0
        if best in self._others:  # the text in memory is another one now
            others = [c for c in self._all() if not c.begins(best.tokens)]
            self._line = sorted((c for c in usable if c is not self._draft), key=lambda c: c.n_tokens)
            self._others = [c for c in others if c is not self._draft]
        self.truncate(best.n_tokens)
        self.n_known = best.n_tokens
        return best.n_tokens

    def truncate(self, n_past: int) -> None:
        """The memory will hold other tokens after the first n_past ones."""
        self.n_known = min(self.n_known, n_past)
        if self._draft is not None and self._draft.n_tokens > n_past:
            self._draft = None
        while self._last > n_past:
            left = self._line.pop()
            if self._whole:
                self._others.append(left)

    def follow(self, text: Tokens) -> None:
        """The memory holds `text` now, which came from elsewhere."""
        self.truncate(next((c.n_tokens for c in reversed(self._line) if c.begins(text)), 0))
        self.n_known = len(text)

    def clear(self) -> None:
        """The memory is empty now, and what it was is of no interest."""
        self._line, self._others, self._draft, self._spare, self.n_known, self.places = [], [], None, None, 0, []

    # ---------------------------------------------------------------- llama.cpp

    def _size(self) -> int:
        return llama_cpp.llama_state_seq_get_size_ext(self._ctx.ctx, self._lane, llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY)

    def _copy(self, text: Tokens, at_turn: bool) -> Optional[Checkpoint]:
        states, self._spare = self._spare, None
        if states is None or states.nbytes != self._size():
            states = np.empty(self._size(), dtype=np.uint8)
        started = time.monotonic()
        n = llama_cpp.llama_state_seq_get_data_ext(
            self._ctx.ctx, _pointer(states), states.nbytes, self._lane, llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        )
        seconds = time.monotonic() - started
        self._rest_until = started + seconds / SHARE if seconds > CHEAP else 0.0
        return Checkpoint(text.copy(), states, at_turn) if n == states.nbytes > 0 else None

    def _write(self, checkpoint: Checkpoint) -> bool:
        """Moves the recurrent states back, then cuts what attention layers there are: they allow it now."""
        n, n_tokens = checkpoint.states.nbytes, checkpoint.n_tokens
        return (
            llama_cpp.llama_state_seq_set_data_ext(
                self._ctx.ctx, _pointer(checkpoint.states), n, self._lane, llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
            )
            == n
            and self._ctx.kv_cache_seq_rm(self._removed, n_tokens, -1)
            and llama_cpp.llama_memory_seq_pos_max(self._ctx.memory, self._lane) == n_tokens - 1
        )

    def _empty(self) -> None:
        if self._removed < 0:
            self._ctx.kv_cache_clear()
        else:
            self._ctx.kv_cache_seq_rm(self._lane, -1, -1)


def _pointer(data: npt.NDArray[np.uint8]):
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
