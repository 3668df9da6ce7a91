"""The stock sampler, with errors that reach the caller, and what the engine has to know of it."""

from __future__ import annotations

import inspect
from typing import Any, Callable, Mapping, Optional

import llama_cpp
import numpy as np
import numpy.typing as npt
from llama_cpp import LogitsProcessorList
from llama_cpp import _internals as internals

from . import _engine
from ._engine import ARGMAX, TOP_K, WHOLE_ROW
from .grammars import check_grammar, raise_grammar_error


class Sampler(internals.LlamaSampler):
    """The stock sampler; one that fails raises RuntimeError. (A C++ exception would end the process.)"""

    choice: int = WHOLE_ROW  # what it has to see of a row of logits

    def sample(self, ctx: internals.LlamaContext, idx: int = -1) -> int:
        return _engine.sample(self.sampler, ctx.ctx, idx)


MOST_KEPT = 100  # by a top-k: of the 128 entries that the engine fetches some must be left where penalties move others down


def choice_of(settings: Mapping[str, Any], has_processors: bool) -> int:
    """How much of a row of logits the stock sampler of these settings has to see: what it need not see stays on the GPU.

    Args:
        settings: Arguments of Llama._init_sampler; those left out are its defaults.

    Returns:
        ARGMAX if it takes the largest logit; TOP_K if it is a chain that begins with a top-k and nothing before this raises a
        logit; else WHOLE_ROW.
    """
    repeat = settings.get("repeat_penalty", 1.0)
    frequency, presence = settings.get("frequency_penalty", 0.0), settings.get("presence_penalty", 0.0)
    temperature = settings.get("temp", 0.8)
    if has_processors:
        return WHOLE_ROW
    if temperature == 0.0:
        plain = (repeat, frequency, presence) == (1.0, 0.0, 0.0) and settings.get("grammar") is None
        return ARGMAX if plain else WHOLE_ROW
    keeps_best = temperature > 0.0 and settings.get("mirostat_mode", 0) == 0 and 0 < settings.get("top_k", 40) <= MOST_KEPT
    only_lowers = repeat >= 1.0 and frequency >= 0.0 and presence >= 0.0
    return TOP_K if keeps_best and only_lowers else WHOLE_ROW


class Processors:
    """The logits processors of one model at work: C calls them, and would swallow what they raise.

    Attributes:
        running: One of them is running.
    """

    def __init__(self) -> None:
        self.running = False
        self._error: Optional[BaseException] = None

    def wrapped(self, processors: Optional[LogitsProcessorList]) -> Optional[LogitsProcessorList]:
        """The same processors; after the first error the scores pass unchanged, until `raise_error`."""
        self._error = None
        return None if processors is None else LogitsProcessorList([self._kept_error(p) for p in processors])

    def raise_error(self) -> None:
        """Raises what a processor or a grammar raised since the last call."""
        error, self._error = self._error, None
        if error is not None:
            raise error
        raise_grammar_error()

    def _kept_error(self, processor: Callable) -> Callable:
        def process(input_ids: npt.NDArray[np.intc], scores: npt.NDArray[np.single]) -> npt.NDArray[np.single]:
            if self._error is None:
                self.running = True
                try:
                    return np.broadcast_to(np.asarray(processor(input_ids, scores), dtype=np.single), scores.shape)
                except BaseException as error:  # KeyboardInterrupt too: C would swallow it
                    self._error = error
                finally:
                    self.running = False
            return scores

        return process


_stock_sampler = llama_cpp.Llama._init_sampler


def make_sampler(text: Any, processors: Processors, *args: Any, logits_processor: Optional[LogitsProcessorList] = None, **kwargs: Any) -> Sampler:
    """The stock sampler, with processors whose exceptions do not get lost in C and grammars that were checked. It says how
    much of a row of logits it has to see.

    Args:
        text: What the stock class's `_init_sampler` looks at of a Llama: `_model`, `_n_vocab`, `_seed`, `last_n_tokens_size` and,
            for logits processors, `_input_ids`.
        processors: At work for this text.
        args, kwargs: Those of `_init_sampler`.

    Raises:
        GrammarError: If the grammar is wrong.
    """
    settings = inspect.signature(_stock_sampler).bind(text, *args, **kwargs).arguments
    check_grammar(settings.get("grammar"), text._model.vocab)
    wrapped = processors.wrapped(logits_processor)
    sampler = _stock_sampler(text, *args, logits_processor=wrapped, **kwargs)
    sampler.__class__, sampler.choice = Sampler, choice_of(settings, wrapped is not None)
    return sampler
