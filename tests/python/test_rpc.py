"""Over an RPC server the best entries of rows of logits are found there: an op's number travels, an address could not.

Needs a build with -DGGML_RPC=on.
"""

import socket
import subprocess
import sys
import time

import pytest

from llama_dflash import _library

SERVER = """
import ctypes, sys
from llama_dflash import _library

ggml, rpc = _library.open_library("ggml"), _library.open_library("ggml-rpc")
ggml.ggml_backend_dev_by_name.restype = ctypes.c_void_p
devices = (ctypes.c_void_p * 1)(ggml.ggml_backend_dev_by_name(b"CPU"))
rpc.ggml_backend_rpc_start_server(sys.argv[1].encode(), None, ctypes.c_size_t(1), ctypes.c_size_t(1), devices)
"""

CLIENT = """
import ctypes, itertools, sys
from llama_dflash import DFlashDraft, Llama, _library

endpoint, target, drafter = sys.argv[1:]
rpc = _library.open_library("ggml-rpc")
rpc.ggml_backend_rpc_add_server.restype = ctypes.c_void_p
ggml = _library.open_library("ggml")
ggml.ggml_backend_register.argtypes = [ctypes.c_void_p]
SETTINGS = dict(n_ctx=256, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)

def text(n_gpu_layers):
    draft = DFlashDraft(drafter, budget=12, device_outputs=True)
    llm = Llama(target, draft_model=draft, n_gpu_layers=n_gpu_layers, **SETTINGS)
    tokens = list(itertools.islice(llm.generate(list(b"the digits: 0123"), temp=0.0), 40))
    assert llm.speculative_stats.accepted > 0
    llm.close()
    return tokens

here = text(0)
ggml.ggml_backend_register(rpc.ggml_backend_rpc_add_server(endpoint.encode()))
assert text(-1) == here
print("equal", flush=True)
"""


def has_rpc() -> bool:
    try:
        _library.open_library("ggml-rpc")
    except (ImportError, OSError):
        return False
    return True


@pytest.mark.skipif(not has_rpc(), reason="the installed llama-dflash has no RPC backend (-DGGML_RPC=on)")
def test_a_text_over_an_rpc_server_is_the_text_without(pair, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    server = subprocess.Popen([sys.executable, "-c", SERVER, endpoint], cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        time.sleep(3)
        command = [sys.executable, "-c", CLIENT, endpoint, str(pair.target), str(pair.drafter)]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert run.stdout.strip() == "equal", run.stderr[-2000:]
        assert server.poll() is None, "the server died"
    finally:
        server.kill()
        server.wait()
