"""GGML_CPU_BATCH_INVARIANT=1 and flash_attn=True: on a CPU, plain decoding's text to the last bit of every logit.

Flash attention adds up the cells that a node sees one after another. Without it they are added up in groups, and a node's
cells lie in other groups than they do in plain decoding, as those of other branches lie between them.
"""

import os
import subprocess
import sys

SCRIPT = """
import itertools, sys
import numpy as np
from llama_dflash import DFlashDraft, Llama

target, drafter = sys.argv[1:]
settings = dict(n_ctx=512, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)

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


def test_every_logit_is_plain_decodings_bit_for_bit(any_pair, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(any_pair.target), str(any_pair.drafter)],
        cwd=tmp_path,  # python -c imports from the current folder
        env={**os.environ, "GGML_CPU_BATCH_INVARIANT": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.stdout.strip() == "equal", run.stderr[-2000:]
