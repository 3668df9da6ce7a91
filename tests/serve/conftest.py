"""Servers over tiny models."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from serve_process import BINARY, NO_BINARY, Pair, Served  # noqa: E402


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="session")
def pair(folder) -> Pair:
    return Pair(folder)


@pytest.fixture(scope="session")
def start(folder):
    """Starts servers, which are stopped when the tests end."""
    if not BINARY.exists():
        pytest.skip(NO_BINARY)
    servers = []

    def get(*words, **more) -> Served:
        servers.append(Served(folder / str(len(servers)), *words, **more))
        return servers[-1]

    yield get
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def trees(start, pair) -> Served:
    """With a drafter and a fixed number of nodes."""
    return start("-m", pair.target, "--draft-model", pair.drafter, "--budget", 8)
