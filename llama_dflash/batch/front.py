"""A Llama of one request: all of llama-cpp-python's text handling, over a lane of a `LlamaBatch`.

The stock class makes a text from the tokens that `self.generate` yields: stop strings, logprobs, chunks, chat formats, tools. A front
shares model and settings with its `LlamaBatch`, has its own tokens and seed, and its `generate` waits for the scheduler.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Dict, Generator, Iterator, List, Optional, Sequence, Union

import llama_cpp
import numpy as np
from llama_cpp import StoppingCriteriaList

from ..llama import Llama
from ..samplers import Processors, make_sampler
from ..stats import SpeculativeStats
from ..turns import Turns
from .request import Cancelled, Request, Text

if TYPE_CHECKING:
    from .llama_batch import LlamaBatch

_NOT_HERE = "{}: a LlamaBatch has no memory of its own that could be used directly, as many texts are written in it. Use Llama for that"


class Uses(Turns):
    """In place of turns: many texts at once, and the model is freed when none of them is in the middle of something."""

    def generation(self, steps: Generator[Any, Any, Any], resumable: bool = True) -> Generator[Any, Any, Any]:
        """The same generator."""
        try:
            with self.use("a stream was read"):
                value = next(steps)
            while True:
                sent = yield value
                with self.use("a stream was read on"):
                    value = steps.send(sent)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()


class NoMemory:
    """What a LlamaBatch and its fronts have in common: many texts in one context, so that methods which need a memory of their own
    are refused."""

    def n_ctx(self) -> int:
        """Tokens of one request's prompt and text, at most."""
        with self._turns.use("n_ctx"):
            return llama_cpp.llama_n_ctx_seq(self._ctx.ctx)

    def _refuse(self, what: str) -> Any:
        raise RuntimeError(_NOT_HERE.format(what))

    def eval(self, *args: Any, **kwargs: Any) -> Any:
        """Is refused, as everything that evaluates tokens by hand."""
        self._refuse("eval")

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("sample")

    def reset(self) -> None:
        self._refuse("reset")

    def embed(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("embed")

    def create_embedding(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("create_embedding")

    def save_state(self) -> Any:
        self._refuse("save_state")

    def load_state(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("load_state")

    def save_tuned(self, *args: Any, **kwargs: Any) -> Any:
        self._refuse("save_tuned")


class Front(NoMemory, Llama):
    """One request to a `LlamaBatch`: its completions run one after the other, in one thread at a time."""

    def __init__(self, batch: LlamaBatch, seed: int) -> None:
        """
        Args:
            batch: Whose model it is.
            seed: From which the seeds of requests without one are made, as a Llama does.
        """
        vars(self).update(vars(batch))
        self._owner = batch  # keeps the model
        self._seed = seed
        self._processors = Processors()
        self._current: Optional[Request] = None
        self._cancelled = False
        self._max_tokens: Optional[int] = None
        self._wants_logits = self._wants_prompt_logits = False
        self._n_evaluated = 0
        self._check_client: Any = None
        self.cache = None  # of lanes, which the scheduler fills
        self.n_tokens = 0

    def close(self) -> None:
        """The model is its LlamaBatch's."""
        self.cancel()

    def __del__(self) -> None:
        pass

    def cancel(self) -> None:
        """Ends what is generated, and frees its lane. From any thread."""
        self._cancelled = True
        request = self._current
        if request is not None:
            request.cancel()

    # ---------------------------------------------------------------- what happened

    @property
    def usage(self) -> Dict[str, int]:
        request = self._current
        n_prompt = 0 if request is None else request.n_prompt
        n_completion = 0 if request is None else request.n_read - self._ended_by_token
        return {"prompt_tokens": n_prompt, "completion_tokens": n_completion, "total_tokens": n_prompt + n_completion}

    @property
    def speculative_stats(self) -> Optional[SpeculativeStats]:
        """Numbers of the last text; None without a drafter."""
        if self.draft_model is None:
            return None
        counts = None if self._current is None else self._current.counts
        return SpeculativeStats() if counts is None else SpeculativeStats(counts.rounds, counts.nodes, counts.accepted, counts.tokens)

    # ---------------------------------------------------------------- completions

    def _create_completion(
        self,
        prompt: Union[str, List[int]],
        suffix: Optional[str] = None,
        max_tokens: Optional[int] = 16,
        logprobs: Optional[int] = None,
        echo: bool = False,
        **kwargs: Any,
    ) -> Iterator[Any]:
        """The stock completion. Logprobs need no logits_all here."""
        self._max_tokens = max_tokens if max_tokens is not None and max_tokens > 0 else None
        self._wants_logits = self._logits_all = logprobs is not None
        self._wants_prompt_logits = self._wants_logits and echo
        steps = llama_cpp.Llama._create_completion(
            self, prompt=prompt, suffix=suffix, max_tokens=max_tokens, logprobs=logprobs, echo=echo, **kwargs
        )
        return self._turns.generation(self._with_our_context(steps))

    def _with_our_context(self, steps: Iterator[Any]) -> Iterator[Any]:
        """Where a prompt is too long, the stock sentence names the context of all lanes."""
        try:
            yield from steps
        except ValueError as error:
            said = re.fullmatch(r"(Requested tokens \(\d+\) exceed context window of )\d+", str(error))
            if said is None:
                raise
            raise ValueError(f"{said[1]}{self._n_ctx}") from None

    def generate(
        self, tokens: Sequence[int], *, reset: bool = True, stopping_criteria: Optional[StoppingCriteriaList] = None, **settings: Any
    ) -> Generator[int, Optional[Sequence[int]], None]:
        """Yields the tokens after a prompt, up to one that ends a text.

        Args:
            tokens: The prompt.
            reset: Must be True.
            stopping_criteria: Asked before every token.
            **settings: Of the sampler, as `Llama._init_sampler` takes them.

        Raises:
            Cancelled: After cancel().
            RuntimeError: If the forward failed.
            Exception: What a logits processor or stopping criterion raised.
        """
        if not reset:
            self._refuse("generate(reset=False)")
        request = self._new_request(tokens, settings, stopping_criteria)
        return self._turns.generation(self._watched(self._tokens_of(request)))

    def _watched(self, steps: Generator[int, Any, Any]) -> Generator[int, Any, Any]:
        """Raises WorkerError where an RPC worker was lost."""
        with self._owner._rpc.watched():
            return (yield from steps)

    def _new_request(self, tokens: Sequence[int], settings: Dict[str, Any], stops: Optional[StoppingCriteriaList]) -> Request:
        if len(tokens) == 0:
            raise ValueError("the prompt is empty, and this model has no token that begins a text: give it some text")
        text = Text(tokens, self._n_ctx, self)
        n_most = self._n_ctx - len(tokens)
        request = Request(
            text,
            make_sampler(text, self._processors, **settings),
            self._processors,
            self._owner._scheduler.look_at,
            n_max=max(1, n_most if self._max_tokens is None else min(self._max_tokens, n_most)),
            stops=stops,
            wants_logits=self._wants_logits,
            wants_prompt_logits=self._wants_prompt_logits,
        )
        self.input_ids, self.n_tokens = text.tokens, len(tokens)
        keeps_all = self._wants_logits
        self.scores = np.zeros((len(text.tokens) if keeps_all else 1, self._n_vocab), dtype=np.single)
        return request

    def _tokens_of(self, request: Request) -> Generator[int, Optional[Sequence[int]], None]:
        """The tokens; n_tokens, input_ids and scores follow what was read, as a Llama's do."""
        if self._owner._scheduler.is_this_thread:
            raise RuntimeError("a logits processor can't use the LlamaBatch that is calling it")
        self._current = request
        if self._cancelled:  # looked at after cancel() can see the request
            raise Cancelled("this request was cancelled")
        reading = request.read(self._check_client)
        self._owner._submit(request)
        try:
            for sampled in reading:
                if request.n_read == 1:
                    self._n_evaluated += request.n_evaluated
                    if request.prompt_logits is not None:
                        self.scores[: request.n_prompt] = request.prompt_logits
                self.n_tokens = request.n_prompt + request.n_read - 1
                if sampled.logits is not None:
                    self.scores[self.n_tokens - 1 if self._wants_logits else 0] = sampled.logits
                yield sampled.token
                self.n_tokens = request.n_prompt + request.n_read
        finally:
            reading.close()

    @property
    def _ended_by_token(self) -> bool:
        """The last token that was read ends the text, and is no part of it."""
        request = self._current
        last = int(request.text.tokens[request.n_prompt + request.n_read - 1])
        return request.n_read > 0 and llama_cpp.llama_vocab_is_eog(self._model.vocab, last)
