"""Which lane a request gets, and what of its prompt is found in memory: in that lane, in another one, or in a cache."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from llama_cpp import LlamaState, llama_cache

from ..checkpoints import NEAR, TEMPLATE_TOKENS, Tokens, common_prefix
from .lane import Lane
from .request import Request

_MOST_OTHERS = 64  # waiting requests that are looked at for a common beginning


class Places:
    """All lanes, and the cache that texts go to when their lane is needed for another.

    Attributes:
        cache: A cache of llama-cpp-python's kind (`set_cache`); None without one.
        copying: Lanes were copied since the last decode, which is what really copies them: until then no state may be written into
            a lane, which may be one that is copied.
    """

    def __init__(self, lanes: Sequence[Lane], is_special: Callable[[int], bool]) -> None:
        self.lanes = list(lanes)
        self.cache: Optional[llama_cache.BaseLlamaCache] = None
        self.copying = False
        self._is_special = is_special

    @property
    def free(self) -> List[Lane]:
        return [lane for lane in self.lanes if lane.request is None]

    def place(self, request: Request, others: Iterable[Request]) -> Optional[Lane]:
        """Gives a request a lane that holds as much of its beginning as can be had.

        Args:
            request: The one.
            others: That wait: where they part from this one a hybrid's memory gets a checkpoint.

        Returns:
            None if there is no lane; if another lane is about to evaluate what the request begins with; or if its text is in the
            cache, and a decode has to come first. What the lane holds is to be decoded on at once (`Lane.copy_of`).
        """
        free = self.free
        if not free:
            return None
        wanted = request.to_evaluate
        begins = wanted[: request.n_reusable]
        usable = {lane: lane.usable(begins) for lane in self.lanes}
        source = max(self.lanes, key=lambda lane: (usable[lane], lane.request is None))
        key, n_cached = self._find(begins)
        is_cached = n_cached >= usable[source] + NEAR
        if self._is_about_to_be_there(begins, max(usable[source], n_cached)) or (is_cached and self.copying):
            return None
        lane = next((lane for lane in free if self._goes_on(lane, begins)), None)
        if lane is None:
            lane = min(free, key=lambda lane: (lane.n_tokens > 0, lane.used_at))  # an empty one, or the one that was left first
        try:
            state = self._taken_out(key, n_cached) if is_cached else None
            self._fill(lane, source, begins, usable, state)
        except BaseException:
            lane.clear()  # what it holds is unknown
            raise
        self._expect(lane, wanted, others)
        lane.take(request)
        return lane

    def _is_about_to_be_there(self, begins: Tokens, n_usable: int) -> bool:
        for lane in self.lanes:
            if lane.request is not None and not lane.ready:
                n_shared = common_prefix(lane.request.to_evaluate, begins)
                if n_shared >= n_usable + NEAR and lane.n_tokens < n_shared:
                    return True
        return False

    @staticmethod
    def _goes_on(lane: Lane, begins: Tokens) -> bool:
        """The lane's conversation goes on: what is new comes after the prompt before, up to what a chat template writes otherwise.
        (Conversations that have no more than a system prompt in common are two.)"""
        n_least = max(lane.n_prompt - TEMPLATE_TOKENS, lane.n_prompt // 2 + 1)
        return lane.n_tokens > 0 and common_prefix(lane.text, begins) >= n_least

    def _fill(self, lane: Lane, source: Lane, begins: Tokens, usable: Dict[Lane, int], state: Optional[LlamaState]) -> None:
        """Lets `lane` hold as much of `begins` as can be had: from the cache's state, if there is one, or from a lane."""
        if not self._goes_on(lane, begins):
            self._keep_elsewhere(lane)
        if state is not None and lane.load(state):
            return lane.keep(begins)
        if lane is not source and usable[source] >= usable[lane] + NEAR:
            self.copying = True
            lane.copy_of(source, begins)
        elif usable[lane] == 0:
            lane.clear()
        else:
            lane.keep(begins)

    def _expect(self, lane: Lane, wanted: Tokens, others: Iterable[Request]) -> None:
        """The rest of `wanted` is evaluated next: tells where checkpoints are of use."""
        lane.memory.expect(wanted, 0, self._is_special)
        checkpoints = lane.memory.checkpoints
        if checkpoints is None:
            return
        parts = {common_prefix(wanted, other.to_evaluate) for other, _ in zip(others, range(_MOST_OTHERS))}
        turn = checkpoints.places[-1]
        checkpoints.places = sorted({*checkpoints.places, *(place for place in parts if NEAR <= place < turn)})

    # ---------------------------------------------------------------- the cache

    def _find(self, begins: Tokens) -> Tuple[Any, int]:
        """The key of the cached text that begins most like this, and how many tokens they share."""
        if self.cache is None:
            return None, 0
        with _warnings_of_cache():
            key = self.cache._find_longest_prefix_key(tuple(begins.tolist()))
            if key is not None:
                return key, common_prefix(np.asarray(key, dtype=np.intc), begins)
        return None, 0

    def _taken_out(self, key: Any, n_shared: int) -> Optional[LlamaState]:
        """The state of a cached text, if it is a lane's."""
        with _warnings_of_cache():
            state = self.cache[key]
            if n_shared < len(key) - TEMPLATE_TOKENS:
                self.cache[key] = state  # of another conversation, which may come back: a LlamaDiskCache forgets what it gives
            if getattr(state, "of_a_lane", False):
                return state
        return None

    def _keep_elsewhere(self, lane: Lane) -> None:
        """The lane is needed for another text: what it holds goes to the cache."""
        if self.cache is not None and lane.n_tokens >= NEAR:
            with _warnings_of_cache():
                self.cache[tuple(lane.text.tolist())] = lane.state()


@contextlib.contextmanager
def _warnings_of_cache() -> Iterator[None]:
    """A cache that fails (a full disk) costs time, never a request."""
    try:
        yield
    except KeyError:  # a miss
        pass
    except Exception as error:
        warnings.warn(f"the cache given to set_cache() failed: {type(error).__name__}: {error}", RuntimeWarning, stacklevel=3)
