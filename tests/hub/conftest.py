"""A small Hub on loopback, models for it, and an empty cache of every kind."""

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "convert")]

pytest.importorskip("huggingface_hub")

from checkpoints import write_case  # noqa: E402
from drafter_models import write_drafter  # noqa: E402
from hub_server import HubServer, use_hub  # noqa: E402
from models import write_target  # noqa: E402

import llama_dflash  # noqa: E402, F401  (before llama_cpp)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """target.gguf, other.gguf (of another hidden size), drafter.gguf and published/, for target.gguf."""
    folder = tmp_path_factory.mktemp("models")
    write_drafter(folder / "drafter.gguf", write_target(folder / "target.gguf", n_layer=4))
    write_target(folder / "other.gguf", n_layer=4, n_embd=96)
    write_case(folder, "plain").rename(folder / "published")
    return folder


@pytest.fixture
def target(models) -> str:
    return str(models / "target.gguf")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The server, which huggingface_hub asks in this process and in those that it starts."""
    server = HubServer()
    use_hub(monkeypatch, server.url, tmp_path)
    yield server
    server.close()
