"""`Llama`: llama_cpp.Llama that speculates with draft trees when `draft_model` names a DFlash drafter.

The drop-in class: its constructor and what is public. How a text is generated in rounds is in generation.py, what is in
memory of it in memory.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import inspect
import os
import sys
import warnings
import weakref
from typing import Any, Callable, Dict, Generator, Iterator, List, Optional, Sequence, TypeVar, Union

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import LlamaState, LogitsProcessorList, StoppingCriteriaList

from . import _engine, json_schemas
from ._closed import close_for_good
from ._engine import Engine
from .checkpoints import Checkpoints, common_prefix
from .drafts import CommonSettings, Draft, DraftModel, MTPDraft, common_settings, parse
from .hub import as_hub_id
from .generation import Conversation, Generation
from .memory import Memory
from .messages import plain_messages
from .samplers import Processors, Sampler, make_sampler
from .stats import DraftTree, SpeculativeStats
from .turns import Turns
from .workers import TIMEOUT_SECONDS, Workers, parse_endpoints

json_schemas.install()

CHECKPOINT_BYTES = 512 << 20  # the default: three checkpoints of a 27B hybrid, or a few hundred of a small one

Method = TypeVar("Method", bound=Callable[..., Any])


def _by_itself(method: Method) -> Method:
    """A call that is no part of a generation: it has a turn of its own, and finds the memory as plain decoding leaves it."""

    @functools.wraps(method)
    def call(self: Llama, *args: Any, **kwargs: Any) -> Any:
        with self._turns.turn(method.__name__), self._rpc.watched():
            self._settle()
            return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


def _of_the_vocabulary(method: Method) -> Method:
    """A call that looks at the vocabulary or the settings only: any thread may make it at any time."""

    @functools.wraps(method)
    def call(self: Llama, *args: Any, **kwargs: Any) -> Any:
        with self._turns.use(method.__name__):
            return method(self, *args, **kwargs)

    return call  # type: ignore[return-value]


class Llama(llama_cpp.Llama):
    """`llama_cpp.Llama` with lossless speculative decoding: one more kind of `draft_model`, the rest unchanged.

    Examples:
        >>> from llama_dflash import Llama
        >>> llm = Llama("target.gguf", draft_model="drafter.gguf")
        >>> llm.create_completion("def fibonacci(n):", max_tokens=128)
        >>> print(llm.speculative_stats)
    """

    _conversation: Optional[Conversation] = None  # whose tokens are in input_ids, once the target is loaded
    _load_mtp: bool = False  # with the target's next-token-prediction layers
    _n_lanes: int = 1  # sequences of the context that texts are written in
    _n_live: int = 1  # so many of the last tokens in memory have logits, unless _requires_eval

    def __new__(cls, *args: Any, n_parallel: Optional[int] = None, **kwargs: Any) -> Llama:
        """`Llama(..., n_parallel=8)` is a `LlamaBatch`, for code that makes a Llama of settings it is given."""
        if cls is Llama and n_parallel is not None:
            from .batch import LlamaBatch

            return super().__new__(LlamaBatch)
        return super().__new__(cls)

    def __init__(
        self,
        model_path: str,
        *,
        draft_model: Optional[DraftModel] = None,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        rpc_servers: Union[str, Sequence[str], None] = None,
        rpc_timeout: float = TIMEOUT_SECONDS,
        **kwargs: Any,
    ) -> None:
        """Loads a target and, if `draft_model` names one, its drafter.

        Args:
            model_path: Path to the target, as for llama_cpp.Llama.
            draft_model: A DFlash drafter made for this target: the path of its GGUF file or of its published checkpoint
                (safetensors, converted once into a cache), a `DFlashDraft` with settings, or a list of these, whose proposals
                are merged into one tree. Or any LlamaDraftModel of llama-cpp-python, which works as there. Or None.
            checkpoint_bytes: For recurrent and hybrid targets: the most host memory that checkpoints of the recurrent
                states may take, so that a chat's next turn evaluates what is new only. 0 for none.
            rpc_servers: Workers that hold layers of the model, "host:port,host:port" (`llama-dflash rpc-server`). Their devices come
                before this machine's GPUs; `n_gpu_layers` says how many layers go there, and `tensor_split` which share of them
                each device has (by free memory if it is not given). A drafter's layers are where the target's output is.
            rpc_timeout: Seconds after which a worker that does not answer is lost: more than its longest forward pass takes.
            **kwargs: Every other argument of llama_cpp.Llama, with the same meaning. With a drafter flash_attn is on
                unless it is given: a forward over a tree then rounds as plain decoding does (docs/exactness.md).

        Raises:
            ValueError: If a model's file is missing or damaged, the drafter was not made for this target, or
                checkpoint_bytes is no number of bytes.
            WorkerError: If a worker can't be reached, is of another version, or is lost meanwhile. Every method that computes
                raises it too.
        """
        self._turns = Turns()
        self._stack = contextlib.ExitStack()  # for close(), if what follows raises
        self._processors = Processors()
        drafts = parse(draft_model)
        if isinstance(checkpoint_bytes, bool) or not isinstance(checkpoint_bytes, int) or checkpoint_bytes < 0:
            raise ValueError(f"checkpoint_bytes is {checkpoint_bytes!r}, expected a number of bytes, 0 or more")
        self._checkpoint_bytes = checkpoint_bytes
        _check_is_here(model_path)
        if isinstance(rpc_timeout, bool) or not isinstance(rpc_timeout, (int, float)) or not 0 < rpc_timeout < 1e6:
            raise ValueError(f"rpc_timeout is {rpc_timeout!r}, expected a number of seconds")
        self._rpc_servers, self._rpc_timeout = rpc_servers, rpc_timeout
        self._rpc = Workers(parse_endpoints(rpc_servers) if rpc_servers else [], rpc_timeout)
        with self._rpc.watched():
            try:
                self._load(model_path, draft_model, drafts, kwargs)
                self._rpc.loaded()
            except BaseException:
                self._stack.close()  # now: who holds the error holds this object, and workers would wait for its end
                raise

    def _load(self, model_path: str, draft_model: Optional[DraftModel], drafts: Any, kwargs: Dict[str, Any]) -> None:
        if not isinstance(drafts, list) or not drafts:  # a stock draft model, or none
            self._load_target(model_path, draft_model=draft_model, **kwargs)
            return

        common = common_settings(drafts)
        ready = [draft for item in drafts for draft in item.all_ready_for(model_path)]
        if not ready:  # "auto" found nothing that could draft
            self._load_target(model_path, **kwargs)
            return
        if kwargs.get("flash_attn") is None:
            kwargs["flash_attn"] = True  # its kernels give a token the same logits alone and in a batch, or nearly so
        self._load_mtp = any(isinstance(draft, MTPDraft) and draft.loads_target_layer for draft in ready)
        self._load_target(model_path, **kwargs)  # without draft_model, which would keep all logits
        self.draft_model = drafts if isinstance(draft_model, (list, tuple)) else drafts[0]
        if not self.model_params.vocab_only:
            try:
                self._load_drafters(ready, common)
            except BaseException:
                self.close()
                raise

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: Optional[str] = None,
        additional_files: Optional[List[str]] = None,
        local_dir: Union[str, "os.PathLike[str]", None] = None,
        local_dir_use_symlinks: Union[bool, str] = "auto",
        cache_dir: Union[str, "os.PathLike[str]", None] = None,
        *,
        revision: Optional[str] = None,
        token: Union[str, bool, None] = None,
        **kwargs: Any,
    ) -> Llama:
        """Downloads a target from the Hugging Face Hub, unless it is in the cache, and loads it.

        A drafter that `draft_model=` names, on the Hub or here, is compared with the target before the target is downloaded.

        Args:
            repo_id: "org/name" of a repository with GGUF files.
            filename: A file's name, a pattern that one file matches, or a quantisation ("Q4_K_M"). The further parts of a model
                that was split come too. None: the one that is there, or Q4_K_M.
            additional_files: Names or patterns of further files, a projector for images for instance.
            local_dir: A folder to download to, in place of the cache.
            local_dir_use_symlinks: Of no meaning any more, as in huggingface_hub.
            cache_dir, token: As of huggingface_hub.hf_hub_download.
            revision: A branch, a tag or a commit.
            **kwargs: Of the constructor.

        Raises:
            ValueError: If there is no such repository or file, the Hub can't be reached, or a drafter does not fit.
            ImportError: If huggingface_hub is not installed.
        """
        from .hub import Access, HubId
        from .hub.target import fetch_target

        id = HubId(repo_id, revision, filename)
        path = fetch_target(id, Access(token, cache_dir), kwargs.get("draft_model"), additional_files or (), local_dir)
        return cls(str(path), **kwargs)

    @property
    def model_params(self) -> llama_cpp.llama_model_params:
        return self._model_params

    @model_params.setter
    def model_params(self, params: llama_cpp.llama_model_params) -> None:
        params.load_mtp = self._load_mtp  # the stock class, which sets the others, has no argument for these
        if self._rpc.devices is not None:
            params.devices = ctypes.addressof(self._rpc.devices)
        self._model_params = params

    @property
    def context_params(self) -> llama_cpp.llama_context_params:
        return self._context_params

    @context_params.setter
    def context_params(self, params: llama_cpp.llama_context_params) -> None:
        params.n_seq_max = self._n_lanes  # the stock class has no argument for it
        self._context_params = params

    def _load_target(self, model_path: str, **kwargs: Any) -> None:
        if os.path.isfile(model_path):  # else the stock class says so
            _engine.check_model(model_path)
        with _engine.no_abort():
            super().__init__(model_path, **kwargs)
        self._conversation = Conversation(Memory(self._ctx, self._new_checkpoints()))

    def _load_drafters(self, drafts: List[Draft], common: CommonSettings) -> None:
        drafts = [draft.in_tokens(lambda text: self.tokenize(text, add_bos=False)) for draft in drafts]
        engine = Engine(self.ctx, drafts, common, n_gpu_layers=self.model_params.n_gpu_layers, n_lanes=self._n_lanes)
        self._stack.enter_context(contextlib.closing(engine))  # closed before the target's context
        self._memory.engine = engine
        if common.tuned is not None:
            _learn(engine, common.tuned)
        if common.mode == "tree" and not engine.uses_trees:
            warnings.warn(
                f"The memory of {self.model_path} can't hold draft trees: chains are verified instead.",
                RuntimeWarning,
                stacklevel=4,
            )

    def _new_checkpoints(self) -> Optional[Checkpoints]:
        if not (self._is_recurrent or self._is_hybrid) or self._ctx.memory is None:
            return None
        checkpoints = Checkpoints(self._ctx, self._checkpoint_bytes, whole=self._is_recurrent)
        self._stack.callback(checkpoints.clear)
        return checkpoints

    def close(self) -> None:
        """Frees the model, once no other thread is in the middle of using it. Whatever is called afterwards raises
        RuntimeError, a stream that is read on too; closing again does nothing."""
        if self._processors.running:
            raise RuntimeError("close: a logits processor can't close the Llama that is calling it. Close it after the generation")
        with self._turns.last_turn():
            if self._conversation is not None:
                self._conversation.walk = None
            super().close()
            close_for_good(getattr(self, "_model", None), getattr(self, "_ctx", None))

    tokenize = _of_the_vocabulary(llama_cpp.Llama.tokenize)
    detokenize = _of_the_vocabulary(llama_cpp.Llama.detokenize)
    tokenizer = _of_the_vocabulary(llama_cpp.Llama.tokenizer)
    n_ctx = _of_the_vocabulary(llama_cpp.Llama.n_ctx)
    n_embd = _of_the_vocabulary(llama_cpp.Llama.n_embd)
    n_vocab = _of_the_vocabulary(llama_cpp.Llama.n_vocab)
    pooling_type = _of_the_vocabulary(llama_cpp.Llama.pooling_type)
    token_bos = _of_the_vocabulary(llama_cpp.Llama.token_bos)
    token_eos = _of_the_vocabulary(llama_cpp.Llama.token_eos)
    token_nl = _of_the_vocabulary(llama_cpp.Llama.token_nl)

    @property
    def ctx(self) -> llama_cpp.llama_context_p:
        """The context, for llama.cpp's own functions. Its memory is that of plain decoding when this is read, if no other
        thread is generating."""
        self._turns.check_open("ctx")
        if self._is_walking and not self._processors.running:
            with self._turns.glance() as free:
                if free:
                    self._settle()
        return self._ctx.ctx

    @property
    def model(self) -> llama_cpp.llama_model_p:
        self._turns.check_open("model")
        return self._model.model

    # ---------------------------------------------------------------- what happened

    @property
    def checkpoints(self) -> Dict[int, int]:
        """The places, in tokens, of the text in memory to which a recurrent or hybrid target can go back, and the bytes
        that each takes."""
        return {} if self._checkpoints is None else self._checkpoints.by_place()

    @property
    def speculative_stats(self) -> Optional[SpeculativeStats]:
        """Numbers of the current or last generation; None without a DFlash drafter."""
        return None if self._conversation is None else self._conversation.stats

    @_by_itself
    def save_tuned(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Writes down what was learned so far about this machine's costs and about what is accepted of drafts, for
        `tuned=` of the same drafters (`DFlashDraft(..., tuned=path)`).

        Raises:
            RuntimeError: Without a drafter.
            OSError: If the file can't be written.
        """
        if self._memory is None or self._memory.engine is None:
            raise RuntimeError("save_tuned: nothing is learned without draft_model=")
        with open(path, "w", encoding="ascii") as file:
            file.write(self._memory.engine.learned())

    @property
    def usage(self) -> Dict[str, int]:
        """Tokens of the prompt and of the text of the current or last generation: what the `usage` of an answer says, for
        streams, which have none."""
        n_prompt, n_completion = self._conversation.n_prompt, self._conversation.n_completion
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_completion,
            "total_tokens": n_prompt + n_completion,
        }

    @property
    def last_tree(self) -> Optional[DraftTree]:
        """The draft tree of the last round; None before the first one. `print()` draws it, and so do notebooks."""
        tree = self._conversation.last_tree
        if tree is not None:
            object.__setattr__(tree, "text_of", self._text_of)
        return tree

    @property
    def _text_of(self) -> Callable[[int], str]:
        """What a token stands for; its number once this object is gone or closed."""
        reference = weakref.ref(self)

        def text_of(token: int) -> str:
            llm = reference()
            try:
                return f"#{token}" if llm is None else llm.detokenize([token], prev_tokens=[token], special=True).decode(errors="replace")
            except RuntimeError:
                return f"#{token}"

        return text_of

    # ---------------------------------------------------------------- its parts

    @property
    def _memory(self) -> Memory:
        return self._conversation.memory

    @property
    def _engine(self) -> Optional[Engine]:
        return None if self._conversation is None else self._memory.engine

    @property
    def _checkpoints(self) -> Optional[Checkpoints]:
        return None if self._conversation is None else self._memory.checkpoints

    @property
    def _is_walking(self) -> bool:
        """A round is going on."""
        return self._conversation is not None and self._conversation.walk is not None

    # ---------------------------------------------------------------- evaluating

    @_by_itself
    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluates tokens after the first n_tokens ones.

        Args:
            tokens: Token ids.

        Raises:
            RuntimeError: If the context is full.
        """
        if len(tokens) > 0:
            self._n_live = ((len(tokens) - 1) % self.n_batch) + 1 if self._logits_all else 1  # of the last batch
        if self._memory.is_stock:
            return super().eval(tokens)
        self._cut_back()
        if self._engine is None and self.draft_model is not None and len(tokens) > 1:
            self._memory.before_draft(self._input_ids)
        n_end = self.n_tokens + len(tokens)
        for batch in self._batches(tokens):
            n_past = self.n_tokens
            super().eval(batch)
            self._n_live = len(batch) if self._logits_all else 1
            self._memory.decoded(self._input_ids, batch, n_past, len(tokens), n_end - self.n_tokens)

    def _batches(self, tokens: Sequence[int]) -> Iterator[Sequence[int]]:
        """What to evaluate at once: n_batch tokens at most, and none beyond a place where a checkpoint is to be made."""
        start = 0
        while start < len(tokens):
            end = start + min(self._memory.until_place(self.n_tokens) or self.n_batch, self.n_batch)
            yield tokens[start:end]
            start = end

    def _cut_back(self) -> None:
        """Removes what is in memory beyond the first n_tokens tokens."""
        if not self._memory.cut_back(self.n_tokens):
            text = self._input_ids.copy()
            self._hold(text, self._memory.go_back(text))
            self.eval(text[self.n_tokens :].tolist())

    def _hold(self, text: npt.NDArray[np.intc], n_tokens: int) -> None:
        """The memory holds the first n_tokens tokens of `text` now, and nobody has their logits."""
        self.input_ids[:n_tokens] = text[:n_tokens]
        self.n_tokens = n_tokens
        self._requires_eval = True

    @_by_itself
    def sample(self, *args: Any, idx: Optional[int] = None, **kwargs: Any) -> int:
        """Samples a token as llama_cpp.Llama.sample does.

        Raises:
            Exception: What a logits processor raised. (The stock class prints it and goes on.)
        """
        last = self.n_tokens - 1 if idx is None else idx
        n_after = self.n_tokens - 1 - last
        if self.n_tokens > 0 and (self._requires_eval or n_after >= self._n_live):
            # the last forward was over a draft tree, or a state was loaded, or others were evaluated since: nobody has the
            # token's logits any more
            self.n_tokens = last
            self.eval(self.input_ids[last : last + 1].tolist())
        token = super().sample(*args, idx=idx, **kwargs)
        self._processors.raise_error()
        return token

    embed = _by_itself(llama_cpp.Llama.embed)

    @_by_itself
    def reset(self) -> None:
        """Forgets all tokens."""
        super().reset()
        self._memory.forget_checkpoints()

    def _settle(self) -> None:
        """Ends the round that is going on, if there is one: the memory then holds the text before the token that was handed
        out last, as in plain decoding."""
        if not self._is_walking:
            return
        if self._processors.running:
            raise RuntimeError("a logits processor can't use the memory of the Llama that is calling it")
        try:
            self.n_tokens = min(self.n_tokens, self._conversation.settle())
        except RuntimeError:
            self._recover()
            raise

    def _recover(self) -> None:
        """After an error n_tokens is what is really in memory, if that is less: nothing, where a recurrent state was lost."""
        n_in_memory = self._conversation.recover()
        if n_in_memory < self.n_tokens:
            self.n_tokens, self._requires_eval = n_in_memory, True
            self._memory.lost(n_in_memory)

    # ---------------------------------------------------------------- the sampler

    def _init_sampler(self, *args: Any, **kwargs: Any) -> Sampler:
        """The stock sampler, of which more is known (samplers.py)."""
        return make_sampler(self, self._processors, *args, **kwargs)

    # ---------------------------------------------------------------- generating

    def generate(
        self,
        tokens: Sequence[int],
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        typical_p: float = 1.0,
        temp: float = 0.80,
        repeat_penalty: float = 1.0,
        reset: bool = True,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        tfs_z: float = 1.0,
        mirostat_mode: int = 0,
        mirostat_tau: float = 5.0,
        mirostat_eta: float = 0.1,
        penalize_nl: bool = True,
        logits_processor: Optional[LogitsProcessorList] = None,
        stopping_criteria: Optional[StoppingCriteriaList] = None,
        grammar: Optional[llama_cpp.LlamaGrammar] = None,
    ) -> Generator[int, Optional[Sequence[int]], None]:
        """Yields tokens after a prompt, as llama_cpp.Llama.generate does and with its arguments.

        Between two tokens n_tokens, input_ids and the sampler are those of plain decoding, and so is the text whatever
        else is called there.

        Args:
            tokens: The prompt. What it shares with the tokens evaluated before is not evaluated again.
            reset: False to go on after the tokens evaluated before.
            stopping_criteria: Is called with the tokens before the sampled one and, with a drafter, the logits
                [n_vocab] it was sampled from; True ends the generation without yielding it.

        Yields:
            Token ids. Tokens sent into the generator propose what comes next: they never change the text. With a
            drafter they are not looked at, as it has proposals of its own.

        Raises:
            RuntimeError: If the context is full.
            Exception: What a logits processor or stopping criterion raised.
        """
        settings = dict(
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            typical_p=typical_p,
            temp=temp,
            repeat_penalty=repeat_penalty,
            frequency_penalty=frequency_penalty,
            presence_penalty=presence_penalty,
            tfs_z=tfs_z,
            mirostat_mode=mirostat_mode,
            mirostat_tau=mirostat_tau,
            mirostat_eta=mirostat_eta,
            penalize_nl=penalize_nl,
            logits_processor=logits_processor,
            grammar=grammar,
        )
        self._turns.check_open("generate")
        if self._memory.is_stock:
            steps = super().generate(tokens, reset=reset, stopping_criteria=stopping_criteria, **settings)
        elif self._engine is None:
            steps = self._generate_after_common_prefix(tokens, reset, stopping_criteria=stopping_criteria, **settings)
        else:
            steps = Generation(self, settings, stopping_criteria).steps(tokens, reset)
        return self._turns.generation(self._counted(len(tokens), steps))

    def _counted(self, n_prompt: int, steps: Generator[int, Any, Any]) -> Generator[int, Any, Any]:
        conversation = self._conversation
        conversation.n_prompt, conversation.n_completion = n_prompt, 0
        with self._rpc.watched():
            yield from self._counting(steps)

    def _counting(self, steps: Generator[int, Any, Any]) -> Generator[int, Any, Any]:
        conversation = self._conversation
        try:
            token = next(steps)
            while True:
                conversation.n_completion += not llama_cpp.llama_vocab_is_eog(self._model.vocab, token)
                place = self.n_tokens
                sent = yield token
                if sent is None and self.draft_model is None:
                    # the stock generator takes what was evaluated in between for proposals, if it begins with the token
                    self.n_tokens = min(self.n_tokens, place)
                token = steps.send(sent)
        except StopIteration:
            return
        finally:
            steps.close()

    def _generate_after_common_prefix(
        self, tokens: Sequence[int], reset: bool, **settings: Any
    ) -> Generator[int, Optional[Sequence[int]], None]:
        """The stock generator, which by itself evaluates a recurrent model's prompt from its first token on, unless it
        goes on exactly where the memory ends."""
        if self._checkpoints is not None:
            reset = self._find_common_prefix(np.asarray(tokens, dtype=np.intc), reset)
        return (yield from super().generate(tokens, reset=reset, **settings))

    def _find_common_prefix(self, prompt: npt.NDArray[np.intc], reset: bool) -> bool:
        """Puts the memory at the end of what `prompt` shares with it, or at a checkpoint before that.

        Returns:
            What the stock generator should be given as `reset`: False if there is nothing that it could reuse.
        """
        memory = self._memory
        memory.expect(prompt, 0 if reset else self.n_tokens, self._is_special)
        if not reset:
            return False
        n_shared = common_prefix(self._input_ids, prompt)
        if n_shared == len(prompt) == self.n_tokens and not self._requires_eval:
            return True  # the stock generator has the logits that it needs
        n_shared = max(0, min(n_shared, len(prompt) - 1))  # the last token's logits are to be made
        if n_shared == self.n_tokens > 0 and memory.ends_at(n_shared):
            return True
        text = prompt[:-1]
        self._hold(text, memory.restore(text, n_shared))
        if self.verbose and self.n_tokens > 0:
            print(f"Llama.generate: {self.n_tokens} tokens restored from a checkpoint", file=sys.stderr)
        return self.n_tokens > 0

    def _is_special(self, token: int) -> bool:
        return llama_cpp.llama_vocab_is_control(self._model.vocab, token)

    def _logits_row(self, i: int) -> npt.NDArray[np.single]:
        """A copy of the logits [n_vocab] of output i of the last forward."""
        return np.ctypeslib.as_array(self._ctx.get_logits_ith(i), shape=(self._n_vocab,)).copy()

    def _create_completion(
        self, prompt: Union[str, List[int]], suffix: Optional[str] = None, max_tokens: Optional[int] = 16, **kwargs: Any
    ) -> Iterator[Any]:
        """The stock completion in a turn of its own; the last round is told to draft no further than max_tokens."""
        self._turns.check_open("create_completion")
        steps = self._create_limited_completion(prompt=prompt, suffix=suffix, max_tokens=max_tokens, **kwargs)
        return self._turns.generation(steps, resumable=False)

    @functools.wraps(llama_cpp.Llama.create_chat_completion)
    def create_chat_completion(self, messages: Sequence[Dict[str, Any]], *args: Any, **kwargs: Any) -> Any:
        self._turns.check_open("create_chat_completion")
        sees_images = hasattr(self.chat_handler, "load_image")
        if self.chat_handler is None or sees_images:  # a handler of the caller's own may want other contents
            messages = plain_messages(messages, keep_media=sees_images)
        answer = super().create_chat_completion(messages, *args, **kwargs)
        if not isinstance(answer, Iterator):
            return answer
        return self._turns.generation((chunk for chunk in answer), resumable=False)  # up to the last chunk

    def _create_limited_completion(self, max_tokens: Optional[int], **kwargs: Any) -> Iterator[Any]:
        self._conversation.max_tokens = max_tokens if max_tokens is not None and max_tokens > 0 else None
        try:
            yield from super()._create_completion(max_tokens=max_tokens, **kwargs)
        finally:
            self._conversation.max_tokens = None

    # ---------------------------------------------------------------- state

    def __getstate__(self) -> Dict[str, Any]:
        ours = {"checkpoint_bytes": self._checkpoint_bytes, "rpc_servers": self._rpc_servers, "rpc_timeout": self._rpc_timeout}
        return {**super().__getstate__(), **ours}

    @_by_itself
    def save_state(self) -> LlamaState:
        """The target's state and, as its attributes, the drafter's (`draft_state`, bytes) and, of a recurrent or hybrid
        target, the checkpoint of the latest turn (`checkpoint`, its place in tokens and its bytes)."""
        if self._checkpoints is not None and self.n_tokens <= self._checkpoints.n_known:
            self._cut_back()  # where n_tokens was set back by hand; whoever loads the state could not
        state = super().save_state()
        if state.llama_state_size == 0:
            raise RuntimeError("llama.cpp could not save the state: out of memory (its log says more; verbose=True shows it)")
        vars(state).update(self._memory.state())
        return state

    @_by_itself
    def load_state(self, state: LlamaState) -> None:
        """Restores a state. One without a drafter's memory, or with another drafter's, will do: the first drafts
        after it are then poor, the text is the same.

        Raises:
            RuntimeError: If the target's part does not fit, for instance because it was saved with another
                flash_attn. All tokens are then forgotten.
        """
        if getattr(state, "of_a_lane", False):
            raise _StateDoesNotFit("the state is of a text that a LlamaBatch wrote")
        if self._memory.is_stock:
            return super().load_state(state)
        try:
            super().load_state(state)
        except RuntimeError as error:
            self.reset()
            self._cut_back()
            raise _StateDoesNotFit(
                f"{error}: it was saved with another model, context size, type_k, type_v or flash_attn "
                "(which is on with a drafter, unless it is given)"
            ) from error
        parts = {name: getattr(state, name) for name in ("draft_state", "checkpoint") if hasattr(state, name)}
        self._memory.load(self._input_ids, **parts)


def _check_is_here(model_path: str) -> None:
    """Raises ValueError for what looks like an id of the Hub; whatever else is missing, the stock class says so."""
    id = None if os.path.exists(model_path) else as_hub_id(model_path)
    if id is not None:
        raise ValueError(
            f"Model path does not exist: {model_path}. If it is meant to be a model on the Hub:"
            f" Llama.from_pretrained({id.repo!r}, {id.file or '*Q4_K_M.gguf'!r}), or `llama-dflash pull {id}` and the path that it prints"
        )


def _learn(engine: Engine, path: str) -> None:
    """Raises ValueError if the file is missing, or not of these drafters."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            engine.learn(file.read())
    except OSError as error:
        raise ValueError(f"draft_model: tuned={path!r} can't be read: {error.strerror or error}") from None
    except RuntimeError as error:
        raise ValueError(f"draft_model: tuned={path!r} is of no use: {error}. save_tuned() writes such files") from None


class _StateDoesNotFit(RuntimeError, KeyError):
    """A KeyError too, so that the stock completion takes a cached state that does not fit for a cache miss."""

    __str__ = RuntimeError.__str__  # KeyError's quotes it


_plain_init = Llama.__init__


def _signature() -> inspect.Signature:
    """The stock constructor's, with our kinds of draft_model and our own parameter."""
    stock = inspect.signature(llama_cpp.Llama.__init__)
    parameters = dict(stock.parameters)
    parameters["draft_model"] = parameters["draft_model"].replace(annotation=Optional[DraftModel])
    *stock_ones, kwargs = parameters.values()
    own = inspect.signature(_plain_init).parameters
    ours = [own[name] for name in ("checkpoint_bytes", "rpc_servers", "rpc_timeout")]
    return stock.replace(parameters=[*stock_ones, *ours, kwargs])


Llama.__init__.__signature__ = _signature()  # type: ignore[attr-defined]  # for help() and for tools that look
