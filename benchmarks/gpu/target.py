"""A context of the target alone, without a drafter: plain decoding, ordinary batches, and verification of trees."""

from __future__ import annotations

import ctypes
import sys
import time
from dataclasses import dataclass

import llama_dflash  # noqa: F401  makes llama_cpp run over the patched library
import llama_cpp
import numpy as np

MOST_NODES = 64
DEEPEST = 15  # of a tree: a block of 16 less its first token

KV_TYPES = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0, "q4_0": llama_cpp.GGML_TYPE_Q4_0}

_lib = llama_cpp.llama_cpp._lib
_lib.llama_tree_decode.argtypes = [ctypes.c_void_p, llama_cpp.llama_batch, ctypes.POINTER(ctypes.c_int32)]
_lib.llama_tree_commit.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.POINTER(ctypes.c_int32), ctypes.c_int32]
_lib.llama_tree_discard.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_lib.llama_tree_reserve.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]
_lib.llama_tree_set_top.argtypes = [ctypes.c_void_p, ctypes.c_int32]
_lib.llama_tree_last_error.restype = ctypes.c_char_p


INFO = 2  # of ggml's log levels


@llama_cpp.llama_log_callback
def _log_above_debug(level: int, text: bytes, _user_data: object) -> None:
    if INFO <= level <= INFO + 2:
        print(text.decode(errors="replace"), end="", file=sys.stderr)


def log_above_debug() -> None:
    """What llama.cpp says goes to stderr, but for what only helps to debug it."""
    llama_cpp.llama_log_set(_log_above_debug, ctypes.c_void_p(0))


@dataclass(frozen=True)
class Settings:
    """Of a target's context, and the layers of its model on the GPU."""

    n_ctx: int
    kv: str = "f16"
    n_ubatch: int = 512
    n_threads: int = 8
    n_gpu_layers: int = -1


def random_tokens(rng: np.random.Generator, n: int, n_vocab: int) -> list[int]:
    """Ordinary tokens: no single bytes, no special ones at the end."""
    return rng.integers(256, n_vocab - 32, n).tolist()


def random_tree(rng: np.random.Generator, n: int) -> list[int]:
    """Parents of n nodes, as a drafter that is often right would shape them: some deep branches, many short ones."""
    parents, depth = [-1], [0]
    while len(parents) < n:
        parent = len(parents) - 1 if rng.random() < 0.5 else int(rng.integers(0, len(parents)))
        if depth[parent] < DEEPEST:
            parents.append(parent)
            depth.append(depth[parent] + 1)
    return parents


