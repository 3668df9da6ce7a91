"""The servers that the tests ask."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from llama_server import BINARY, Server  # noqa: E402


def pytest_collection_modifyitems(items):
    if not BINARY.exists():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="llama-dflash was built with LLAMA_DFLASH_SERVER=OFF"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("serve")


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
def pairs(folder):
    """A dense target and a hybrid one, which mostly write digits, with drafters that guess many of them."""
    import drafter_models
    import models

    made = {}
    for arch in ("llama", "qwen35"):
        write = models.write_hybrid if arch in models.HYBRIDS else models.write_target
        target = drafter_models.make_predictable(write(folder / f"{arch}.gguf", arch, seed=3))
        made[arch] = target, drafter_models.write_drafter(folder / f"{arch}-dflash.gguf", target)
    return made


class Two:
    """The same server without and with trees. `same` asks both, and compares what they answer."""

    def __init__(self, plain, trees):
        self.plain, self.trees = plain, trees

    def same(self, prompt, n_predict=32, **more):
        """Returns the answer of the server with trees."""
        expected, answer = (server.complete(prompt, n_predict, **more) for server in (self.plain, self.trees))
        assert comparable(answer) == comparable(expected)
        return answer


COMPARED = ("content", "tokens", "stop_type", "stopping_word", "tokens_predicted", "tokens_evaluated", "tokens_cached", "truncated")


def comparable(answer):
    """What must not depend on drafts."""
    if isinstance(answer, list):
        return [comparable(one) for one in answer]
    found = {name: answer[name] for name in COMPARED}
    return {**found, "probs": answer.get("completion_probabilities"), "cache_n": answer["timings"]["cache_n"]}


@pytest.fixture(scope="session")
def two(start, pairs):
    """`two(arch, *options)`: with a DFlash drafter. Servers are kept."""
    made = {}

    def get(arch, *words, draft=None, **environment):
        key = (arch, words, draft)
        if key not in made:
            target, drafter = pairs[arch]
            drafts = ("-md", drafter) if draft is None else draft
            plain = start("-m", target, *words, **environment)
            made[key] = Two(plain, start("-m", target, "--spec-type", "tree", *drafts, *words, **environment))
        return made[key]

    return get
