"""The stock sampler, with errors that reach the caller, and what the engine has to know of it."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional

import numpy as np
import numpy.typing as npt
from llama_cpp import LogitsProcessorList
from llama_cpp import _internals as internals

from . import _engine
from .grammars import raise_grammar_error


class Sampler(internals.LlamaSampler):
    """The stock sampler; one that fails raises RuntimeError. (A C++ exception would end the process.)"""

    is_argmax: bool = False  # the engine may take the largest logit itself

    def sample(self, ctx: internals.LlamaContext, idx: int = -1) -> int:
        return _engine.sample(self.sampler, ctx.ctx, idx)


def is_argmax(settings: Dict[str, Any]) -> bool:
    """True if a sampler of these settings, and without logits processors, takes the largest logit."""
    unpenalised = (
        settings.get("repeat_penalty", 1.0) == 1.0
        and settings.get("frequency_penalty", 0.0) == 0.0
        and settings.get("presence_penalty", 0.0) == 0.0
    )
    return settings.get("temp", 0.8) == 0.0 and unpenalised and settings.get("grammar") is None


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
