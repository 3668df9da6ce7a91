"""`LlamaBatch`: the high-level calls of a Llama, from many threads and from asyncio, joined into one forward."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import random
import threading
import weakref
from typing import Any, AsyncIterator, Callable, Dict, List, Optional, Sequence, Union

import llama_cpp
from llama_cpp import llama_cache

from .._engine import Engine
from ..checkpoints import Checkpoints
from ..drafts import CommonSettings, DraftModel, parse
from ..gguf_file import GgufFile
from ..llama import CHECKPOINT_BYTES, Llama
from ..memory import Memory
from ..progress import Progress
from ..stats import SpeculativeStats
from .front import Front, NoMemory, Uses
from .lane import Lane
from .places import Places
from .request import Request
from .scheduler import Scheduler
from .workers import Workers, chunks_of, result_of

Answer = Any  # what create_completion returns, or the exception that it raised


class LlamaBatch(NoMemory, Llama):
    """Many completions at once over one model: `Llama`'s high-level calls from any thread, and from asyncio.

    Requests that are there at the same time share every forward pass, with drafts or without; each one's text is that of a `Llama`
    alone. What they begin with alike is evaluated once.

    Examples:
        >>> from llama_dflash import LlamaBatch
        >>> llm = LlamaBatch("target.gguf", draft_model="drafter.gguf", n_parallel=8, n_ctx=4096)
        >>> answers = llm.create_completions(["One, two,", "Red, green,"], max_tokens=32)
        >>> answer = await llm.acreate_chat_completion([{"role": "user", "content": "Hello"}])
    """

    _front_class = Front

    def __init__(
        self,
        model_path: str,
        *,
        draft_model: Optional[DraftModel] = None,
        n_parallel: int = 8,
        n_ctx: int = 512,
        n_batch: int = 512,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        **kwargs: Any,
    ) -> None:
        """Loads a target and, if `draft_model` names one, its drafter.

        Args:
            model_path: Path to the target.
            draft_model: As for `Llama`; not a LlamaDraftModel of llama-cpp-python.
            n_parallel: So many texts are written at once. More requests wait, first come first served.
            n_ctx: Tokens of one request's prompt and text. The cache has room for n_parallel times as many. 0: what the model was
                trained for.
            n_batch: Tokens of prompts that are evaluated between two rounds of the texts that are being written.
            checkpoint_bytes: As for `Llama`, for each of the n_parallel texts.
            **kwargs: As for `Llama`. `logits_all` is not needed for logprobs here.

        Raises:
            ValueError: As `Llama`; or if an argument is none that a batch can have.
        """
        if isinstance(n_parallel, bool) or not isinstance(n_parallel, int) or n_parallel < 1:
            raise ValueError(f"n_parallel is {n_parallel!r}, expected a number of texts that are written at once, 1 or more")
        self._n_lanes = n_parallel
        self._process = os.getpid()
        self._scheduler: Optional[Scheduler] = None
        self._seeds = threading.Lock()
        self._workers = Workers(2 * n_parallel + 2)
        if kwargs.get("embedding"):
            raise ValueError("embedding=True: a LlamaBatch makes no embeddings, use Llama for them")
        if draft_model is not None and not isinstance(parse(draft_model), list):
            raise ValueError(f"draft_model is a {type(draft_model).__name__}: a LlamaBatch takes drafters of llama_dflash only")
        kwargs["logits_all"] = False
        n_ctx = n_ctx or _trained_context(model_path)
        n_batch = min(n_batch, n_ctx) if n_ctx >= n_parallel else n_batch
        if n_batch < n_parallel:
            raise ValueError(f"n_batch is {n_batch}, expected at least n_parallel = {n_parallel}: every text needs a token of it")
        super().__init__(
            model_path,
            draft_model=draft_model,
            n_ctx=n_ctx * n_parallel,
            n_batch=n_batch,
            checkpoint_bytes=checkpoint_bytes,
            **kwargs,
        )
        self._turns = Uses()
        if not self.model_params.vocab_only:
            try:
                self._start()
            except BaseException:
                self.close()
                raise

    def _start(self) -> None:
        self.context_params.n_ctx = self._n_ctx  # what it says to those who look is of one text
        engine = self._engine
        if engine is None:  # rounds of roots alone: plain decoding
            engine = Engine(self._ctx.ctx, [], CommonSettings(budget=1), n_gpu_layers=0, n_lanes=self._n_lanes)
            self._stack.enter_context(contextlib.closing(engine))
        self._lane_engine = engine
        vocab = self._model.vocab
        lanes = [Lane(i, self._ctx, engine, Memory(self._ctx, self._checkpoints_of(i), i)) for i in range(self._n_lanes)]
        places = Places(lanes, lambda token: llama_cpp.llama_vocab_is_control(vocab, token))
        self._scheduler = Scheduler(
            places,
            self._ctx,
            engine,
            n_ctx=self._n_ctx,
            n_batch=self.n_batch,
            n_vocab=self._n_vocab,
            is_end=lambda token: llama_cpp.llama_vocab_is_eog(vocab, token),
        )
        _running.add(self._scheduler)

    def _new_checkpoints(self) -> Optional[Checkpoints]:
        return None  # every lane has its own

    def _checkpoints_of(self, lane: int) -> Optional[Checkpoints]:
        if not (self._is_recurrent or self._is_hybrid) or self._ctx.memory is None:
            return None
        return Checkpoints(self._ctx, self._checkpoint_bytes, whole=self._is_recurrent, lane=lane)

    def close(self) -> None:
        """Ends all requests, which then raise RuntimeError, and frees the model. Closing again does nothing."""
        if self._process != os.getpid():  # the scheduler is in another process
            return
        scheduler = self._scheduler
        if scheduler is not None and scheduler.is_this_thread:
            raise RuntimeError("close: a logits processor can't close the LlamaBatch that is calling it")
        self._workers.close()
        if scheduler is not None:
            scheduler.stop()
        super().close()

    def __del__(self) -> None:
        scheduler = getattr(self, "_scheduler", None)
        if scheduler is not None and scheduler.is_this_thread:  # a garbage collection there
            threading.Thread(target=_close, args=(scheduler, self._stack), daemon=True).start()
        elif hasattr(self, "_turns"):
            self.close()

    def __enter__(self) -> LlamaBatch:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @property
    def n_parallel(self) -> int:
        """So many texts are written at once."""
        return self._n_lanes

    def set_cache(self, cache: Optional[llama_cache.BaseLlamaCache]) -> None:
        """Texts whose place is needed for others go to this cache, and come back when a prompt begins with them."""
        self.cache = cache
        self._scheduler.places.cache = cache

    @property
    def speculative_stats(self) -> Optional[SpeculativeStats]:
        """Numbers of all requests that have ended; None without a drafter."""
        return None if self.draft_model is None or self._scheduler is None else self._scheduler.stats

    def __getstate__(self) -> Dict[str, Any]:
        state = super().__getstate__()
        del state["logits_all"], state["embedding"]
        return {**state, "n_parallel": self._n_lanes}

    # ---------------------------------------------------------------- one request

    def _front(self) -> Front:
        """For one request. Whoever makes several in the order of their seeds makes their fronts in that order."""
        self._check_process()
        self._turns.check_open("a completion")
        with self._seeds:
            seed, self._seed = self._seed, random.Random(self._seed).randint(0, 2**32)
        return self._front_class(self, seed)

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise RuntimeError("this LlamaBatch was made before a fork, in another process: make one in each process")

    def _submit(self, request: Request) -> None:
        self._check_process()
        self._scheduler.look_at(request)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Is refused: tokens are generated for completions."""
        self._refuse("generate")

    @functools.wraps(llama_cpp.Llama.create_completion)
    def create_completion(self, *args: Any, **kwargs: Any) -> Any:
        return self._front().create_completion(*args, **kwargs)

    @functools.wraps(llama_cpp.Llama.create_chat_completion)
    def create_chat_completion(self, *args: Any, **kwargs: Any) -> Any:
        return self._front().create_chat_completion(*args, **kwargs)

    # ---------------------------------------------------------------- asyncio

    async def acreate_completion(self, *args: Any, **kwargs: Any) -> Any:
        """As create_completion(), for asyncio: returns the answer or, with stream=True, an async generator of its chunks. If the
        task that awaits it is cancelled, or the generator closed, its place is free within a round."""
        front = self._front()
        return await self._run(front, functools.partial(front.create_completion, *args, **kwargs), kwargs.get("stream", False))

    async def acreate_chat_completion(self, *args: Any, **kwargs: Any) -> Any:
        """As create_chat_completion(), for asyncio: see acreate_completion()."""
        front = self._front()
        return await self._run(front, functools.partial(front.create_chat_completion, *args, **kwargs), kwargs.get("stream", False))

    async def _run(self, front: Front, call: Callable[[], Any], stream: bool) -> Union[Answer, AsyncIterator[Any]]:
        if stream:
            return chunks_of(self._workers, call, front.cancel)
        return await result_of(self._workers, call, front.cancel)

    # ---------------------------------------------------------------- lists

    def create_completions(self, prompts: Sequence[Any], *, progress: bool = False, **settings: Any) -> List[Answer]:
        """Completes many prompts, as many at once as there is room for.

        Args:
            prompts: Texts or lists of tokens.
            progress: Shows on stderr how far it is.
            **settings: Of create_completion(), for all of them.

        Returns:
            The answers in the order of the prompts. In place of an answer, the exception that create_completion() raised: one that
            fails does not end the others.
        """
        return self._all("create_completion", prompts, progress, settings)

    def create_chat_completions(self, conversations: Sequence[Any], *, progress: bool = False, **settings: Any) -> List[Answer]:
        """Answers many conversations: as create_completions().

        Args:
            conversations: The messages of each.
        """
        return self._all("create_chat_completion", conversations, progress, settings)

    def _all(self, method: str, requests: Sequence[Any], progress: bool, settings: Dict[str, Any]) -> List[Answer]:
        if settings.get("stream"):
            raise ValueError("stream=True: a list of answers can't be streamed, use acreate_completion or threads for that")
        fronts = [self._front() for _ in requests]
        calls = [functools.partial(getattr(front, method), request, **settings) for front, request in zip(fronts, requests)]
        futures = [self._workers.submit(call) for call in calls]
        shown = Progress("requests", what_of=str) if progress else None
        answers: List[Answer] = []
        try:
            for i, future in enumerate(futures):
                answers.append(future.exception() or future.result())
                if shown is not None:
                    shown(i + 1, len(futures))
        finally:
            for front, future in zip(fronts, futures):
                if not future.done():
                    future.cancel()
                    front.cancel()
            if shown is not None:
                shown.close()
        return answers


def _trained_context(model_path: str) -> int:
    """The number of tokens that a model was trained for, says its file."""
    file = GgufFile(model_path)
    return int(file.get(f"{file.get('general.architecture')}.context_length") or 512)


def _close(scheduler: Scheduler, stack: contextlib.ExitStack) -> None:
    scheduler.stop()
    stack.close()


_running: "weakref.WeakSet[Scheduler]" = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Before the interpreter goes: a thread in the middle of a forward could not come back into it."""
    for scheduler in list(_running):
        if scheduler.process == os.getpid():
            scheduler.stop()
