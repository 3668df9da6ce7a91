"""Generations in rounds: a draft tree and its verification in one forward of the target, then one token after the other.

A `Conversation` is what a text that is being written owns: its memory and the round that is going on. A `Generation` is one
run of `Llama.generate` over it. The prompt is evaluated and the first token sampled by the stock class; from then on every
round asks the engine (native/engine) for a tree, then for the tokens of the accepted path. Rounds: DFlash (arXiv 2602.06036)
drafts, DDTree (arXiv 2604.12989) trees, both verified as in SpecInfer (arXiv 2305.09781).

A token is sampled when the caller asks for it, so that no sampler, processor or memory is ever ahead of what the caller
has seen: whatever else is called in between first settles the round, and the text goes on as plain decoding's.

A `Llama` holds its conversation, and a generation holds the `Llama`, never the other way round: nothing waits for the garbage
collector before its model can be freed.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Generator, Optional, Sequence

import numpy as np
import numpy.typing as npt
from llama_cpp import StoppingCriteriaList

from ._engine import DONE, NO_ROOM, Engine
from .memory import Memory
from .samplers import Sampler
from .stats import DraftTree, SpeculativeStats

if TYPE_CHECKING:
    from .llama import Llama

UNLIMITED = 2**31 - 1


@dataclass(frozen=True)
class Walk:
    """A round whose tokens are being sampled, one when it is asked for. Nodes not reached yet wait in the memory."""

    engine: Engine
    n_past: int  # tokens before its root
    tree: DraftTree


class Conversation:
    """A text that is being written: what is in memory of it, the round that is going on, and what was done for it.

    Attributes:
        memory: The target's, the drafter's and checkpoints.
        walk: The round that is going on; None between rounds.
        last_tree: The draft tree of the last round.
        max_tokens: What the next generation's caller will take; None if it does not say.
        n_prompt: Tokens of the current or last generation's prompt.
        n_completion: Of its text.
        round_seconds: Of all rounds of the current or last generation.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.walk: Optional[Walk] = None
        self.last_tree: Optional[DraftTree] = None
        self.max_tokens: Optional[int] = None
        self.n_prompt = 0
        self.n_completion = 0
        self.round_seconds = 0.0

    @property
    def stats(self) -> Optional[SpeculativeStats]:
        """Numbers of the current or last generation; None without a drafter."""
        engine = self.memory.engine
        return None if engine is None or engine.closed else engine.stats(self.round_seconds)

    def begin(self) -> int:
        """A generation begins. Returns how many tokens its caller will take."""
        self.memory.engine.reset_stats()
        self.round_seconds = 0.0
        self.last_tree = None
        n_max, self.max_tokens = self.max_tokens or UNLIMITED, None
        return n_max

    def start_round(self, root: int, n_past: int, n_max: int) -> bool:
        """Drafts after `root`, which comes after n_past tokens, and verifies: at most n_max tokens. False if there is no room.

        Raises:
            RuntimeError: If the forward failed or was aborted.
        """
        engine = self.memory.engine
        status, tree = engine.start(root, n_past, n_max)
        if status == NO_ROOM:
            return False
        if status != DONE:
            raise RuntimeError("the forward over a draft tree was aborted")
        self.last_tree = tree
        self.walk = Walk(engine, n_past, tree)
        return True

    def next_token(self, sampler: Sampler) -> int:
        """Samples at the node where the walk is. If no child carries the token the round is over.

        Raises:
            RuntimeError: If sampling failed.
        """
        walk = self.walk
        token, goes_on = walk.engine.next(sampler.sampler, sampler.choice, walk.tree)
        if not goes_on:
            self.walk = None
            self.memory.grown(walk.n_past, walk.n_past + len(walk.tree.sampled))
        return token

    def settle(self) -> int:
        """Ends the round that is going on: the memory then holds the text before the token that was handed out last, as in
        plain decoding. Returns how many tokens that are.

        Raises:
            RuntimeError: If the accepted path could not be kept: `recover` must come next.
        """
        walk, self.walk = self.walk, None
        if walk.engine.closed:  # which drops what was not settled
            return walk.n_past
        n_in_memory = walk.engine.settle()
        self.memory.grown(walk.n_past, n_in_memory)
        return n_in_memory

    def recover(self) -> int:
        """After an error. Returns how many tokens are really in memory: none, where a recurrent state was lost."""
        walk, self.walk = self.walk, None
        with contextlib.suppress(RuntimeError):
            self.memory.engine.settle()  # a sampler may have failed: what was handed out stays
        n_in_memory = self.memory.n_tokens
        if walk is not None:
            self.memory.grown(walk.n_past, n_in_memory)
        return n_in_memory


