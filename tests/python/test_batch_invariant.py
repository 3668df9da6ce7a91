"""GGML_CPU_BATCH_INVARIANT=1 or GGML_CUDA_BATCH_INVARIANT=1, and flash_attn=True: plain decoding's text to the last bit of every
logit.

Flash attention adds up the cells that a node sees one after another. Without it they are added up in groups, and a node's
cells lie in other groups than they do in plain decoding, as those of other branches lie between them.
"""

import os
import subprocess
import sys

import pytest
from conftest import write_pair

SCRIPT = """
import itertools, sys
import numpy as np
from llama_dflash import DFlashDraft, Llama

target, drafter, n_gpu_layers = sys.argv[1:]
settings = dict(n_gpu_layers=int(n_gpu_layers), n_ctx=512, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)

def run(draft):
    llm, rows = Llama(target, draft_model=draft, logits_all=True, **settings), []
    for start in b"0123456789":
        prompt = list(b"the digits: ") + [start]
        text = list(itertools.islice(llm.generate(prompt, temp=0.0), 60))
        rows.append((text, llm._scores[len(prompt) - 1:].copy()))
    accepted = llm.speculative_stats.accepted if draft else 0
    llm.close()
    return rows, accepted

plain, _ = run(None)
for draft in (dict(budget=5), dict(budget=16), dict(budget=32), dict(budget=8, mode="chain"), dict()):
    rows, accepted = run(DFlashDraft(drafter, **draft))
    for (text_a, logits_a), (text_b, logits_b) in zip(plain, rows):
        assert text_a == text_b, draft
        assert np.array_equal(logits_a, logits_b), (draft, np.abs(logits_a - logits_b).max())
print("equal")
"""


def assert_equal(pair, mode, n_gpu_layers, folder):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(pair.target), str(pair.drafter), str(n_gpu_layers)],
        cwd=folder,  # python -c imports from the current folder
        env={**os.environ, mode: "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.strip() == "equal", run.stderr[-2000:]


def test_every_logit_is_plain_decodings_bit_for_bit(any_pair, tmp_path):
    assert_equal(any_pair, "GGML_CPU_BATCH_INVARIANT", 0, tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("arch, seed, sizes", [("llama", 7, dict(head_dim=64)), ("qwen35", 8, dict(head_dim=128, state_size=128))])
def test_on_a_gpu_too(tmp_path, arch, seed, sizes):
    assert_equal(write_pair(tmp_path, arch, seed, sizes, head_dim=64), "GGML_CUDA_BATCH_INVARIANT", -1, tmp_path)
