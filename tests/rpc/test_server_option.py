"""The Python server's --rpc_servers and --rpc_timeout."""

import pytest

pytest.importorskip("fastapi")

from llama_dflash.server.model import LlamaProxy  # noqa: E402
from llama_dflash.server.settings import ModelSettings  # noqa: E402


def test_the_server_loads_its_model_onto_the_workers_that_it_is_given(dense, workers, networks):
    ends = networks(workers(2))
    servers = ",".join(end.endpoint for end in ends)
    given = dict(model=str(dense.target), draft_model=str(dense.drafter), n_ctx=256, n_batch=64, n_gpu_layers=-1, verbose=False)
    proxy = LlamaProxy([ModelSettings(**given, rpc_servers=servers, rpc_timeout=20.0)])
    llm = next(iter(proxy._current_model for _ in range(1)))
    assert all(end.messages["SET_TENSOR"] + end.messages["SET_TENSOR_PACKED"] > 0 for end in ends)
    assert llm._rpc_timeout == 20.0
    assert len(llm.create_completion("the digits: ", max_tokens=4, temperature=0.0)["choices"][0]["text"]) > 0
    proxy.free()
