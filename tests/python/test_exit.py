"""A daemon thread that generates while the interpreter exits does not end the process with a signal."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys, threading, time
from llama_cpp import LlamaGrammar, LogitsProcessorList, StoppingCriteriaList
from llama_dflash import DFlashDraft, Llama

target, drafter, kind = sys.argv[1:]
llm = Llama(target, draft_model=DFlashDraft(drafter, budget=12), n_ctx=512, n_batch=64, n_ubatch=64, n_threads=1,
            n_threads_batch=1, verbose=False)
slow = LogitsProcessorList([lambda ids, scores: (time.sleep(0.001), scores)[1]])
settings = {
    "greedy": {},
    "processor": dict(logits_processor=slow),
    "criterion": dict(stopping_criteria=StoppingCriteriaList([lambda ids, logits: False])),
}[kind]
begun = threading.Event()

def write():
    while True:
        for token in llm.generate(list(b"the digits: 0123"), temp=0.0, **settings):
            begun.set()
            if llm.n_tokens > 400:
                break
        llm.reset()

threading.Thread(target=write, daemon=True).start()
begun.wait()
time.sleep(0.2)
print("done")
"""


@pytest.mark.parametrize("kind", ["greedy", "processor", "criterion"])
def test_a_daemon_thread_may_still_be_generating_at_exit(pair, tmp_path, kind):
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(pair.target), str(pair.drafter), kind],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert run.returncode == 0 and run.stdout == "done\n", f"exit code {run.returncode}\n{run.stderr[-2000:]}"