class Target:
    def __init__(self, model: llama_cpp.llama_model_p, settings: Settings) -> None:
        self._params = _context_params(settings)
        self.ctx = llama_cpp.llama_init_from_model(model, self._params)
        if not self.ctx:
            raise MemoryError(f"no context of {settings.n_ctx} tokens of {settings.kv}: the log says what was missing")
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._memory = llama_cpp.llama_get_memory(self.ctx)
        self._rng = np.random.default_rng(1)
        if _lib.llama_tree_reserve(self.ctx, MOST_NODES, DEEPEST) != 0:
            raise MemoryError(_lib.llama_tree_last_error().decode())

    def close(self) -> None:
        llama_cpp.llama_free(self.ctx)

    def n_past(self) -> int:
        return llama_cpp.llama_memory_seq_pos_max(self._memory, 0) + 1

    def fill(self, n: int) -> float:
        """Evaluates n random tokens as a prompt, in an empty memory. Returns the seconds it took."""
        tokens = random_tokens(self._rng, n, self.n_vocab)
        n_batch = llama_cpp.llama_n_batch(self.ctx)
        self._decode(tokens[:n_batch], all_outputs=False)  # kernels are loaded, buffers grown
        llama_cpp.llama_memory_clear(self._memory, False)
        started = time.perf_counter()
        for i in range(0, n, n_batch):
            self._decode(tokens[i : i + n_batch], all_outputs=False)
        llama_cpp.llama_synchronize(self.ctx)
        return time.perf_counter() - started

    def batch(self, n: int, all_outputs: bool) -> float:
        """Seconds of llama_decode over n tokens, which stay in memory. all_outputs: the logits of all, or of the last."""
        tokens = random_tokens(self._rng, n, self.n_vocab)
        started = time.perf_counter()
        self._decode(tokens, all_outputs)
        llama_cpp.llama_synchronize(self.ctx)
        return time.perf_counter() - started

    def verify(self, n: int) -> float:
        """Seconds of llama_tree_decode over a random tree of n nodes, another one every time; it is then discarded."""
        seconds = self._decode_tree(random_tree(self._rng, n))
        if _lib.llama_tree_discard(self.ctx, 0) != 0:
            raise RuntimeError(_lib.llama_tree_last_error().decode())
        return seconds

    def commit(self, n: int, n_path: int) -> float:
        """Seconds of keeping n_path of the n nodes of a tree, until the GPU is done with it."""
        parents = [i - 1 for i in range(n_path)]
        parents += [int(self._rng.integers(0, n_path)) for _ in range(n - n_path)]
        self._decode_tree(parents)
        path = (ctypes.c_int32 * n_path)(*range(n_path))
        started = time.perf_counter()
        status = _lib.llama_tree_commit(self.ctx, 0, path, n_path)
        llama_cpp.llama_synchronize(self.ctx)
        if status != 0:
            raise RuntimeError(_lib.llama_tree_last_error().decode())
        return time.perf_counter() - started

    def _decode_tree(self, parents: list[int]) -> float:
        n = len(parents)
        batch, _keep = _batch(random_tokens(self._rng, n, self.n_vocab), all_outputs=True)
        array = (ctypes.c_int32 * n)(*parents)
        started = time.perf_counter()
        status = _lib.llama_tree_decode(self.ctx, batch, array)
        llama_cpp.llama_synchronize(self.ctx)
        if status != 0:
            raise RuntimeError(f"a tree of {n} nodes: {status}, {_lib.llama_tree_last_error().decode()}")
        return time.perf_counter() - started

    def set_top(self, n_top: int) -> None:
        """How many of a row's best entries come to the host; 0 for whole rows."""
        _lib.llama_tree_set_top(self.ctx, n_top)

    def load(self, state: np.ndarray) -> None:
        llama_cpp.llama_memory_clear(self._memory, False)
        data = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if llama_cpp.llama_state_seq_set_data(self.ctx, data, len(state), 0) != len(state):
            raise RuntimeError("the state of the sequence could not be restored")

    def _decode(self, tokens: list[int], all_outputs: bool) -> None:
        batch, _keep = _batch(tokens, all_outputs)
        status = llama_cpp.llama_decode(self.ctx, batch)
        if status != 0:
            raise RuntimeError(f"llama_decode of {len(tokens)} tokens after {self.n_past()} failed with {status}")


def saved_state(ctx: llama_cpp.llama_context_p) -> np.ndarray:
    """The memory of sequence 0, as bytes."""
    state = np.empty(llama_cpp.llama_state_seq_get_size(ctx, 0), dtype=np.uint8)
    data = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    if llama_cpp.llama_state_seq_get_data(ctx, data, len(state), 0) != len(state):
        raise RuntimeError("the state of the sequence could not be saved")
    return state


def _context_params(settings: Settings) -> llama_cpp.llama_context_params:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = settings.n_ctx
    params.n_batch = params.n_ubatch = settings.n_ubatch
    params.n_threads = params.n_threads_batch = settings.n_threads
    params.type_k = params.type_v = KV_TYPES[settings.kv]
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    return params


def _batch(tokens: list[int], all_outputs: bool) -> tuple[llama_cpp.llama_batch, list]:
    """A batch of sequence 0, and the arrays that must outlive it."""
    n = len(tokens)
    outputs = [1] * n if all_outputs else [0] * (n - 1) + [1]
    keep = [(ctypes.c_int32 * n)(*tokens), (ctypes.c_int8 * n)(*outputs)]
    return llama_cpp.llama_batch(n_tokens=n, token=keep[0], logits=keep[1]), keep
