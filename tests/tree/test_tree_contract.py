"""What the tree functions refuse, and that a refusal changes nothing."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import llama_dflash  # noqa: F401  before llama_cpp
import llama_cpp
import pytest

from context import Config, Context, _lib
from models import write_target

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    c = Context(write_target(tmp_path_factory.mktemp("target") / "llama.gguf"), Config("llama", n_ubatch=32, n_seq=3))
    yield c
    c.close()


@pytest.fixture
def ready(context):
    for seq in range(3):
        if context.pending(seq):
            context.discard(seq)
    context.clear()
    context.decode_each([1, 2, 3])
    return context


BAD_PARENTS = {
    "a root with a parent": ([5, 6], [0, 0], "the first node of sequence 0 is its root"),
    "a parent after its child": ([5, 6, 7], [-1, 2, 0], "comes after its parent"),
    "two roots": ([5, 6], [-1, -1], "sequence 0 has a root already"),
    "its own parent": ([5, 6], [-1, 1], "comes after its parent"),
    "more nodes than n_ubatch": ([5] * 33, [-1] + [0] * 32, "n_ubatch = 32"),
}


@pytest.mark.parametrize("tokens, parents, sentence", BAD_PARENTS.values(), ids=BAD_PARENTS)
def test_bad_parents_are_refused_with_a_reason(ready, tokens, parents, sentence):
    state = ready.save()
    assert ready.tree_decode(tokens, parents) == -1
    assert sentence in ready.error()
    assert not ready.pending() and ready.save() == state


def test_a_token_outside_the_vocabulary_is_refused(ready):
    state = ready.save()
    assert ready.tree_decode([5, 100000], [-1, 0]) < 0
    assert not ready.pending() and ready.save() == state


BAD_SEQUENCES = {
    "a parent of another sequence": ([0, 1, 1], [-1, -1, 0], "node 2 is of sequence 1, its parent 0 of sequence 0"),
    "a sequence that is not there": ([0, 3], [-1, -1], "node 1 is of sequence 3, expected 0 to n_seq_max - 1 = 2"),
    "a first node that is no root": ([0, 2], [-1, 0], "the first node of sequence 2 is its root"),
    "two roots of the second": ([0, 1, 0, 1], [-1, -1, 0, -1], "sequence 1 has a root already"),
}


@pytest.mark.parametrize("seq, parents, sentence", BAD_SEQUENCES.values(), ids=BAD_SEQUENCES)
def test_bad_forests_are_refused_with_a_reason(ready, seq, parents, sentence):
    state = ready.save()
    assert ready.tree_decode([5] * len(seq), parents, seq=seq) == -1
    assert sentence in ready.error()
    assert not ready.pending() and ready.save() == state


def test_wrong_positions_are_refused(ready):
    assert ready.tree_decode([5, 6], [-1, 0], pos=[3, 5]) == -1
    assert "expected n_past + depth = 3 + 1" in ready.error()
    assert ready.tree_decode([5, 6], [-1, 0], pos=[3, 4]) == 0


def test_bad_paths_are_refused_and_the_tree_stays_pending(ready):
    assert ready.tree_decode([5, 6, 7, 8], [-1, 0, 0, 1]) == 0
    for path in ([1], [0, 3], [0, 1, 2], [0, 1, 3, 3], [0, 9], []):
        assert ready.commit(path) == -1
        assert ready.pending()
    assert ready.commit([0, 1, 3]) == 0
    assert ready.n_past() == 6


def test_commit_and_discard_need_a_pending_tree(ready):
    assert ready.commit([0]) == -1 and "no tree is pending" in ready.error()
    assert ready.discard() == -1 and "no tree is pending" in ready.error()


def test_while_pending_every_other_call_fails_and_harms_nothing(ready, tmp_path):
    state = ready.save()
    assert ready.tree_decode([5, 6], [-1, 0]) == 0
    c, m, lib = ready.ctx, ready.memory, llama_cpp
    batch, _keep = ready.batch([9])
    buffer = (ctypes.c_uint8 * (1 << 20))()
    out, n_out = (ctypes.c_int32 * 8)(), ctypes.c_size_t(0)
    name = str(tmp_path / "state").encode()

    assert lib.llama_decode(c, batch) < 0
    assert lib.llama_encode(c, batch) < 0
    assert ready.tree_decode([5], [-1]) == -1
    assert lib.llama_memory_seq_rm(m, 0, 0, -1) is False
    assert lib.llama_memory_seq_pos_max(m, 0) == -1
    assert lib.llama_memory_seq_pos_min(m, 0) == -1
    lib.llama_memory_clear(m, True)
    lib.llama_memory_seq_cp(m, 0, 0, 0, -1)
    lib.llama_memory_seq_keep(m, 1)
    lib.llama_memory_seq_add(m, 0, 0, -1, 4)
    lib.llama_memory_seq_div(m, 0, 0, -1, 2)
    assert lib.llama_state_get_size(c) == 0
    assert lib.llama_state_get_data(c, buffer, len(buffer)) == 0
    assert lib.llama_state_set_data(c, buffer, len(buffer)) == 0
    assert lib.llama_state_seq_get_size(c, 0) == 0
    assert lib.llama_state_seq_get_data(c, buffer, len(buffer), 0) == 0
    assert lib.llama_state_seq_set_data(c, buffer, len(buffer), 0) == 0
    assert not lib.llama_state_save_file(c, name, out, 0)
    assert not lib.llama_state_load_file(c, name, out, 8, ctypes.byref(n_out))
    assert lib.llama_state_seq_save_file(c, name, 0, out, 0) == 0
    assert lib.llama_state_seq_load_file(c, name, 0, out, 8, ctypes.byref(n_out)) == 0
    assert "a draft tree of 2 nodes is pending" in ready.error()

    assert ready.pending() and ready.discard() == 0
    assert ready.save() == state


def test_support_is_told_by_the_model(ready):
    assert _lib.llama_tree_supported(ready.ctx)


def changes_by_file() -> dict[str, list[str]]:
    """Lines that the patches add to or remove from every file of llama.cpp."""
    changed: dict[str, list[str]] = {}
    for patch in (ROOT / "patches").glob("*.patch"):
        for line in patch.read_text().splitlines():
            if named := re.match(r"\+\+\+ b/(\S+)", line):
                lines = changed.setdefault(named[1], [])
            elif re.match(r"[+-](?!--)", line) and line[1:].strip():
                lines.append(line)
    return changed


def test_no_patch_touches_a_public_header_but_for_the_numbers_of_new_ops():
    changed = changes_by_file()
    assert len(changed) > 10
    public = {file: lines for file, lines in changed.items() if file.startswith(("include/", "ggml/include/"))}
    assert public.keys() == {"ggml/include/ggml.h", "ggml/include/ggml-rpc.h"}
    assert all(re.match(r"\+\s+GGML_OP_[A-Z_]+,$", line) for line in public["ggml/include/ggml.h"])
    assert all("RPC_PROTO_PATCH_VERSION" in line for line in public["ggml/include/ggml-rpc.h"])


def test_every_function_that_the_stock_bindings_know_is_exported():
    missing = [
        name
        for name, value in vars(llama_cpp.llama_cpp).items()
        if name.startswith("llama_") and isinstance(value, ctypes._CFuncPtr) and not hasattr(_lib, name)
    ]
    assert missing == []
    bound = [v for n, v in vars(llama_cpp.llama_cpp).items() if n.startswith("llama_") and isinstance(v, ctypes._CFuncPtr)]
    assert len(bound) > 150