@dataclass(frozen=True)
class Sampled:
    token: int
    logits: Optional[npt.NDArray[np.single]]  # [n_vocab] that it was sampled from, where somebody wants to see them


class Generation:
    """One run of `Llama.generate` with a drafter."""

    def __init__(self, llm: Llama, settings: Dict[str, Any], stops: Optional[StoppingCriteriaList]) -> None:
        """
        Args:
            llm: Whose tokens and sampler are used, and whose memory holds them.
            settings: Of the sampler, as `Llama.generate` takes them.
            stops: As there.
        """
        self._llm = llm
        self._conversation = llm._conversation
        self._settings = settings
        self._stops = stops
        self._wants_logits = stops is not None or llm._logits_all  # somebody looks at the logits of every token

    def steps(self, prompt: Sequence[int], reset: bool) -> Generator[int, Optional[Sequence[int]], None]:
        """Yields the tokens after a prompt."""
        llm, conversation = self._llm, self._conversation
        llm._settle()
        n_left = conversation.begin()
        try:
            sampled = self._first_token(prompt, reset)
            while True:
                place, walk = llm.n_tokens, conversation.walk  # where the token goes, and the round that it is of
                if self._stops is not None and self._stops(llm._input_ids, sampled.logits):
                    return
                n_left -= 1
                yield sampled.token
                if conversation.walk is not walk or llm.n_tokens != place:
                    self._catch_up(place, sampled.token)
                sampled = self._next_token(sampled.token, n_left)
        finally:
            if llm.verbose and not conversation.memory.engine.closed:
                print(f"Llama.generate: {conversation.stats}", file=sys.stderr)

    def _first_token(self, prompt: Sequence[int], reset: bool) -> Sampled:
        """Evaluates what is new in the prompt and samples one token: the stock generator up to its first yield."""
        stock = self._llm._generate_after_common_prefix(prompt, reset, **self._settings)
        token = next(stock)
        stock.close()
        return self._sampled(token, -1)

    def _catch_up(self, place: int, token: int) -> None:
        """The caller has used the `Llama` for something else before `token`, whose place in the text is given, was
        evaluated. What is in memory now is what comes before it, as for the stock generator, which cuts off what is more
        and puts the token there as often as it takes to fill the gap where there is less."""
        llm = self._llm
        llm._settle()
        llm.n_tokens = min(llm.n_tokens, place)
        while llm.n_tokens < place:
            llm.eval([token])

    def _next_token(self, token: int, n_max: int) -> Sampled:
        """Puts `token` at the end of the text and samples the one after it: at a node of the round that is going on, or of a
        new one, which is told to have n_max tokens at most."""
        llm, conversation = self._llm, self._conversation
        started, place = time.perf_counter(), llm.n_tokens
        try:
            if conversation.walk is None and not self._start_round(token, n_max):
                llm.eval([token])  # raises what the stock class raises
                return self._sampled(llm.sample(), -1)
            tree = conversation.walk.tree
            llm.input_ids[place : place + 1] = token  # may be shorter than the context, as in stock
            llm.n_tokens = place + 1
            sampled = conversation.next_token(llm._sampler)
        except RuntimeError:
            llm._recover()
            raise
        conversation.round_seconds += time.perf_counter() - started
        llm._processors.raise_error()
        result = self._sampled(sampled, tree.path[len(tree.sampled) - 1])
        if llm._logits_all:
            llm.scores[place, :] = result.logits
        return result

    def _start_round(self, root: int, n_max: int) -> bool:
        """False if there is no room for it."""
        llm = self._llm
        room = (len(llm.scores) if llm._logits_all else llm._n_ctx) - llm.n_tokens
        if room <= 0:
            return False
        llm._cut_back()
        self._conversation.memory.before_round(llm._input_ids, llm.n_tokens)
        llm._requires_eval = True  # the forward leaves the logits of nodes
        return self._conversation.start_round(root, llm.n_tokens, max(1, min(n_max, room)))

    def _sampled(self, token: int, row: int) -> Sampled:
        """A token that was sampled from output `row` of the last forward."""
        return Sampled(token, self._llm._logits_row(row) if self._wants_logits else None)
