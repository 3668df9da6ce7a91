"""The thread that owns the context of a `LlamaBatch`, and who joins its next forward.

A step is: pieces of prompts, first come first served, n_batch tokens at most; then one round of all lanes that write. So no prompt
keeps the others from writing for longer than one forward of n_batch tokens takes, and no round waits for more than that.

Readers talk to it through one queue, which is safe in any thread at any time, in a garbage collection too. They are told of tokens
through their request.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
from llama_cpp import _internals as internals

from .. import _engine
from .._engine import DONE, Engine
from ..stats import PHASES, DraftTree, SpeculativeStats
from .batches import Batches, Piece
from .lane import Lane
from .places import Places
from .request import Request, Sampled

FEW = 64  # tokens: pieces of fewer are decoded together. From here on llama.cpp computes a lane's attention in tiles, which round
# in another way, so that a longer piece is decoded alone, as a Llama would (docs/exactness.md)
_CLOSED = "this LlamaBatch was closed, and its memory is freed. Make a new LlamaBatch"
_STOP = object()


class Scheduler:
    """
    Args:
        places: The lanes.
        ctx: Their context.
        engine: At work there.
        n_ctx: Tokens of one lane.
        n_batch: Tokens decoded at once.
        n_vocab: Of a row of logits.
        is_end: Whether a token ends a text.

    Attributes:
        n_evaluated: Tokens of prompts that were evaluated so far.
    """

    def __init__(
        self,
        places: Places,
        ctx: internals.LlamaContext,
        engine: Engine,
        *,
        n_ctx: int,
        n_batch: int,
        n_vocab: int,
        is_end: Callable[[int], bool],
    ) -> None:
        self.places = places
        self._ctx, self._engine, self._is_end = ctx, engine, is_end
        self._batches = Batches(ctx, engine, n_batch)
        self._n_ctx, self._n_batch, self._n_vocab = n_ctx, n_batch, n_vocab
        self._inbox: "queue.SimpleQueue[Any]" = queue.SimpleQueue()
        self._waiting: List[Request] = []
        self.n_evaluated = 0  # tokens of prompts, so far
        self._totals: Dict[str, Any] = dict(rounds=0, nodes=0, accepted=0, tokens=0, seconds=np.zeros(len(PHASES)))
        self._ended = False
        self.process = os.getpid()
        self._thread = threading.Thread(target=self._run, name="LlamaBatch", daemon=True)
        self._thread.start()

    # ---------------------------------------------------------------- for any thread

    def look_at(self, request: Request) -> None:
        """It is new, somebody reads on, or nobody does any more."""
        self._inbox.put(request)
        if self._ended:
            self._refuse_all()

    def stop(self) -> None:
        """Ends the thread and all requests. Returns when that is done."""
        self._inbox.put(_STOP)
        if not self.is_this_thread:
            self._thread.join()

    @property
    def is_this_thread(self) -> bool:
        return threading.current_thread() is self._thread

    @property
    def n_running(self) -> int:
        return sum(lane.request is not None for lane in self.places.lanes)

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def stats(self) -> SpeculativeStats:
        """Of all requests that have ended."""
        totals = dict(self._totals)
        seconds = dict(zip(PHASES, totals.pop("seconds").tolist()))
        return SpeculativeStats(**totals, seconds=seconds)

    # ---------------------------------------------------------------- its own thread

    def _run(self) -> None:
        while self._listen():
            try:
                self._step()
            except Exception as error:  # of ours; those of requests are told to them
                self._fail_all(error)
        self._ended = True
        self._fail_all(RuntimeError(_CLOSED))
        self._refuse_all()

    def _listen(self) -> bool:
        """Takes note of what came; waits while there is nothing to do. False: it is time to stop."""
        wait = not self._has_work()
        while True:
            try:
                item = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            if item is _STOP:
                return False
            self._note(item)
            wait = False

    def _has_work(self) -> bool:
        return bool(self._waiting) or any(lane.request and (not lane.ready or self._writes(lane.request)) for lane in self.places.lanes)

    def _note(self, request: Request) -> None:
        placed = any(lane.request is request for lane in self.places.lanes)
        if not request.cancelled and not placed and request not in self._waiting and request.n_wanted > 0:
            self._waiting.append(request)

    @staticmethod
    def _writes(request: Request) -> bool:
        """False while the request's reader does not read on; it then says so when it does."""
        request.asleep = False
        if request.n_wanted <= 0:
            request.asleep = True  # before another look
        return request.n_wanted > 0

    def _step(self) -> None:
        self._drop_cancelled()
        self._make_room()
        self._read_prompts()
        self._write_round()

    # ---------------------------------------------------------------- who has a lane

    def _drop_cancelled(self) -> None:
        self._waiting = [request for request in self._waiting if not request.cancelled]
        for lane in self.places.lanes:
            if lane.request is not None and lane.request.cancelled:
                self._leave(lane)

    def _make_room(self) -> None:
        """Lanes of readers who do not read on go to those who wait. Whoever reads on later waits for a lane then."""
        for lane in self.places.lanes:
            if len(self._waiting) <= len(self.places.free):
                return
            if lane.request is not None and lane.ready and not self._writes(lane.request):
                self._leave(lane)

    def _leave(self, lane: Lane) -> None:
        counts = lane.request.counts
        if counts is not None:
            for name in ("rounds", "nodes", "accepted", "tokens"):
                self._totals[name] += getattr(counts, name)
            self._totals["seconds"] = self._totals["seconds"] + np.array(counts.seconds)
        lane.leave()

    def _fail(self, lane: Lane, error: BaseException, *, lost: bool) -> None:
        """Ends a lane's request. lost: what the lane holds is not known any more."""
        lane.request.end(error)
        self._leave(lane)
        lane.recover(lost=lost)

    def _fail_all(self, error: BaseException) -> None:
        for lane in self.places.lanes:
            if lane.request is not None:
                self._fail(lane, error, lost=True)
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            request.end(error)

    def _refuse_all(self) -> None:
        """After the end: nobody is left to answer."""
        while True:
            try:
                item = self._inbox.get(block=False)
            except queue.Empty:
                return
            if isinstance(item, Request):
                item.end(RuntimeError(_CLOSED))

    # ---------------------------------------------------------------- prompts

    def _read_prompts(self) -> None:
        n_left, short = self._n_batch, []
        for lane in self._reading():
            piece = self._next_piece(lane)
            n_left -= len(piece.tokens)
            if len(piece.tokens) < FEW and not piece.wants_all_logits:
                if sum(len(other.tokens) for other in short) + len(piece.tokens) > self._n_batch:
                    self._evaluate(short)
                    short = []
                short.append(piece)
            else:
                self._evaluate([piece])
            if n_left <= 0:
                break
        if short:
            self._evaluate(short)

    def _reading(self) -> Any:
        """Lanes whose prompt is not in memory yet; first those that have begun. What yields a lane places its request."""
        for lane in self.places.lanes:
            if lane.request is not None and not lane.ready:
                yield lane
        for request in list(self._waiting):
            others = [other for other in self._waiting if other is not request]
            lane = self._place(request, others)
            if lane is not None and not self._is_ready(lane):
                yield lane

    def _place(self, request: Request, others: Sequence[Request]) -> Optional[Lane]:
        try:
            lane = self.places.place(request, others)
        except Exception as error:  # a cache's, perhaps
            self._waiting.remove(request)
            request.end(error)
            return None
        if lane is not None:
            self._waiting.remove(request)
        return lane

    def _is_ready(self, lane: Lane) -> bool:
        """Nothing is to be evaluated: a text that was interrupted, all of which is still there."""
        lane.ready = lane.n_tokens == len(lane.request.to_evaluate)
        return lane.ready

    def _next_piece(self, lane: Lane) -> Piece:
        """Ends where a Llama's would."""
        request, n_past = lane.request, lane.n_tokens
        rest = request.to_evaluate[n_past:]
        n = min(lane.memory.until_place(n_past) or self._n_batch, self._n_batch)
        return Piece(lane, rest[:n], max(0, len(rest) - n), request.wants_prompt_logits and request.n_written == 0)

    def _evaluate(self, pieces: List[Piece]) -> None:
        try:
            rows = self._batches.decode(pieces)
        except Exception as error:
            for piece in pieces:
                self._fail(piece.lane, error, lost=True)
            return
        finally:
            self.places.copying = False
        for piece, row in zip(pieces, rows):
            try:
                self._evaluated(piece, row)
            except Exception as error:
                self._fail(piece.lane, error, lost=False)

    def _evaluated(self, piece: Piece, row: int) -> None:
        lane, n_new = piece.lane, len(piece.tokens)
        request, n_past = lane.request, lane.n_tokens
        lane.text = request.text.tokens[: n_past + n_new]
        request.n_evaluated += n_new
        self.n_evaluated += n_new
        lane.memory.evaluated(lane.text, n_past, lane.n_new)
        if piece.wants_all_logits:
            self._keep_prompt_logits(request, n_past, row, n_new)
        if self._is_ready(lane) and request.n_written == 0:
            last = row + n_new - 1
            self._hand_out(lane, _engine.sample(request.sampler.sampler, self._ctx.ctx, last), last)
            self._after_tokens(lane)

    def _keep_prompt_logits(self, request: Request, n_past: int, row: int, n: int) -> None:
        if request.prompt_logits is None:
            request.prompt_logits = np.empty((request.n_prompt, self._n_vocab), dtype=np.single)
        for i in range(n):
            request.prompt_logits[n_past + i] = self._batches.logits(row + i, self._n_vocab)

    # ---------------------------------------------------------------- rounds

    def _write_round(self) -> None:
        """One forward for all lanes that write: a token for each, or more with drafts."""
        lanes = [lane for lane in self.places.lanes if lane.request is not None and lane.ready and self._writes(lane.request)]
        lanes = [lane for lane in lanes if self._has_room(lane)]
        if not lanes:
            return
        try:
            for lane in lanes:
                lane.memory.before_round(lane.text, lane.n_tokens)
            trees = self._start(lanes)
        except Exception as error:
            for lane in lanes:
                self._fail(lane, error, lost=True)
            return
        for lane, tree in zip(lanes, trees):
            self._walk(lane, tree)

    def _has_room(self, lane: Lane) -> bool:
        if lane.n_tokens >= self._n_ctx:
            self._fail(lane, RuntimeError(f"the text has reached the context's end: {self._n_ctx} tokens (n_ctx)"), lost=False)
            return False
        return True

    def _start(self, lanes: Sequence[Lane]) -> List[DraftTree]:
        requests = []
        for lane in lanes:
            text = lane.request.text
            n_most = min(lane.request.n_wanted, self._n_ctx - lane.n_tokens)
            requests.append((lane.id, int(text.tokens[text.n_tokens - 1]), lane.n_tokens, max(1, n_most)))
        status, trees = self._engine.start_all(requests)
        if status != DONE:
            raise RuntimeError(f"the forward over the texts of {len(lanes)} requests ended with {status}")
        return trees

    def _walk(self, lane: Lane, tree: DraftTree) -> None:
        """Samples a lane's tokens of the round."""
        request, n_past, error = lane.request, lane.n_tokens, None
        try:
            goes_on = True
            while goes_on:
                sampler = request.sampler
                token, goes_on, row = self._engine.next_row(sampler.sampler, sampler.choice, tree, lane=lane.id)
                goes_on = self._hand_out(lane, token, row) and goes_on
        except Exception as failed:
            error = failed
        try:
            n_in_memory = self._engine.settle(lane=lane.id)
            lane.text = request.text.tokens[:n_in_memory]
            lane.memory.grown(n_past, n_in_memory)
            request.counts = self._engine.counts(lane=lane.id)
            if error is not None:
                raise error
            self._after_tokens(lane)
        except Exception as failed:
            self._fail(lane, failed, lost=error is None)

    def _hand_out(self, lane: Lane, token: int, row: int) -> bool:
        """Gives a token to the reader. False if the text ends before it.

        Raises:
            Exception: What a logits processor, a grammar or a stopping criterion raised.
        """
        request = lane.request
        request.processors.raise_error()
        logits = self._batches.logits(row, self._n_vocab) if request.wants_logits else None
        if request.stops is not None and request.stops(request.text._input_ids, logits):
            request.n_max = request.n_written
            request.end()
            return False
        if self._is_end(token):
            request.n_max = request.n_written + 1
        request.write(Sampled(token, logits))
        return True

    def _after_tokens(self, lane: Lane) -> None:
        """A text that is as long as its reader wants leaves its lane. If it wants more after all, it comes back."""
        if lane.request.n_written >= lane.request.n_max:
            self._leave(lane)
