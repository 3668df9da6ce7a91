"""Targets of many architectures: what a drafter reads of their layers, and trees in their memories."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import llama_dflash  # noqa: F401  before llama_cpp
import llama_cpp
import numpy as np
import pytest

from architectures import (
    INDEXED,
    N_LAYER,
    RECURRENT,
    WINDOW,
    WITH_LAYER_INPUTS,
    WITH_TREES,
    WITHOUT_LAYER_INPUTS,
    write_architecture,
)
from context import Config, Context, _lib
from models import HYBRIDS
from trees import leaves, path_to

TOKENS = [(7 * i * i + 3 * i) % 300 for i in range(3 * WINDOW)]
BUSH = [-1, 0, 0, 1, 1, 2, 3, 3, 6, 8, 8]  # parents
NODES = [20, 33, 47, 51, 20, 33, 98, 7, 61, 20, 33]
PATH = [0, 1, 3, 6, 8, 10]


class Tensor(ctypes.Structure):
    """struct ggml_tensor"""


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * 10),
    ("view_src", ctypes.POINTER(Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]

_base = llama_cpp.llama_cpp._lib  # llama.cpp's own: it knows ggml's too
_base.ggml_op_name.argtypes, _base.ggml_op_name.restype = [ctypes.c_int], ctypes.c_char_p


def op(tensor) -> str:
    return _base.ggml_op_name(tensor.contents.op).decode()


def sources(tensor) -> list:
    return [s for s in tensor.contents.src if s]


def before_norm(tensor):
    """What `tensor` is the norm of: scaled by a weight, moved by a bias, of some rows, or none of these. Itself if it is
    no norm."""
    below = tensor
    while op(below) in ("MUL", "ADD", "GET_ROWS", "RESHAPE"):
        first, *others = sources(below)
        if op(below) in ("MUL", "ADD") and not others[0].contents.name.endswith((b".weight", b".bias")):
            break
        below = first
    return sources(below)[0] if op(below) in ("NORM", "RMS_NORM") else tensor


class Stream:
    """The hidden states that a graph's layers start from: found by what a layer's first product with one of its weights,
    and what the output head, is computed from, not by any name that a graph gives to the output of a layer."""

    def __init__(self):
        self.values: dict[int, np.ndarray] = {}
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self.look)
        self._computed: dict[int, np.ndarray] = {}  # by address; a later tensor may take an earlier one's memory

    def look(self, address: int, ask: bool, _) -> bool:
        tensor = ctypes.cast(address, ctypes.POINTER(Tensor))
        if not ask:
            if _is_plain_matrix(tensor):
                self._computed[address] = _read(tensor)
            layer = self.layer_of(tensor)
            if layer is not None and layer not in self.values:
                stream = before_norm(sources(tensor)[1])
                self.values[layer] = self._computed.get(ctypes.addressof(stream.contents))
        return True

    @staticmethod
    def layer_of(tensor) -> int | None:
        if op(tensor) != "MUL_MAT":
            return None
        weight = sources(tensor)[0].contents.name.decode()
        if weight in ("output.weight", "token_embd.weight"):
            return N_LAYER
        for kind in ("attn_q", "attn_qkv", "attn_q_a", "ssm_in", "shortconv.in_proj", "ffn_up"):
            for layer in range(N_LAYER):
                if weight == f"blk.{layer}.{kind}.weight":
                    return layer
        return None


def _is_plain_matrix(tensor) -> bool:
    t = tensor.contents
    return t.type == 0 and list(t.ne[2:]) == [1, 1] and t.nb[1] == 4 * t.ne[0] and t.data is not None


def _read(tensor) -> np.ndarray:
    t = tensor.contents
    values = ctypes.cast(t.data, ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(values, shape=(t.ne[1], t.ne[0])).copy()


@pytest.fixture(scope="module")
def path_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("architectures")

    def get(name: str) -> Path:
        path = folder / f"{name}.gguf"
        return path if path.exists() else write_architecture(path, name)

    return get


@contextlib.contextmanager
def opened(path: Path, **settings):
    context = Context(path, Config(path.stem, True, **settings.pop("config", {})), **settings)
    try:
        yield context
    finally:
        context.close()


def readable(context: Context) -> list[int]:
    return [layer for layer in range(N_LAYER + 1) if context.has_layer_input(layer)]


@pytest.mark.parametrize("name", WITH_LAYER_INPUTS)
def test_layer_inputs_are_the_hidden_states_between_layers(path_of, name):
    stream = Stream()
    with opened(path_of(name), on_tensor=stream.callback) as plain:
        plain.decode(TOKENS)
    with opened(path_of(name)) as context:
        layers = readable(context)
        assert set(range(1, N_LAYER + 1)) <= set(layers)
        context.want_layer_inputs(layers)
        context.decode(TOKENS)
        for layer in layers:
            if layer in stream.values:  # one layer of deci has no queries
                assert np.array_equal(context.layer_input(layer, len(TOKENS)), stream.values[layer]), layer
    assert len(stream.values) >= N_LAYER


@pytest.mark.parametrize("name", WITH_LAYER_INPUTS)
def test_the_last_layers_output_has_every_token_though_few_have_logits(path_of, name):
    """Graphs compute the last layer for tokens with logits only: reading its output changes that, and no logits."""
    with opened(path_of(name)) as context:
        plain_logits = decode_with_few_logits(context)
        context.clear()
        context.want_layer_inputs([1, N_LAYER])
        logits = decode_with_few_logits(context)
        assert np.array_equal(logits, plain_logits)
        few = context.layer_input(N_LAYER, len(TOKENS))
        context.clear()
        context.decode(TOKENS)
        assert np.abs(few - context.layer_input(N_LAYER, len(TOKENS))).max() < 1e-4


def decode_with_few_logits(context: Context) -> np.ndarray:
    wanted = [5, 17, len(TOKENS) - 1]
    batch, keep = context.batch(TOKENS)
    keep[1][:] = [i in wanted for i in range(len(TOKENS))]
    assert llama_cpp.llama_decode(context.ctx, batch) == 0
    return np.stack([context.logits(i) for i in wanted])


@pytest.mark.parametrize("name", WITH_TREES)
def test_nodes_of_a_tree_have_logits_and_layer_inputs_of_plain_decoding(path_of, name):
    with opened(path_of(name)) as tree, opened(path_of(name)) as plain:
        for context in (tree, plain):
            context.want_layer_inputs([2, N_LAYER])
            context.decode_each(TOKENS)  # beyond a window
        state = plain.save()
        logits = tree.tree_logits(NODES, BUSH)
        inputs = {layer: tree.layer_input(layer, len(NODES)) for layer in (2, N_LAYER)}
        for leaf in leaves(BUSH):
            plain.load(state)
            for node in path_to(leaf, BUSH):
                close(logits[node], plain.decode([NODES[node]])[0])
                for layer in inputs:
                    close(inputs[layer][node], plain.layer_input(layer, 1)[0])
        plain.load(state)
        plain.decode_each([NODES[i] for i in PATH])
        assert tree.commit(PATH) == 0
        more = TOKENS[: WINDOW + 2]
        for a, b in zip(tree.decode_each(more), plain.decode_each(more)):
            close(a, b)


def close(a: np.ndarray, b: np.ndarray) -> None:
    """Up to the rounding of batches (under 2e-3 of the largest number with an f16 cache); another node is off by far more."""
    assert np.isfinite(a).all() and np.abs(a - b).max() <= 4e-3 * max(1.0, np.abs(b).max())


@pytest.mark.parametrize("name", WITHOUT_LAYER_INPUTS)
def test_what_is_no_hidden_state_between_layers_is_not_handed_out(path_of, name):
    with opened(path_of(name)) as context:
        assert readable(context) == []
        assert _lib.llama_tree_supported(context.ctx)  # its memory is as any other's
        context.decode(TOKENS)  # asking has changed nothing


@pytest.mark.parametrize("name", RECURRENT)
def test_other_recurrent_layers_than_delta_nets_compute_no_trees(path_of, name):
    with opened(path_of(name)) as context:
        context.decode(TOKENS)
        state = context.save()
        assert not _lib.llama_tree_supported(context.ctx)
        assert context.tree_decode(NODES, BUSH) == -1
        assert "only Gated DeltaNet layers can" in context.error()
        assert context.save() == state


@pytest.mark.parametrize("name", INDEXED)
def test_an_index_beside_the_cache_leaves_no_room_for_trees(path_of, name):
    with opened(path_of(name)) as context:
        assert not _lib.llama_tree_supported(context.ctx)
        assert context.tree_decode(NODES, BUSH) == -1
        assert "its memory is no KV cache with or without a sliding window" in context.error()


@pytest.mark.parametrize("name", HYBRIDS)
def test_snapshots_leave_no_room_for_trees(path_of, name):
    with opened(path_of(name), config=dict(n_rs_seq=4)) as context:
        assert _lib.llama_tree_supported(context.ctx) == (llama_cpp.llama_n_rs_seq(context.ctx) == 0)


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen35"])
def test_a_cache_per_sequence_holds_trees(path_of, name):
    with opened(path_of(name), config=dict(unified=False, n_seq=2)) as context:
        assert _lib.llama_tree_supported(context.ctx)
        assert context.tree_decode(NODES, BUSH) == 0 and context.commit(PATH) == 0


def test_layers_are_not_asked_about_while_a_tree_is_pending(path_of):
    with opened(path_of("llama")) as context:
        context.tree_logits(NODES, BUSH)
        assert not context.has_layer_input(1) and "pending" in context.error()
        assert context.commit(PATH) == 0 and context.has_layer_input(1)


@pytest.mark.parametrize("layer", [-1, N_LAYER + 1, 10**6])
def test_layers_that_there_are_not_have_no_inputs(path_of, layer):
    with opened(path_of("llama")) as context:
        assert not context.has_layer_input(layer)
