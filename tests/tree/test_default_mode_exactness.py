"""On a CPU, in the default mode and with flash attention: verifying a tree gives the very bits of plain decoding.

Products of a few rows come from one kernel for any number of rows (vendor/ggml-tree-ops/cpu/rows), attention is added up in
parts that do not depend on the number of queries or threads (attention-parts-cpu.cpp). The prompt is longer than a part.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_dflash  # noqa: F401  before llama_cpp
import llama_cpp
import numpy as np
import pytest

from context import Config, Context, logged
from models import write_hybrid, write_target
from trees import path_to

FTYPES = ["ALL_F32", "MOSTLY_F16", "MOSTLY_BF16", "MOSTLY_Q8_0", "MOSTLY_Q4_0", "MOSTLY_Q4_1", "MOSTLY_Q5_0", "MOSTLY_Q5_1", "MOSTLY_IQ4_NL",
          "MOSTLY_Q4_K_M", "MOSTLY_Q5_K_M", "MOSTLY_Q6_K", "MOSTLY_IQ4_XS"]  # fmt: skip
PROMPT = [(7 * i * i + 3 * i) % 300 for i in range(600)]
PARENTS = [-1, 0, 1, 1, 3, 0, 2, 6, 7, 4, 9, 9, 11, 8, 13, 14, 5, 16, 17]
TOKENS = [(11 * i + 5) % 300 for i in range(len(PARENTS))]


def quantised(source: Path, ftype: str) -> Path:
    path = source.with_name(f"{source.stem}-{ftype}.gguf")
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_{ftype}")
    params.pure = True
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params)) == 0
    return path


@pytest.fixture(scope="module")
def dense(tmp_path_factory) -> Path:
    return write_target(tmp_path_factory.mktemp("dense") / "dense.gguf", "llama", n_layer=2, n_embd=256, n_ff=512, head_dim=64)


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory) -> Path:
    return write_hybrid(tmp_path_factory.mktemp("hybrid") / "hybrid.gguf", "qwen35", n_layer=4, n_embd=256, n_ff=512)


@pytest.fixture(autouse=True)
def kernels_of_ours(dense):
    with logged() as lines:
        context = Context(dense, Config("llama"))
        context.close()
    if "CPU_ROWS" not in "".join(lines):
        pytest.skip("this build has no kernels for interleaved weights on this CPU, or GGML_CPU_ROWS=0 is set")


def assert_tree_equals_plain_decoding(path: Path, threads: int, kv: int = llama_cpp.GGML_TYPE_F16, n_prompt: int = 600) -> None:
    context = Context(path, Config("llama", flash=True, kv=kv), n_ctx=1024)
    llama_cpp.llama_set_n_threads(context.ctx, threads, threads)
    context.decode(PROMPT[: min(n_prompt, 128)])
    for i in range(128, n_prompt, 128):
        context.decode(PROMPT[i : min(i + 128, n_prompt)])
    state = context.save()
    tree = context.tree_logits(TOKENS, PARENTS)
    assert context.discard() == 0
    for node in range(len(PARENTS)):
        if node in PARENTS:
            continue  # a leaf's path has its ancestors
        context.load(state)
        nodes = path_to(node, PARENTS)
        plain = context.decode_each([TOKENS[i] for i in nodes])
        assert np.array_equal(tree[nodes], plain), f"node {node}: off by {np.abs(tree[nodes] - plain).max():.3g}"
    context.close()


@pytest.mark.parametrize("ftype", FTYPES)
def test_a_tree_on_a_dense_target_has_the_bits_of_plain_decoding(dense, ftype):
    assert_tree_equals_plain_decoding(quantised(dense, ftype), threads=2)


@pytest.mark.parametrize("ftype", ["MOSTLY_F16", "MOSTLY_Q8_0", "MOSTLY_Q4_K_M"])
def test_a_tree_on_a_hybrid_target_has_the_bits_of_plain_decoding(hybrid, ftype):
    assert_tree_equals_plain_decoding(quantised(hybrid, ftype), threads=2)


@pytest.mark.parametrize("n_prompt", [1, 250, 512])
@pytest.mark.parametrize("threads", [1, 3, 5])
def test_neither_threads_nor_the_length_change_that(dense, threads, n_prompt):
    assert_tree_equals_plain_decoding(quantised(dense, "MOSTLY_Q4_0"), threads, n_prompt=n_prompt)


@pytest.mark.parametrize("kv", [llama_cpp.GGML_TYPE_F32, llama_cpp.GGML_TYPE_Q8_0], ids=["f32", "q8_0"])
def test_nor_does_the_type_of_the_cache(dense, kv):
    assert_tree_equals_plain_decoding(quantised(dense, "MOSTLY_Q8_0"), threads=2, kv=kv)
