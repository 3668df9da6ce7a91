"""Any allocation of C++ may fail, one after the other: a token, an error, or a text without drafts, and never a dead process.

The failures are real: an operator new that fails when it is told to is loaded before the libraries.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_pair

SCRIPT = """
import ctypes, sys, warnings
from llama_dflash import DFlashDraft, Llama

target, drafter, kind = sys.argv[1:]
warnings.simplefilter("ignore", RuntimeWarning)
new = ctypes.CDLL(None)
new.allocations.restype = ctypes.c_long
new.fail_at.argtypes = [ctypes.c_long]
SETTINGS = dict(n_ctx=256, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
PROMPT = list(b"the digits: 0123")
draft = {"plain": None, "tree": DFlashDraft(drafter, budget=12), "device": DFlashDraft(drafter, budget=12, device_outputs=True)}[kind]
llm = Llama(target, draft_model=draft, **SETTINGS)

def text(n=14, **settings):
    llm.reset()
    stream = llm.generate(PROMPT, **{"temp": 0.0, **settings})
    tokens = [token for token, _ in zip(stream, range(n))]
    stream.close()
    return tokens

expected = text()
SPOTS = {  # what is called while an allocation fails, after how many tokens
    "a round's first token": (1, lambda stream: next(stream)),
    "a later token": (4, lambda stream: next(stream)),
    "save": (3, lambda stream: llm.save_state()),
    "settle": (3, lambda stream: llm._settle()),
    "eval": (3, lambda stream: llm.eval([50])),
}
outcomes = {}
for name, (n_before, call) in SPOTS.items():
    def attempt(nth):
        new.fail_at(-1)
        llm.reset()
        stream = llm.generate(PROMPT, temp=0.0)
        written = [next(stream) for _ in range(n_before)]
        assert written == expected[:n_before]
        new.fail_at(nth)
        try:
            call(stream)
            return "done"
        except RuntimeError as error:
            assert str(error), "an error without a word"
            return "error"
        except MemoryError:  # Python's or numpy's own
            return "error"
        finally:
            global n_allocations
            n_allocations = new.allocations()
            new.fail_at(-1)
            stream.close()
    assert attempt(1 << 40) == attempt(1 << 40) == "done"
    n = n_allocations
    for nth in sorted({*range(min(n, 40)), *range(0, n, max(1, n // 120))}):
        print(name, nth, "of", n, flush=True)
        outcome = name, attempt(nth)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        assert text(8) == expected[:8], (name, nth)
print("done", outcomes)
"""


@pytest.fixture(scope="module", params=[("llama", 5), ("qwen35", 8)], ids=lambda p: p[0])
def arch_pair(request, tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("memory"), *request.param)


@pytest.fixture(scope="module")
def failing_new(tmp_path_factory):
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C++ compiler and LD_PRELOAD")
    library = tmp_path_factory.mktemp("new") / "failing_new.so"
    source = Path(__file__).with_name("failing_new.cpp")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return library


@pytest.mark.parametrize("kind", ["plain", "tree", "device"])
def test_any_allocation_may_fail(arch_pair, tmp_path, failing_new, kind):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(arch_pair.target), str(arch_pair.drafter), kind],
        cwd=tmp_path,
        env={**os.environ, "LD_PRELOAD": str(failing_new), "GGML_CPU_BATCH_INVARIANT": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, f"exit code {run.returncode} at {run.stdout.splitlines()[-1:]}\n{run.stderr[-2500:]}"
    assert "done" in run.stdout.splitlines()[-1]
