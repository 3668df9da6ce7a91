"""A target context and the tree functions of the patched libllama, through ctypes."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import llama_dflash  # noqa: F401  makes llama_cpp run over the patched library
import llama_cpp
import numpy as np

_lib = llama_cpp.llama_cpp._lib
_lib.llama_tree_decode.argtypes = [ctypes.c_void_p, llama_cpp.llama_batch, ctypes.POINTER(ctypes.c_int32)]
_lib.llama_tree_commit.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int32), ctypes.c_int32]
_lib.llama_tree_discard.argtypes = [ctypes.c_void_p]
_lib.llama_tree_pending.argtypes = [ctypes.c_void_p]
_lib.llama_tree_pending.restype = ctypes.c_bool
_lib.llama_tree_supported.argtypes = [ctypes.c_void_p]
_lib.llama_tree_supported.restype = ctypes.c_bool
_lib.llama_tree_last_error.restype = ctypes.c_char_p


@llama_cpp.llama_log_callback
def _quiet(level, text, user_data):
    pass


llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))


@dataclass(frozen=True)
class Config:
    arch: str
    flash: bool = False
    kv: int = llama_cpp.GGML_TYPE_F16
    n_ubatch: int = 128
    swa_full: bool = False

    def __str__(self) -> str:
        kv = {llama_cpp.GGML_TYPE_F16: "f16", llama_cpp.GGML_TYPE_Q8_0: "q8_0", llama_cpp.GGML_TYPE_Q4_0: "q4_0"}[self.kv]
        return f"{self.arch}-{'flash' if self.flash else 'noflash'}-{kv}{'-swafull' if self.swa_full else ''}"


class Context:
    """Decodes tokens of sequence 0 one by one or as a tree, and copies its memory."""

    def __init__(self, model_path: Path, config: Config, n_ctx: int = 512):
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(model_path).encode(), params)
        assert self.model, f"{model_path} does not load"
        c = llama_cpp.llama_context_default_params()
        c.n_ctx = n_ctx
        c.n_batch = c.n_ubatch = config.n_ubatch
        c.n_threads = c.n_threads_batch = 1
        c.swa_full = config.swa_full
        c.type_k = config.kv
        c.type_v = config.kv if config.flash else llama_cpp.GGML_TYPE_F16  # a quantised V needs flash attention
        c.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if config.flash else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        self.ctx = llama_cpp.llama_init_from_model(self.model, c)
        assert self.ctx
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def close(self) -> None:
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    def batch(self, tokens, pos=None) -> tuple[llama_cpp.llama_batch, list]:
        """A batch with logits for every token, and the arrays that must outlive it."""
        n = len(tokens)
        keep = [(ctypes.c_int32 * n)(*tokens), (ctypes.c_int8 * n)(*[1] * n)]
        b = llama_cpp.llama_batch(n_tokens=n, token=keep[0], logits=keep[1])
        if pos is not None:
            keep.append((ctypes.c_int32 * n)(*pos))
            b.pos = keep[2]
        return b, keep

    def logits(self, row: int) -> np.ndarray:
        p = llama_cpp.llama_get_logits_ith(self.ctx, row)
        return np.ctypeslib.as_array(p, shape=(self.n_vocab,)).copy()

    def decode(self, tokens) -> np.ndarray:
        """All tokens in one forward. Returns their logits [len(tokens), n_vocab]."""
        b, _keep = self.batch(tokens)
        assert llama_cpp.llama_decode(self.ctx, b) == 0
        return np.stack([self.logits(i) for i in range(len(tokens))])

    def decode_each(self, tokens) -> np.ndarray:
        """One forward a token, as plain decoding does. Returns their logits [len(tokens), n_vocab]."""
        return np.concatenate([self.decode([t]) for t in tokens]) if tokens else np.zeros((0, self.n_vocab))

    def tree_decode(self, tokens, parents, pos=None) -> int:
        b, _keep = self.batch(tokens, pos)
        return _lib.llama_tree_decode(self.ctx, b, (ctypes.c_int32 * len(parents))(*parents))

    def tree_logits(self, tokens, parents) -> np.ndarray:
        assert self.tree_decode(tokens, parents) == 0, self.error()
        return np.stack([self.logits(i) for i in range(len(tokens))])

    def commit(self, path) -> int:
        return _lib.llama_tree_commit(self.ctx, (ctypes.c_int32 * len(path))(*path), len(path))

    def discard(self) -> int:
        return _lib.llama_tree_discard(self.ctx)

    def pending(self) -> bool:
        return _lib.llama_tree_pending(self.ctx)

    def error(self) -> str:
        return _lib.llama_tree_last_error().decode()

    def n_past(self) -> int:
        return llama_cpp.llama_memory_seq_pos_max(self.memory, 0) + 1

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self.memory, True)

    def save(self) -> bytes:
        """The memory of sequence 0, without logits."""
        size = llama_cpp.llama_state_seq_get_size(self.ctx, 0)
        buffer = (ctypes.c_uint8 * size)()
        assert llama_cpp.llama_state_seq_get_data(self.ctx, buffer, size, 0) == size
        return bytes(buffer)

    def load(self, state: bytes) -> None:
        self.clear()
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        assert llama_cpp.llama_state_seq_set_data(self.ctx, buffer, len(state), 0) == len(state)
