"""A prompt and the text that a lane writes after it, for somebody in another thread."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt
from llama_cpp import StoppingCriteriaList

from ..samplers import Processors, Sampler

AHEAD = 256  # tokens at most that are written before somebody reads them
_SECONDS_BETWEEN_CHECKS = 0.25


class Cancelled(RuntimeError):
    """The request was cancelled: nobody will read what comes."""


@dataclass(frozen=True)
class Sampled:
    token: int
    logits: Optional[npt.NDArray[np.single]]  # [n_vocab] that it was sampled from, where somebody wants to see them


@dataclass(frozen=True)
class End:
    """Nothing comes after it."""

    error: Optional[BaseException] = None


class Text:
    """A prompt and the tokens after it, as a sampler and logits processors see them: at the place where the lane is, which may be
    ahead of what was read. It has what `Llama._init_sampler` looks at."""

    def __init__(self, prompt: Sequence[int], n_ctx: int, llama: Any) -> None:
        self.tokens = np.empty(max(n_ctx, len(prompt)) + 1, dtype=np.intc)
        self.tokens[: len(prompt)] = prompt
        self.n_tokens = len(prompt)
        self._model, self._n_vocab = llama._model, llama._n_vocab
        self._seed, self.last_n_tokens_size = llama._seed, llama.last_n_tokens_size

    @property
    def _input_ids(self) -> npt.NDArray[np.intc]:
        return self.tokens[: self.n_tokens]

    def add(self, token: int) -> None:
        self.tokens[self.n_tokens] = token
        self.n_tokens += 1


class Request:
    """One text to be written. Whoever reads it and the scheduler share it; each attribute is written by one of them.

    Attributes:
        text: The prompt and what was written so far.
        n_prompt: Tokens of the prompt.
        n_max: So many tokens are written before somebody asks for more.
        n_read: So many were read.
        cancelled: Nobody reads on.
        asleep: The scheduler has stopped writing until somebody reads on.
        n_evaluated: Tokens of the prompt that were evaluated; the others were in memory.
        prompt_logits: [n_prompt, n_vocab] if they are wanted.
        counts: Of its rounds, as the engine counts.
    """

    def __init__(
        self,
        text: Text,
        sampler: Sampler,
        processors: Processors,
        wake: Callable[["Request"], None],
        *,
        n_max: int,
        stops: Optional[StoppingCriteriaList] = None,
        wants_logits: bool = False,
        wants_prompt_logits: bool = False,
    ) -> None:
        """
        Args:
            text: The prompt.
            sampler: For this text alone.
            processors: That the sampler calls.
            wake: Called when the scheduler is to look at the request again.
            n_max: How many tokens will be read, as far as the reader knows.
            stops: Asked before every token, as `Llama.generate` does.
            wants_logits: Tokens come with what they were sampled from.
            wants_prompt_logits: The logits at every place of the prompt are wanted too, so that all of it is evaluated.
        """
        self.text = text
        self.n_prompt = text.n_tokens
        self.sampler = sampler
        self.processors = processors
        self.stops = stops
        self.wants_logits = wants_logits or stops is not None
        self.prompt_logits: Optional[npt.NDArray[np.single]] = None
        self.wants_prompt_logits = wants_prompt_logits
        self.n_max = n_max
        self.n_read = 0
        self.n_evaluated = 0
        self.cancelled = False
        self.asleep = False
        self.counts: Any = None
        self._wake = wake
        self._ready: "queue.SimpleQueue[Union[Sampled, End]]" = queue.SimpleQueue()

    # ---------------------------------------------------------------- for the scheduler

    @property
    def n_written(self) -> int:
        return self.text.n_tokens - self.n_prompt

    @property
    def n_wanted(self) -> int:
        """How many more tokens may be written now."""
        return min(self.n_max, self.n_read + AHEAD) - self.n_written

    @property
    def to_evaluate(self) -> npt.NDArray[np.intc]:
        """What is to be in memory before the next token is sampled: the prompt; of a text that was interrupted, all but its last
        token, with which a round begins."""
        return self.text._input_ids if self.n_written == 0 else self.text._input_ids[:-1]

    @property
    def n_reusable(self) -> int:
        """How much of that may be there already: the logits after a prompt are to be made."""
        if self.wants_prompt_logits and self.n_written == 0:
            return 0
        return len(self.to_evaluate) - (self.n_written == 0)

    def write(self, sampled: Sampled) -> None:
        self.text.add(sampled.token)
        self._ready.put(sampled)

    def end(self, error: Optional[BaseException] = None) -> None:
        self._ready.put(End(error))

    # ---------------------------------------------------------------- for the reader

    def read(self, check: Optional[Callable[[], None]] = None) -> Iterator[Sampled]:
        """The tokens, when they come.

        Args:
            check: Called now and then while nothing comes; ends the request with what it raises.

        Raises:
            Cancelled: If somebody cancelled it.
            Exception: What ended it.
        """
        try:
            while True:
                item = self._next(check)
                if isinstance(item, End):
                    if item.error is not None:
                        raise item.error
                    return
                self.n_read += 1
                if self.asleep and self.n_wanted > 0:
                    self._wake(self)
                yield item
        finally:
            self.cancel()

    def _next(self, check: Optional[Callable[[], None]]) -> Union[Sampled, End]:
        if self.n_read >= self.n_max:
            self.n_max = self.n_read + 1  # a token more than was said
            self._wake(self)
        while True:
            try:
                return self._ready.get(timeout=None if check is None else _SECONDS_BETWEEN_CHECKS)
            except queue.Empty:
                check()

    def cancel(self) -> None:
        """Frees its lane. From any thread, also in a garbage collection."""
        if not self.cancelled:
            self.cancelled = True
            self.end(Cancelled("this request was cancelled"))
            self._wake(self)
