"""The servers that the tests ask, and what they ask them."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

pytest.importorskip("openai", reason="needs the test extra: pip install '.[test]'")

from servers import KEY, OPTIONS, Pair, Server, arguments  # noqa: E402


def pytest_addoption(parser):
    """Of `pytest tests/server`; a run of the whole suite does not know them."""
    parser.addoption("--bodies", type=int, default=None, help="Bodies that the server is sent, however long it takes.")
    parser.addoption("--bodies_seed", type=int, default=0, help="Which ones.")
    parser.addoption("--load_seconds", type=float, default=None, help="How long 32 clients ask the server at once.")


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="session")
def pair(folder) -> Pair:
    return Pair(folder)


@pytest.fixture(scope="session")
def other_pair(folder) -> Pair:
    return Pair(folder, seed=3)


@pytest.fixture(scope="session")
def hybrid_pair(folder) -> Pair:
    return Pair(folder, seed=8, arch="qwen35")


@pytest.fixture(scope="session")
def start(folder):
    """Starts servers, which are stopped when the tests end."""
    servers = []

    def get(*words, **environment) -> Server:
        servers.append(Server(folder / f"{len(servers)}.log", *words, **environment))
        return servers[-1]

    yield get
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def plain(start, pair) -> Server:
    """Without a drafter: what the answers have to be."""
    return start(*arguments(model=pair.target, flash_attn=True, verbose=False, **OPTIONS))


@pytest.fixture(scope="session")
def drafted(start, pair) -> Server:
    """With one. Requests do not interrupt a stream."""
    options = dict(model=pair.target, draft_model=pair.drafter, draft_model_budget=12, interrupt_requests=False)
    return start(*arguments(**options, **OPTIONS))


@pytest.fixture(scope="session")
def strict(start, pair) -> Server:
    """With a drafter, a key and small limits, which takes nothing for what it is not."""
    limits = dict(api_key=KEY, max_queue=2, max_body_mb=0.25, accept_any_model=False, model_alias="one")
    return start(*arguments(model=pair.target, draft_model=pair.drafter, draft_model_budget=12, **{**OPTIONS, **limits}))


@pytest.fixture(scope="session")
def same(plain, drafted):
    """Asks both servers the same; returns the drafted answer after comparing what `look` makes of the two."""

    def ask(request, look):
        expected, answer = (request(server.client()) for server in (plain, drafted))
        assert look(answer) == look(expected)
        return answer

    return ask
