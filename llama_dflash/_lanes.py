"""Several conversations in the sequences of one context, written in rounds of all of them: what tests and benchmarks of the
engine's lanes run. Greedy, and not part of the public interface."""

from __future__ import annotations

from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import llama_cpp
from llama_cpp import _internals as internals

from ._engine import ARGMAX, DONE, Engine
from .drafts import Draft
from .stats import DraftTree

_UNLIMITED = 2**30


class Lanes:
    """A target, drafters and n_lanes conversations.

    Args:
        target: The path of the target's GGUF file.
        drafts: The drafters; none for plain decoding.
        n_lanes: Sequences 0 to n_lanes - 1.
        n_ctx: Tokens of one lane.
        unified: Whether the lanes share one cache (llama.cpp's kv_unified).
        n_batch: Tokens of a prompt, or nodes of all lanes, that are decoded at once.
        kv_type: Of the cache, one of ggml's numbers.
    """

    def __init__(
        self,
        target: str,
        drafts: Sequence[Draft],
        n_lanes: int,
        *,
        n_ctx: int = 512,
        unified: bool = False,
        n_batch: int = 128,
        n_threads: int = 1,
        n_gpu_layers: int = 0,
        kv_type: int = llama_cpp.GGML_TYPE_F16,
    ) -> None:
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = n_gpu_layers
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx * n_lanes, n_lanes, unified
        params.n_batch = params.n_ubatch = n_batch
        params.n_threads = params.n_threads_batch = n_threads
        params.type_k = params.type_v = kv_type
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.model = llama_cpp.llama_model_load_from_file(str(target).encode(), model_params)
        if not self.model:
            raise ValueError(f"llama.cpp could not load {target}")
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        ready = [draft for item in drafts for draft in item.all_ready_for(str(target))]
        self.engine = Engine(self.ctx, ready, n_gpu_layers=n_gpu_layers, n_lanes=n_lanes) if ready else None
        self.sampler = internals.LlamaSampler()
        self.sampler.add_greedy()
        self.texts: Dict[int, List[int]] = {}  # what each lane has written; its last token is not in the memory yet

    def close(self) -> None:
        if self.engine is not None:
            self.engine.close()
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    def n_past(self, lane: int) -> int:
        return llama_cpp.llama_memory_seq_pos_max(self.memory, lane) + 1

    def begin(self, prompts: Mapping[int, Sequence[int]]) -> None:
        """Decodes the prompts of some lanes, which are empty, in one batch, and samples the token after each."""
        rows = self._decode({lane: (0, tokens) for lane, tokens in prompts.items()})
        if self.engine is not None:
            self.engine.observe_batch([(lane, 0, tokens, rows[lane], 0) for lane, tokens in prompts.items()])
        for lane, tokens in prompts.items():
            self.texts[lane] = [self._sample(rows[lane] + len(tokens) - 1)]

    def plain_round(self, lanes: Sequence[int]) -> None:
        """One token of each lane, without drafts."""
        rows = self._decode({lane: (self.n_past(lane), self.texts[lane][-1:]) for lane in lanes})
        for lane in lanes:
            self.texts[lane].append(self._sample(rows[lane]))

    def round(
        self,
        lanes: Sequence[int],
        choose: Callable[[List[int]], int] = min,
        stop_after: Optional[Mapping[int, int]] = None,
    ) -> List[DraftTree]:
        """A round of these lanes.

        Args:
            choose: Which of the lanes that still walk is asked for its next token.
            stop_after: Of some lanes, after how many tokens the walk is settled.
        """
        requests = [(lane, self.texts[lane][-1], self.n_past(lane), _UNLIMITED) for lane in lanes]
        status, trees = self.engine.start_all(requests)
        if status != DONE:
            raise RuntimeError(f"the round of lanes {list(lanes)} ended with {status}")
        walking = dict(zip(lanes, trees))
        left = {lane: (stop_after or {}).get(lane, _UNLIMITED) for lane in lanes}
        while walking:
            lane = choose(list(walking))
            token, goes_on = self.engine.next(self.sampler.sampler, ARGMAX, walking[lane], lane=lane)
            self.texts[lane].append(token)
            left[lane] -= 1
            if goes_on and left[lane] <= 0:
                self.engine.settle(lane=lane)
                goes_on = False
            if not goes_on:
                del walking[lane]
        return trees

    def end(self, lane: int) -> List[int]:
        """Removes the lane's memory. Returns its text."""
        llama_cpp.llama_memory_seq_rm(self.memory, lane, -1, -1)
        if self.engine is not None:
            self.engine.truncate(0, lane=lane)
        return self.texts.pop(lane)

    def _sample(self, row: int) -> int:
        return llama_cpp.llama_sampler_sample(self.sampler.sampler, self.ctx, row)

    def _decode(self, parts: Mapping[int, Tuple[int, Sequence[int]]]) -> Dict[int, int]:
        """Decodes (n_past, tokens) of lanes, and returns the row of each one's first token. Logits are of the last ones."""
        n = sum(len(tokens) for _, tokens in parts.values())
        batch, rows = llama_cpp.llama_batch_init(n, 0, 1), {}
        try:
            for lane, (n_past, tokens) in parts.items():
                rows[lane] = batch.n_tokens
                for k, token in enumerate(tokens):
                    i = batch.n_tokens
                    batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, n_past + k, 1
                    batch.seq_id[i][0], batch.logits[i] = lane, k == len(tokens) - 1
                    batch.n_tokens += 1
            status = llama_cpp.llama_decode(self.ctx, batch)
        finally:
            llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode of lanes {list(parts)} returned {status}")
        return rows
