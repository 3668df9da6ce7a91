"""A target context and the tree functions of the patched libllama, through ctypes."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import llama_dflash  # noqa: F401  makes llama_cpp run over the patched library
import llama_cpp
import numpy as np

_lib = llama_cpp.llama_cpp._lib
_lib.llama_tree_decode.argtypes = [ctypes.c_void_p, llama_cpp.llama_batch, ctypes.POINTER(ctypes.c_int32)]
_lib.llama_tree_commit.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_int32), ctypes.c_int32]
_lib.llama_tree_discard.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_lib.llama_tree_pending.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_lib.llama_tree_pending.restype = ctypes.c_bool
_lib.llama_tree_reserve.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]
_lib.llama_tree_supported.argtypes = [ctypes.c_void_p]
_lib.llama_tree_supported.restype = ctypes.c_bool
_lib.llama_tree_last_error.restype = ctypes.c_char_p
_lib.llama_tree_has_layer_inp.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_lib.llama_tree_has_layer_inp.restype = ctypes.c_bool
# of llama-ext.h, which is C++: void (llama_context *, uint32_t, bool) and float * (llama_context *, uint32_t)
_set_layer_inp = _lib["_Z30llama_set_embeddings_layer_inpP13llama_contextjb"]
_set_layer_inp.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_bool]
_get_layer_inp = _lib["_Z30llama_get_embeddings_layer_inpP13llama_contextj"]
_get_layer_inp.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
_get_layer_inp.restype = ctypes.POINTER(ctypes.c_float)


@llama_cpp.llama_log_callback
def _quiet(level, text, user_data):
    pass


llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """What llama.cpp logs meanwhile."""
    lines: list[str] = []
    keep = llama_cpp.llama_log_callback(lambda level, text, user_data: lines.append(text.decode()))
    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    try:
        yield lines
    finally:
        llama_cpp.llama_log_set(_quiet, ctypes.c_void_p(0))


@dataclass(frozen=True)
class Config:
    arch: str
    flash: bool = False
    kv: int = llama_cpp.GGML_TYPE_F16
    n_ubatch: int = 128
    swa_full: bool = False
    n_seq: int = 1
    n_rs_seq: int = 0
    unified: bool = True
    n_gpu_layers: int = 0

    def __str__(self) -> str:
        kv = {llama_cpp.GGML_TYPE_F16: "f16", llama_cpp.GGML_TYPE_Q8_0: "q8_0", llama_cpp.GGML_TYPE_Q4_0: "q4_0"}[self.kv]
        return f"{self.arch}-{'flash' if self.flash else 'noflash'}-{kv}{'-swafull' if self.swa_full else ''}{'-gpu' if self.n_gpu_layers else ''}"


class Context:
    """Decodes tokens of one sequence or of several one by one or as trees, and copies its memory."""

    def __init__(self, model_path: Path, config: Config, n_ctx: int = 512, on_tensor=None):
        """on_tensor: a ggml_backend_sched_eval_callback that sees every tensor of a graph."""
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = config.n_gpu_layers
        self.model = llama_cpp.llama_model_load_from_file(str(model_path).encode(), params)
        assert self.model, f"{model_path} does not load"
        c = llama_cpp.llama_context_default_params()
        c.n_ctx = n_ctx
        c.n_batch = c.n_ubatch = config.n_ubatch
        c.n_threads = c.n_threads_batch = 1
        c.n_seq_max = config.n_seq
        c.n_rs_seq = config.n_rs_seq
        c.kv_unified = config.unified
        c.swa_full = config.swa_full
        c.type_k = config.kv
        c.type_v = config.kv if config.flash else llama_cpp.GGML_TYPE_F16  # a quantised V needs flash attention
        c.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if config.flash else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        if on_tensor is not None:
            c.cb_eval = on_tensor
        self.ctx = llama_cpp.llama_init_from_model(self.model, c)
        assert self.ctx
        self.memory = llama_cpp.llama_get_memory(self.ctx)
        self.n_embd = llama_cpp.llama_model_n_embd(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def close(self) -> None:
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    def batch(self, tokens, pos=None, seq: int | list[int] = 0) -> tuple[llama_cpp.llama_batch, list]:
        """A batch with logits for every token, and the arrays that must outlive it. seq: of all tokens, or of each."""
        n = len(tokens)
        keep = [(ctypes.c_int32 * n)(*tokens), (ctypes.c_int8 * n)(*[1] * n)]
        b = llama_cpp.llama_batch(n_tokens=n, token=keep[0], logits=keep[1])
        if pos is not None:
            keep.append((ctypes.c_int32 * n)(*pos))
            b.pos = keep[-1]
        if seq != 0:
            ids = [(ctypes.c_int32 * 1)(s) for s in (seq if isinstance(seq, list) else [seq] * n)]
            keep += [(ctypes.c_int32 * n)(*[1] * n), (ctypes.POINTER(ctypes.c_int32) * n)(*ids), ids]
            b.n_seq_id, b.seq_id = keep[-3], keep[-2]
        return b, keep

    def logits(self, row: int) -> np.ndarray:
        p = llama_cpp.llama_get_logits_ith(self.ctx, row)
        return np.ctypeslib.as_array(p, shape=(self.n_vocab,)).copy()

    def decode(self, tokens, seq: int = 0) -> np.ndarray:
        """All tokens in one forward. Returns their logits [len(tokens), n_vocab]."""
        b, _keep = self.batch(tokens, seq=seq)
        assert llama_cpp.llama_decode(self.ctx, b) == 0
        return np.stack([self.logits(i) for i in range(len(tokens))])

    def decode_each(self, tokens, seq: int = 0) -> np.ndarray:
        """One forward a token, as plain decoding does. Returns their logits [len(tokens), n_vocab]."""
        return np.concatenate([self.decode([t], seq) for t in tokens]) if tokens else np.zeros((0, self.n_vocab))

    def has_layer_input(self, layer: int) -> bool:
        return _lib.llama_tree_has_layer_inp(self.ctx, layer)

    def want_layer_inputs(self, layers) -> None:
        for layer in layers:
            assert self.has_layer_input(layer), f"the input of layer {layer} can't be had"
            _set_layer_inp(self.ctx, layer, True)

    def layer_input(self, layer: int, n_tokens: int) -> np.ndarray:
        """Of the last decode's tokens: [n_tokens, n_embd]."""
        p = _get_layer_inp(self.ctx, layer)
        return np.ctypeslib.as_array(p, shape=(n_tokens, self.n_embd)).copy()

    def tree_reserve(self, n_nodes: int, depth: int) -> int:
        return _lib.llama_tree_reserve(self.ctx, n_nodes, depth)

    def tree_decode(self, tokens, parents, pos=None, seq: int | list[int] = 0) -> int:
        b, _keep = self.batch(tokens, pos, seq)
        return _lib.llama_tree_decode(self.ctx, b, (ctypes.c_int32 * len(parents))(*parents))

    def tree_logits(self, tokens, parents, seq: int | list[int] = 0) -> np.ndarray:
        assert self.tree_decode(tokens, parents, seq=seq) == 0, self.error()
        return np.stack([self.logits(i) for i in range(len(tokens))])

    def commit(self, path, seq: int = 0) -> int:
        return _lib.llama_tree_commit(self.ctx, seq, (ctypes.c_int32 * len(path))(*path), len(path))

    def discard(self, seq: int = 0) -> int:
        return _lib.llama_tree_discard(self.ctx, seq)

    def pending(self, seq: int = -1) -> bool:
        """Of a sequence, or of any."""
        return _lib.llama_tree_pending(self.ctx, seq)

    def error(self) -> str:
        return _lib.llama_tree_last_error().decode()

    def n_past(self, seq: int = 0) -> int:
        return llama_cpp.llama_memory_seq_pos_max(self.memory, seq) + 1

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self.memory, True)

    def save(self, seq: int = 0) -> bytes:
        """The memory of a sequence, without logits."""
        size = llama_cpp.llama_state_seq_get_size(self.ctx, seq)
        buffer = (ctypes.c_uint8 * size)()
        assert llama_cpp.llama_state_seq_get_data(self.ctx, buffer, size, seq) == size
        return bytes(buffer)

    def load(self, state: bytes, seq: int = 0) -> None:
        """In place of all sequences."""
        self.clear()
        self.put(state, seq)

    def put(self, state: bytes, seq: int) -> None:
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        assert llama_cpp.llama_state_seq_set_data(self.ctx, buffer, len(state), seq) == len(state)
