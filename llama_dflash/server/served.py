"""`ServedLlama`: a Llama that says with every answer how long it took and how many drafted tokens were accepted. `ServedBatch`:
a LlamaBatch whose answers do."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Generator, Iterator, List, Optional, Sequence

import jinja2
import llama_cpp
import numpy as np

from ..batch import LlamaBatch
from ..batch.front import Front
from ..chunks import Chunk, of_whole_answer, with_openais_tool_calls
from ..llama import Llama
from .choices import Request, Usage, joined, one_each, one_stream, sum_of
from .client import this_client
from .errors import WrongRequest
from .metrics import METRICS
from .tools import as_tool_call, in_words, schema_of_call

# upstream's error where the model chooses a tool in a stream (chat format chatml-function-calling): its call comes whole
_NOT_STREAMED = "Automatic streaming tool choice is not supported"
_TOO_LONG = "Requested tokens"  # which upstream has an answer of its own for
_KEEP_BYTES = (llama_cpp.LLAMA_VOCAB_TYPE_SPM, llama_cpp.LLAMA_VOCAB_TYPE_BPE)  # of a text; others leave some out
_TELLS_NO_TOOLS = "chatml-function-calling"  # unless the model may choose whether to call one


@dataclass
class Timings:
    """What one request cost; the names are those of llama.cpp's server (server_slot_stats)."""

    cache_n: int = 0  # tokens of the prompt that were in memory
    prompt_n: int = 0  # tokens of the prompt that were evaluated
    prompt_seconds: float = 0.0  # up to the first token
    predicted_n: int = 0
    n_steps: int = 0  # the tokens after the first, which is the prompt's
    predicted_seconds: float = 0.0  # from the first token on, without what happens to tokens outside
    draft_n: int = 0
    draft_n_accepted: int = 0
    n_rounds: int = 0

    def count(self) -> None:
        """Adds itself to the server's metrics."""
        METRICS.count(
            prompt_tokens=self.prompt_n,
            prompt_tokens_cached=self.cache_n,
            tokens=self.predicted_n,
            rounds=self.n_rounds,
            draft_nodes=self.draft_n,
            draft_nodes_accepted=self.draft_n_accepted,
            prompt_seconds=self.prompt_seconds,
            token_seconds=self.predicted_seconds,
        )

    def as_json(self) -> Dict[str, Any]:
        """Milliseconds and rates. draft_n and draft_n_accepted are there if anything was drafted."""
        fields: Dict[str, Any] = {"cache_n": self.cache_n}
        for name, n, n_timed, seconds in (
            ("prompt", self.prompt_n, self.prompt_n, self.prompt_seconds),
            ("predicted", self.predicted_n, self.n_steps, self.predicted_seconds),
        ):
            fields[f"{name}_n"] = n
            fields[f"{name}_ms"] = 1e3 * seconds
            fields[f"{name}_per_token_ms"] = 1e3 * seconds / n_timed if n_timed else 0.0
            fields[f"{name}_per_second"] = n_timed / seconds if seconds > 0 else 0.0
        if self.draft_n > 0:
            fields.update(draft_n=self.draft_n, draft_n_accepted=self.draft_n_accepted)
        return fields


