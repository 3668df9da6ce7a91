"""Threads may load models at once: what llama.cpp and the stock layer keep once for the process is as before."""

import ctypes
import subprocess
import sys
import threading

import pytest
from conftest import SETTINGS

import llama_cpp
from llama_dflash import Llama


def abort_callback():
    """The address of the process's abort callback. ggml tells it when another is set."""
    set_callback = llama_cpp.llama_cpp._lib.ggml_set_abort_callback
    set_callback.restype, set_callback.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    before = set_callback(None)
    set_callback(before)
    return before


def load_many_at_once(load_one, n_threads=4):
    errors = []

    def run():
        try:
            for _ in range(6):
                load_one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors


def test_the_abort_callback_is_what_it_was_after_loads_at_once(pair):
    before = abort_callback()
    load_many_at_once(lambda: Llama(str(pair.target), draft_model=pair.drafter, **SETTINGS).close())
    assert abort_callback() == before


def test_a_load_that_fails_beside_others_takes_nothing_along(pair, tmp_path):
    before = abort_callback()
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(pair.drafter.read_bytes()[:5000])

    def load_one():
        with pytest.raises(ValueError):
            Llama(str(pair.target), draft_model=damaged, **SETTINGS)
        Llama(str(pair.target), draft_model=pair.drafter, **SETTINGS).close()

    load_many_at_once(load_one)
    assert abort_callback() == before


OUTPUT = """
import sys, threading
from llama_dflash import Llama

def load():
    for _ in range(8):
        Llama(sys.argv[1], n_ctx=64, n_batch=32, n_ubatch=32, n_threads=1, verbose=False).close()

threads = [threading.Thread(target=load) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print("still there", flush=True)
print("here too", file=sys.stderr, flush=True)
"""


def test_loading_quietly_in_several_threads_leaves_stdout_and_stderr(pair, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", OUTPUT, str(pair.target)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0 and run.stdout == "still there\n" and "here too" in run.stderr
