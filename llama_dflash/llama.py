"""`Llama`: llama_cpp.Llama that speculates with draft trees when `draft_model` names a DFlash drafter.

What differs from the stock class is one loop: `_speculate`. The prompt is evaluated and the first token sampled by
the stock `generate`; from then on every round asks the engine (native/engine) for a draft tree, its verification in
one forward of the target, and the accepted path. Rounds: DFlash (arXiv 2602.06036) drafts, DDTree (arXiv 2604.12989)
trees, both verified as in SpecInfer (arXiv 2305.09781).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any, Callable, Dict, Generator, Iterator, List, Optional, Sequence, Union

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import LlamaState, LogitsProcessorList, StoppingCriteriaList
from llama_cpp.llama_speculative import LlamaDraftModel

from . import json_schemas
from ._engine import ABANDON, DONE, NO_ROOM, Engine
from .checkpoints import Checkpoints, branching_places, common_prefix
from .draft import DFlashDraft
from .grammars import check_grammar, raise_grammar_error
from .messages import plain_messages
from .stats import DraftTree, SpeculativeStats
from .turns import Turns, in_turn

json_schemas.install()

DraftModel = Union[str, "os.PathLike[str]", DFlashDraft, LlamaDraftModel]

_UNLIMITED = 2**31 - 1
CHECKPOINT_BYTES = 512 << 20  # the default: three checkpoints of a 27B hybrid, or a few hundred of a small one


@dataclass
class _Step:
    """Tokens sampled at once, from after position n_past on, of which the caller sees one at a time."""

    n_past: int
    evaluated: List[int]  # evaluated[i] is the token that sampled[i] was sampled after, at position n_past + i
    sampled: List[int]
    logits: Optional[List[npt.NDArray[np.single]]]  # [n_vocab] each, where somebody wants to see them


@dataclass(frozen=True)
class _Request:
    """What every step of a generation needs to know."""

    settings: Dict[str, Any]  # of the sampler
    greedy: bool  # the sampler is a plain argmax
    follows: bool  # logits processors look at _input_ids
    wants_logits: bool  # somebody looks at the logits of every token


class Llama(llama_cpp.Llama):
    """`llama_cpp.Llama` with lossless speculative decoding: one more kind of `draft_model`, the rest unchanged.

    Examples:
        >>> from llama_dflash import Llama
        >>> llm = Llama("target.gguf", draft_model="drafter.gguf")
        >>> llm.create_completion("def fibonacci(n):", max_tokens=128)
        >>> print(llm.speculative_stats)
    """

    _engine: Optional[Engine] = None
    _checkpoints: Optional[Checkpoints] = None  # of a target whose memory can't be cut back: recurrent, at least in part
    _step: Optional[_Step] = None  # the tokens that a generation is handing out; None once anything else happened
    _max_tokens: Optional[int] = None  # what the next generation's caller will take
    _processor_error: Optional[BaseException] = None
    _n_prompt: int = 0  # tokens of the current or last generation
    _n_completion: int = 0
    _round_seconds: float = 0.0  # of all rounds of a generation
    _last_tree: Optional[DraftTree] = None

    def __init__(
        self,
        model_path: str,
        *,
        draft_model: Optional[DraftModel] = None,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        **kwargs: Any,
    ) -> None:
        """Loads a target and, if `draft_model` names one, its drafter.

        Args:
            model_path: Path to the target, as for llama_cpp.Llama.
            draft_model: A DFlash drafter made for this target: the path of its GGUF file or of its published checkpoint
                (safetensors, converted once into a cache), or a `DFlashDraft` with settings. Or any LlamaDraftModel of
                llama-cpp-python, which works as there. Or None.
            checkpoint_bytes: For recurrent and hybrid targets: the most host memory that checkpoints of the recurrent
                states may take, so that a chat's next turn evaluates what is new only. 0 for none.
            **kwargs: Every other argument of llama_cpp.Llama, with the same meaning. With a drafter flash_attn is on
                unless it is given: a forward over a tree then rounds as plain decoding does (docs/exactness.md).

        Raises:
            ValueError: If a model's file is missing or damaged, the drafter was not made for this target, or
                checkpoint_bytes is no number of bytes.
        """
        self._turns = Turns()
        self._stack = contextlib.ExitStack()  # for close(), if what follows raises
        if isinstance(draft_model, (str, os.PathLike)):
            draft_model = DFlashDraft(draft_model)  # type: ignore[arg-type]
        if draft_model is not None and not isinstance(draft_model, DFlashDraft) and not callable(draft_model):
            raise ValueError(
                f"draft_model is a {type(draft_model).__name__}, expected the path of a DFlash drafter, a DFlashDraft, "
                "a LlamaDraftModel of llama-cpp-python, or None"
            )
        if isinstance(checkpoint_bytes, bool) or not isinstance(checkpoint_bytes, int) or checkpoint_bytes < 0:
            raise ValueError(f"checkpoint_bytes is {checkpoint_bytes!r}, expected a number of bytes, 0 or more")
        self._checkpoint_bytes = checkpoint_bytes
        if not isinstance(draft_model, DFlashDraft):
            super().__init__(model_path, draft_model=draft_model, **kwargs)
            self._keep_checkpoints()
            return

        gguf_draft = draft_model.converted_for(model_path)
        gguf_draft.check_file()
        if kwargs.get("flash_attn") is None:
            kwargs["flash_attn"] = True  # its kernels give a token the same logits alone and in a batch, or nearly so
        super().__init__(model_path, **kwargs)  # without draft_model, which would keep all logits
        self.draft_model = draft_model
        self._keep_checkpoints()
        if not self.model_params.vocab_only:
            try:
                self._load_drafter(gguf_draft)
            except BaseException:
                self.close()
                raise

    def _load_drafter(self, draft: DFlashDraft) -> None:
        self._engine = Engine(self.ctx, draft, n_gpu_layers=self.model_params.n_gpu_layers)
        self._stack.enter_context(contextlib.closing(self._engine))  # closed before the target's context
        if not self._engine.uses_trees and (self._is_hybrid or self._is_recurrent):
            raise ValueError(
                f"draft_model: {self.model_path} is a recurrent or hybrid model. Its memory can't be cut back to the "
                "accepted tokens of a draft, and its recurrent layers can't compute draft trees: only Gated DeltaNet "
                "layers (Qwen3.5, Qwen3-Next) can. Use draft_model=None with it"
            )
        if draft.mode == "tree" and not self._engine.uses_trees:
            warnings.warn(
                f"The memory of {self.model_path} can't hold draft trees: chains are verified instead.",
                RuntimeWarning,
                stacklevel=3,
            )

    def _keep_checkpoints(self) -> None:
        if (self._is_recurrent or self._is_hybrid) and self._ctx.memory is not None:
            self._checkpoints = Checkpoints(self._ctx, self._checkpoint_bytes, whole=self._is_recurrent)
            self._stack.callback(self._checkpoints.clear)

    def close(self) -> None:
        """Frees the model, once no other thread is in the middle of using it."""
        with self._turns.turn(last=True):
            super().close()

    # ---------------------------------------------------------------- what happened

    @property
    def checkpoints(self) -> Dict[int, int]:
        """The places, in tokens, of the text in memory to which a recurrent or hybrid target can go back, and the bytes
        that each takes."""
        return {} if self._checkpoints is None else self._checkpoints.by_place()

    @property
    def speculative_stats(self) -> Optional[SpeculativeStats]:
        """Numbers of the current or last generation; None without a DFlash drafter."""
        return None if self._engine is None or self._engine.closed else self._engine.stats(self._round_seconds)

    def _start_stats(self) -> None:
        self._engine.reset_stats()
        self._round_seconds = 0.0
        self._last_tree = None

    @property
    def usage(self) -> Dict[str, int]:
        """Tokens of the prompt and of the text of the current or last generation: what the `usage` of an answer says, for
        streams, which have none."""
        n_prompt, n_completion = self._n_prompt, self._n_completion
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_completion,
            "total_tokens": n_prompt + n_completion,
        }

    @property
    def last_tree(self) -> Optional[DraftTree]:
        """The draft tree of the last round; None before the first one."""
        return self._last_tree

    # ---------------------------------------------------------------- evaluating

    @in_turn
    def eval(self, tokens: Sequence[int]) -> None:
        """Evaluates tokens after the first n_tokens ones.

        Args:
            tokens: Token ids.

        Raises:
            RuntimeError: If the context is full.
        """
        if self._engine is None and self._checkpoints is None:
            return super().eval(tokens)
        self._step = None
        self._cut_back(self.n_tokens)
        if self._checkpoints is not None and self._engine is None and self.draft_model is not None and len(tokens) > 1:
            self._checkpoints.before_draft(self._input_ids)
        n_end = self.n_tokens + len(tokens)
        for batch in self._batches(tokens):
            n_past = self.n_tokens
            super().eval(batch)
            if self._engine is not None:
                self._engine.observe(n_past, len(batch), n_end - self.n_tokens)
            if self._checkpoints is not None:
                self._checkpoints.evaluated(self._input_ids, n_past, len(tokens))

    def _batches(self, tokens: Sequence[int]) -> Iterator[Sequence[int]]:
        """What to evaluate at once: n_batch tokens at most, and none beyond a place where a checkpoint is to be made."""
        start = 0
        while start < len(tokens):
            until_place = 0 if self._checkpoints is None else self._checkpoints.until_place(self.n_tokens)
            end = start + min(until_place or self.n_batch, self.n_batch)
            yield tokens[start:end]
            start = end

    def _cut_back(self, n_past: int) -> None:
        """Removes what target, drafter and checkpoints know beyond the first n_past tokens."""
        if not self._ctx.kv_cache_seq_rm(-1, n_past, -1) and self._checkpoints is not None:
            self._go_back(self._input_ids[:n_past].copy())
        if self._checkpoints is not None:
            self._checkpoints.truncate(n_past)
        if self._engine is not None:
            self._engine.truncate(n_past)

    def _go_back(self, text: npt.NDArray[np.intc]) -> None:
        """For a memory that can't be cut back: makes it hold `text`, with which it begins, and nothing after that."""
        if len(text) > self._checkpoints.n_known:
            raise RuntimeError(
                f"the memory of this recurrent or hybrid model can't be cut back to {len(text)} tokens, as some of them were "
                "not evaluated by eval(), an image's perhaps: reset() and evaluate the text again"
            )
        self._restore(text, len(text))
        self.eval(text[self.n_tokens :].tolist())

    def _restore(self, text: npt.NDArray[np.intc], n_past: int) -> None:
        """Puts the memory at the last checkpoint in `text`, n_past tokens of which are in memory; or empties it."""
        n_restored = self._checkpoints.restore(text, n_past)
        if n_restored == 0:
            self._ctx.kv_cache_clear()
            self._checkpoints.truncate(0)
        self.input_ids[:n_restored] = text[:n_restored]
        self.n_tokens = n_restored
        self._requires_eval = True

    @in_turn
    def sample(self, *args: Any, **kwargs: Any) -> int:
        """Samples a token as llama_cpp.Llama.sample does.

        Raises:
            Exception: What a logits processor raised. (The stock class prints it and goes on.)
        """
        if self._engine is not None and self._requires_eval and self.n_tokens > 0:
            # the last forward was over a draft tree, or a state was loaded: nobody has the last token's logits
            self.n_tokens -= 1
            self.eval(self.input_ids[self.n_tokens : self.n_tokens + 1].tolist())
        token = super().sample(*args, **kwargs)
        self._raise_processor_error()
        return token

    embed = in_turn(llama_cpp.Llama.embed)

    @in_turn
    def reset(self) -> None:
        """Forgets all tokens."""
        self._step = None
        super().reset()
        if self._checkpoints is not None:
            self._checkpoints.clear()

    # ---------------------------------------------------------------- the sampler

    def _init_sampler(self, *args: Any, logits_processor: Optional[LogitsProcessorList] = None, **kwargs: Any):
        """The stock sampler, with processors whose exceptions do not get lost in C, and with grammars that were checked."""
        self._processor_error = None
        check_grammar(kwargs.get("grammar"), self._model.vocab)
        if logits_processor is not None:
            logits_processor = LogitsProcessorList([self._kept_error(p) for p in logits_processor])
        return super()._init_sampler(*args, logits_processor=logits_processor, **kwargs)

    def _kept_error(self, processor: Callable) -> Callable:
        def process(input_ids: npt.NDArray[np.intc], scores: npt.NDArray[np.single]) -> npt.NDArray[np.single]:
            if self._processor_error is None:
                try:
                    return np.broadcast_to(np.asarray(processor(input_ids, scores), dtype=np.single), scores.shape)
                except BaseException as error:  # KeyboardInterrupt too: C would swallow it
                    self._processor_error = error
            return scores

        return process

    def _raise_processor_error(self) -> None:
        error, self._processor_error = self._processor_error, None
        if error is not None:
            raise error
        raise_grammar_error()

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

        With a drafter, the target's memory may be ahead of the token that was just yielded. n_tokens and
        input_ids never are: they show the tokens before it.

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
        if self._engine is None and self._checkpoints is None:
            steps = super().generate(tokens, reset=reset, stopping_criteria=stopping_criteria, **settings)
        elif self._engine is None:
            steps = self._generate_after_common_prefix(tokens, reset, stopping_criteria=stopping_criteria, **settings)
        else:
            request = _Request(
                settings,
                greedy=self._is_argmax(settings),
                follows=logits_processor is not None,
                wants_logits=stopping_criteria is not None or self._logits_all,
            )
            steps = self._speculate(tokens, reset, stopping_criteria, request)
        return self._turns.generation(self._counted(len(tokens), steps))

    def _counted(self, n_prompt: int, steps: Generator[int, Any, Any]) -> Generator[int, Any, Any]:
        self._n_prompt, self._n_completion = n_prompt, 0
        try:
            token = next(steps)
            while True:
                self._n_completion += not llama_cpp.llama_vocab_is_eog(self._model.vocab, token)
                token = steps.send((yield token))
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
        n_before = 0 if reset else self.n_tokens
        self._checkpoints.places = [n_before + place for place in branching_places(prompt, self._is_special)]
        if not reset:
            return False
        n_shared = common_prefix(self._input_ids, prompt)
        if n_shared == len(prompt) == self.n_tokens and not self._requires_eval:
            return True  # the stock generator has the logits that it needs
        n_shared = max(0, min(n_shared, len(prompt) - 1))  # the last token's logits are to be made
        if n_shared == self.n_tokens > 0 and self._ctx.kv_cache_seq_rm(-1, n_shared, -1):
            return True
        self._restore(prompt[:-1], n_shared)
        if self.verbose and self.n_tokens > 0:
            print(f"Llama.generate: {self.n_tokens} tokens restored from a checkpoint", file=sys.stderr)
        return self.n_tokens > 0

    def _is_special(self, token: int) -> bool:
        return llama_cpp.llama_vocab_is_control(self._model.vocab, token)

    def _speculate(
        self, tokens: Sequence[int], reset: bool, stops: Optional[StoppingCriteriaList], request: _Request
    ) -> Generator[int, Optional[Sequence[int]], None]:
        n_left, self._max_tokens = self._max_tokens or _UNLIMITED, None
        self._start_stats()
        step = None
        try:
            step = self._first_step(tokens, reset, request)
            while True:
                for i, token in enumerate(step.sampled):
                    self._show(step, i)
                    if stops is not None and stops(self._input_ids, step.logits[i]):
                        return
                    n_left -= 1
                    yield token
                    if not self._shows(step, i):
                        break
                step = self._round(token, n_left, request)
        finally:
            if self._step is step:  # another thread's generation may have one by now
                self._step = None
            if self.verbose and not self._engine.closed:
                print(f"Llama.generate: {self.speculative_stats}", file=sys.stderr)

    def _first_step(self, tokens: Sequence[int], reset: bool, request: _Request) -> _Step:
        """Evaluates what is new in the prompt and samples one token: the stock generator up to its first yield."""
        stock = self._generate_after_common_prefix(tokens, reset, **request.settings)
        sampled = next(stock)
        stock.close()
        return self._one_token(tokens[-1] if len(tokens) else self.input_ids[self.n_tokens - 1], sampled, request)

    def _plain_step(self, root: int, request: _Request) -> _Step:
        """Evaluates `root` and samples the next token, without a draft."""
        self.eval([root])
        return self._one_token(root, self.sample(), request)

    def _one_token(self, evaluated: int, sampled: int, request: _Request) -> _Step:
        n_past = self.n_tokens - 1
        logits = [self._logits_row(-1)] if request.wants_logits else None
        self._step = _Step(n_past, [evaluated], [sampled], logits)
        return self._step

    def _round(self, root: int, n_max: int, request: _Request) -> _Step:
        """Drafts after `root`, verifies, keeps the accepted path: at most n_max tokens, at least one."""
        started = time.perf_counter()
        n_past = self.n_tokens
        room = (len(self.scores) if self._logits_all else self._n_ctx) - n_past
        self._cut_back(n_past)
        if self._checkpoints is not None:
            self._checkpoints.evaluated(self._input_ids, n_past)
        self._requires_eval = True  # the forward leaves the logits of nodes
        status, tree = NO_ROOM, None
        try:
            if room > 0:
                status, tree = self._engine.round(
                    self._sampler.sampler,
                    root,
                    n_past,
                    greedy=request.greedy,
                    n_max=max(1, min(n_max, room)),
                    on_token=self._follow(root) if request.follows else None,
                )
        finally:
            self.n_tokens = n_past
            self._raise_processor_error()
        if status == NO_ROOM:
            return self._plain_step(root, request)  # raises what the stock class raises
        if status != DONE:
            raise RuntimeError("the forward over a draft tree was aborted")

        if self._checkpoints is not None:
            self._checkpoints.grown(n_past, n_past + len(tree.path))
        logits = [self._logits_row(node) for node in tree.path] if request.wants_logits else None
        self._last_tree = tree
        self._step = _Step(n_past, [root, *tree.sampled[:-1]], tree.sampled, logits)
        self._round_seconds += time.perf_counter() - started
        return self._step

    def _follow(self, root: int) -> Callable[[int], int]:
        """Shows logits processors, which look at _input_ids, the true prefix of every node they are called for."""

        def append(token: int) -> None:
            self.input_ids[self.n_tokens : self.n_tokens + 1] = token  # may be shorter than the context, as in stock
            self.n_tokens += 1

        def on_token(token: int) -> int:
            try:
                append(token)
            except BaseException as error:  # KeyboardInterrupt: C would swallow it
                self._processor_error = self._processor_error or error
            return 0 if self._processor_error is None else ABANDON

        append(root)
        return on_token

    def _show(self, step: _Step, i: int) -> None:
        """The state in which the stock class yields step.sampled[i]: every token before it is evaluated, none after."""
        pos = step.n_past + i
        self.input_ids[pos : pos + 1] = step.evaluated[i]
        if self._logits_all:
            self.scores[pos, :] = step.logits[i]
        self.n_tokens = pos + 1

    def _shows(self, step: _Step, i: int) -> bool:
        """False if the caller has used this object for something else since _show(step, i)."""
        return self._step is step and self.n_tokens == step.n_past + i + 1

    def _logits_row(self, i: int) -> npt.NDArray[np.single]:
        """A copy of the logits [n_vocab] of output i of the last forward."""
        return np.ctypeslib.as_array(self._ctx.get_logits_ith(i), shape=(self._n_vocab,)).copy()

    def _is_argmax(self, settings: Dict[str, Any]) -> bool:
        """True if the sampler of these settings takes the largest logit, so that the engine may do so itself."""
        unpenalised = (
            settings["repeat_penalty"] == 1.0
            and settings["frequency_penalty"] == 0.0
            and settings["presence_penalty"] == 0.0
        )
        return (
            settings["temp"] == 0.0
            and unpenalised
            and settings["logits_processor"] is None
            and settings["grammar"] is None
        )

    def _create_completion(
        self, prompt: Union[str, List[int]], suffix: Optional[str] = None, max_tokens: Optional[int] = 16, **kwargs: Any
    ) -> Iterator[Any]:
        """The stock completion in a turn of its own; the last round is told to draft no further than max_tokens."""
        steps = self._create_limited_completion(prompt=prompt, suffix=suffix, max_tokens=max_tokens, **kwargs)
        return self._turns.generation(steps, resumable=False)

    @functools.wraps(llama_cpp.Llama.create_chat_completion)
    def create_chat_completion(self, messages: Sequence[Dict[str, Any]], *args: Any, **kwargs: Any) -> Any:
        sees_images = hasattr(self.chat_handler, "load_image")
        if self.chat_handler is None or sees_images:  # a handler of the caller's own may want other contents
            messages = plain_messages(messages, keep_media=sees_images)
        answer = super().create_chat_completion(messages, *args, **kwargs)
        if not isinstance(answer, Iterator):
            return answer
        return self._turns.generation((chunk for chunk in answer), resumable=False)  # up to the last chunk

    def _create_limited_completion(self, max_tokens: Optional[int], **kwargs: Any) -> Iterator[Any]:
        self._max_tokens = max_tokens if max_tokens is not None and max_tokens > 0 else None
        try:
            yield from super()._create_completion(max_tokens=max_tokens, **kwargs)
        finally:
            self._max_tokens = None

    # ---------------------------------------------------------------- state

    def __getstate__(self) -> Dict[str, Any]:
        return {**super().__getstate__(), "checkpoint_bytes": self._checkpoint_bytes}

    @in_turn
    def save_state(self) -> LlamaState:
        """The target's state and, as its attributes, the drafter's (`draft_state`, bytes) and, of a recurrent or hybrid
        target, the checkpoint of the latest turn (`checkpoint`, its place in tokens and its bytes)."""
        if self._checkpoints is not None and self.n_tokens <= self._checkpoints.n_known:
            self._cut_back(self.n_tokens)  # whoever loads the state could not
        state = super().save_state()
        if self._engine is not None:
            state.draft_state = self._engine.get_state()
        latest = None if self._checkpoints is None else self._checkpoints.latest_turn()
        if latest is not None:
            state.checkpoint = latest.n_tokens, latest.states.copy()
        return state

    @in_turn
    def load_state(self, state: LlamaState) -> None:
        """Restores a state. One without a drafter's memory, or with another drafter's, will do: the first drafts
        after it are then poor, the text is the same.

        Raises:
            RuntimeError: If the target's part does not fit, for instance because it was saved with another
                flash_attn. All tokens are then forgotten.
        """
        self._step = None
        if self._engine is None and self._checkpoints is None:
            return super().load_state(state)
        try:
            super().load_state(state)
        except RuntimeError as error:
            self.reset()
            self._cut_back(0)
            raise _StateDoesNotFit(
                f"{error}: it was saved with another model, context size, type_k, type_v or flash_attn "
                "(which is on with a drafter, unless it is given)"
            ) from error
        if self._checkpoints is not None:
            self._checkpoints.follow(self._input_ids)
            n_tokens, states = getattr(state, "checkpoint", (0, None))
            if 0 < n_tokens <= self.n_tokens:
                self._checkpoints.insert(self.input_ids[:n_tokens], states)
        if self._engine is not None:
            try:
                self._engine.set_state(getattr(state, "draft_state", b""))
            except RuntimeError:
                self._engine.truncate(0)


class _StateDoesNotFit(RuntimeError, KeyError):
    """A KeyError too, so that the stock completion takes a cached state that does not fit for a cache miss."""

    __str__ = RuntimeError.__str__  # KeyError's quotes it


def _signature() -> inspect.Signature:
    """The stock constructor's, with our kinds of draft_model and our own parameter."""
    stock = inspect.signature(llama_cpp.Llama.__init__)
    parameters = dict(stock.parameters)
    parameters["draft_model"] = parameters["draft_model"].replace(annotation=Optional[DraftModel])
    *stock_ones, kwargs = parameters.values()
    ours = inspect.Parameter("checkpoint_bytes", inspect.Parameter.KEYWORD_ONLY, default=CHECKPOINT_BYTES, annotation=int)
    return stock.replace(parameters=[*stock_ones, ours, kwargs])


Llama.__init__.__signature__ = _signature()  # type: ignore[attr-defined]  # for help() and for tools that look