class Served(llama_cpp.Llama):
    """What answers the server: its answers, and the last chunk of those that are streamed, have `timings`."""

    logits_on_request = False  # keep all logits during requests for logprobs, at no other time

    _timings = Timings()
    _n_evaluated = 0
    _check_client: Optional[Callable[[], None]] = None  # while a request is answered
    _longest_token: Optional[int] = None  # bytes

    def __call__(self, *, prompts: Optional[List[str]] = None, **request: Any) -> Any:
        asked = [{**request, "prompt": prompt} for prompt in prompts] if prompts else [request]
        return self._answer(super().__call__, asked)

    def create_chat_completion(self, **request: Any) -> Any:
        return self._answer(self._chat, [request])

    def _chat(self, **request: Any) -> Any:
        try:
            if request.get("tool_choice") == "required":
                return self._call_some_tool(request)
            return super().create_chat_completion(**request)
        except jinja2.TemplateError as error:
            raise WrongRequest(f"the model's chat template does not take these messages: {error}", "messages") from error
        except ValueError as error:
            if type(error) is ValueError and not any(said in str(error) for said in (_NOT_STREAMED, _TOO_LONG)):
                raise WrongRequest(str(error)) from error  # of a template, too: it says what it does not take
            if _NOT_STREAMED not in str(error):
                raise
        return of_whole_answer(super().create_chat_completion(**{**request, "stream": False}))

    def _call_some_tool(self, request: Request) -> Any:
        """The answer is a call of one of several tools."""
        form = {"type": "json_object", "schema": schema_of_call(request["tools"])}
        messages = request["messages"]
        if self.chat_format == _TELLS_NO_TOOLS:
            messages = [{"role": "system", "content": in_words(request["tools"])}, *messages]
        ours = {"messages": messages, "tool_choice": None, "response_format": form, "stream": False}
        answer = as_tool_call(super().create_chat_completion(**{**request, **ours}))
        return of_whole_answer(answer) if request.get("stream") else answer

    def _answer(self, create: Callable[..., Any], asked: Sequence[Request]) -> Any:
        """Answers a request for every prompt, each of which is for n_choices texts."""
        n_choices, options = asked[0].get("n_choices", 1), asked[0].get("stream_options") or {}
        ours = {"n_choices", "stream_options"}
        each = [{name: value for name, value in one.items() if name not in ours} for one in asked]
        requests = [one for request in each for one in one_each(request, n_choices)]
        check = this_client().check  # now: a stream's generator may run in other contexts
        if requests[0].get("stream"):
            return self._stream(create, requests, n_choices, bool(options.get("include_usage")), check)
        with self._request(requests[0], check):
            answers = [create(**request) for request in requests]
            return {**joined(answers, n_choices), "timings": self._timings.as_json()}

    def _stream(
        self,
        create: Callable[..., Any],
        requests: Sequence[Request],
        n_choices: int,
        include_usage: bool,
        check: Callable[[], None],
    ) -> Iterator[Chunk]:
        """The chunks of all texts. The last chunk has the timings and, in one of its own, the usage if that is asked for."""
        with self._request(requests[0], check):
            usages: List[Usage] = []
            for chunk in one_stream(with_openais_tool_calls(create(**request)) for request in requests):
                if chunk["choices"][0]["finish_reason"] is not None:
                    usages.append(chunk.pop("usage", None) or self.usage)
                    if len(usages) == len(requests) and not include_usage:
                        chunk["timings"] = self._timings.as_json()
                yield {**chunk, "usage": None} if include_usage else chunk
            if include_usage:
                yield {**chunk, "choices": [], "usage": sum_of(usages, n_choices), "timings": self._timings.as_json()}

    @contextlib.contextmanager
    def _request(self, request: Dict[str, Any], check: Callable[[], None]) -> Iterator[None]:
        """Generations in a `with` block are one request's, and end with what `check` raises. What is wrong with their
        settings is wrong with the request."""
        self._timings, self._check_client = Timings(), check
        wants_logprobs = request.get("logprobs") is not None and request["logprobs"] is not False
        try:
            with self._all_logits() if wants_logprobs and self.logits_on_request else contextlib.nullcontext():
                yield
        finally:
            self._check_client = None
            self._timings.count()

    @contextlib.contextmanager
    def _all_logits(self) -> Iterator[None]:
        """As after logits_all=True: logprobs are made of [n_ctx, n_vocab] logits, which need not be there all the time.

        What is in memory and in the cache has no logits and is not used.
        """
        scores, cache = self.scores, self.cache
        self.reset()
        self._logits_all, self.cache = True, None
        self.scores = np.ndarray((self._n_ctx, self._n_vocab), dtype=np.single)
        try:
            yield
        finally:
            self._logits_all, self.cache, self.scores = False, cache, scores

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> List[int]:
        """As the stock method; but of a text that can't fit into the context, however it is cut up, nothing is tokenized: of
        30 MB that takes half a minute and a gigabyte.

        Raises:
            ValueError: If a request's text is that long.
        """
        if self._check_client is not None and len(text) > 64 * self._n_ctx:
            n_least = -(-len(text) // self._bytes_of_longest_token())
            if n_least > self._n_ctx:
                raise ValueError(f"Requested tokens ({n_least}) exceed context window of {self._n_ctx}")
        return super().tokenize(text, add_bos, special)

    def _bytes_of_longest_token(self) -> int:
        """Or more: a vocabulary may write a byte with two."""
        if self._longest_token is None:
            keeps_bytes = llama_cpp.llama_vocab_type(self._model.vocab) in _KEEP_BYTES
            tokens = range(self._n_vocab) if keeps_bytes else ()
            texts = (llama_cpp.llama_vocab_get_text(self._model.vocab, token) or b"" for token in tokens)
            self._longest_token = max(map(len, texts), default=1 << 40) or 1
        return self._longest_token

    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluates as ever; between two batches it looks whether the client is still there."""
        self._n_evaluated += len(tokens)
        if self._engine is not None or self._checkpoints is not None:
            return super().eval(tokens)
        for batch in self._batches(tokens):
            super().eval(batch)

    def _batches(self, tokens: Sequence[int]) -> Iterator[Sequence[int]]:
        for batch in super()._batches(tokens):
            if self._check_client is not None:
                self._check_client()
            yield batch

    def generate(self, tokens: Sequence[int], *args: Any, **kwargs: Any) -> Generator[int, Optional[Sequence[int]], None]:
        """Yields the tokens of the stock generator and times it."""
        timings, self._n_evaluated = self._timings, 0
        n_prompt, n_sampled = len(tokens), 0
        if n_prompt == 0:
            raise WrongRequest("the prompt is empty, and this model has no token that begins a text: give it some text")
        generator = super().generate(tokens, *args, **kwargs)
        started = time.perf_counter()
        try:
            for token in generator:
                seconds = time.perf_counter() - started
                if n_sampled == 0:
                    timings.prompt_n += self._n_evaluated
                    timings.cache_n += max(0, n_prompt - self._n_evaluated)
                    timings.prompt_seconds += seconds
                else:
                    timings.n_steps += 1
                    timings.predicted_seconds += seconds
                n_sampled += 1
                timings.predicted_n += 1
                if self._check_client is not None:
                    self._check_client()
                yield token
                started = time.perf_counter()
        finally:
            generator.close()
            stats = self.speculative_stats
            if stats is not None:
                timings.draft_n += stats.nodes
                timings.draft_n_accepted += stats.accepted
                timings.n_rounds += stats.rounds


class ServedLlama(Served, Llama):
    """Answers one request at a time."""


class ServedFront(Served, Front):
    """Answers one request of several."""


class ServedBatch(LlamaBatch):
    """Answers several requests at once."""

    _front_class = ServedFront

    def __call__(self, **request: Any) -> Any:
        return self._front()(**request)
