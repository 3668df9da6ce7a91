"""A drafter's forward as llama.cpp's own driver does it (common/speculative.cpp, draft-dflash): the drafter in a context of
its own, with its head in the graph. What the engine drafts is compared with it."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from llama_dflash import _library

import llama_cpp

# of llama-ext.h, which has C++ names
_SET_NEXTN = "_Z26llama_set_embeddings_nextnP13llama_contextbb"
_GET_NEXTN = "_Z26llama_get_embeddings_nextnP13llama_context"
_GET_LAYER = "_Z30llama_get_embeddings_layer_inpP13llama_contextj"


def _function(name: str, restype, *argtypes):
    function = getattr(_library.open_library("llama"), name)
    function.restype, function.argtypes = restype, argtypes
    return function


def features(llm, n_tokens: int, layers: tuple[int, ...]) -> np.ndarray:
    """The inputs of the target's layers at the tokens of its last decode, which all were in one batch."""
    get = _function(_GET_LAYER, ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_uint32)
    shape = n_tokens, llm.n_embd()
    return np.hstack([np.ctypeslib.as_array(get(llm.ctx, layer), shape).copy() for layer in layers])


class UpstreamBlock:
    """The logits [n_tokens, n_vocab] and the rows of `nextn` [n_tokens, n_embd] of a block [root, mask, mask, ...]."""

    def __init__(self, llm, drafter: Path, of_prompt: np.ndarray, root: int, mask: int, n_tokens: int, *, causal=False):
        self.model = llama_cpp.llama_model_load_from_file(bytes(drafter), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = 1
        params.ctx_other = llm.ctx
        self.ctx = llama_cpp.llama_init_from_model(self.model, params)
        try:
            _function(_SET_NEXTN, None, ctypes.c_void_p, ctypes.c_bool, ctypes.c_bool)(self.ctx, True, False)
            llama_cpp.llama_set_causal_attn(self.ctx, causal)
            self._decode(range(len(of_prompt)), embd=of_prompt)
            self._decode(range(len(of_prompt), len(of_prompt) + n_tokens), tokens=[root] + [mask] * (n_tokens - 1))
            self.logits = self._rows(llama_cpp.llama_get_logits(self.ctx), n_tokens, llm._n_vocab)
            nextn = _function(_GET_NEXTN, ctypes.POINTER(ctypes.c_float), ctypes.c_void_p)(self.ctx)
            self.nextn = self._rows(nextn, n_tokens, llm.n_embd())
        finally:
            llama_cpp.llama_free(self.ctx)
            llama_cpp.llama_model_free(self.model)

    def _decode(self, positions: range, embd: np.ndarray | None = None, tokens: list[int] | None = None) -> None:
        n = len(positions)
        batch = llama_cpp.llama_batch()
        batch.n_tokens = n
        pos = (ctypes.c_int32 * n)(*positions)
        batch.pos = pos
        outputs = (ctypes.c_int8 * n)(*([tokens is not None] * n))
        batch.logits = outputs
        if embd is not None:
            values = np.ascontiguousarray(embd, dtype=np.float32)
            batch.embd = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        else:
            ids = (ctypes.c_int32 * n)(*tokens)
            batch.token = ids
        assert llama_cpp.llama_decode(self.ctx, batch) == 0

    @staticmethod
    def _rows(pointer, n_rows: int, n_columns: int) -> np.ndarray:
        return np.ctypeslib.as_array(pointer, (n_rows, n_columns)).copy()
