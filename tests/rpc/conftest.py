"""Workers, networks between them and their clients, and small models, for the tests of RPC."""

import itertools
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import drafter_models  # noqa: E402
import models  # noqa: E402
from networks import Network  # noqa: E402
from worker_processes import Worker  # noqa: E402

from llama_dflash import DFlashDraft, Llama  # noqa: E402


@pytest.fixture(scope="session")
def idle_workers():
    """Workers that tests have used and left well: starting one takes a second."""
    idle: list[Worker] = []
    yield idle
    for worker in idle:
        worker.kill()


@pytest.fixture
def workers(idle_workers):
    """Gives workers to a test: workers(2) gives two. With arguments they are new, and end with the test."""
    given, own = [], []

    def give(n: int, arguments=()) -> list[Worker]:
        old = [idle_workers.pop() for _ in range(0 if arguments else min(n, len(idle_workers)))]
        new = [Worker(*arguments) for _ in range(n - len(old))]
        (own if arguments else given).extend(new)
        given.extend(old)
        for worker in new:
            worker.wait_until_ready()
        return old + new

    yield give
    for worker in own:
        worker.kill()
    for worker in given:
        worker.go_on()
        if worker.process.poll() is None:
            idle_workers.append(worker)
        else:
            worker.kill()


@pytest.fixture
def networks():
    """Puts networks before workers, which end with the test: networks(workers, latency=0.002) gives as many."""
    made = []

    def make(before: list[Worker], **settings) -> list[Network]:
        new = [Network(worker.endpoint, **settings) for worker in before]
        made.extend(new)
        return new

    yield make
    for network in made:
        network.close()


# ---------------------------------------------------------------- models

# Flash attention, which a drafter switches on: for the plain texts too.
SETTINGS = dict(n_ctx=512, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, flash_attn=True, seed=1, verbose=False)

PROMPT = list(b"the digits: 0123")


class Pair:
    """A target and a drafter for it, of random weights and predictable digits."""

    def __init__(self, folder: Path, arch: str, **sizes):
        write = models.write_hybrid if arch in models.HYBRIDS else models.write_target
        self.target = write(folder / f"{arch}.gguf", arch, seed=8, **sizes)
        drafter_models.make_predictable(self.target)
        self.drafter = drafter_models.write_drafter(folder / f"{arch}-dflash.gguf", self.target)

    def load(self, mode: str = "tree", workers=(), **settings) -> Llama:
        """A Llama whose layers are on workers, if any are given. mode: "plain", "chain" or "tree"."""
        if workers:
            servers = ",".join(worker.endpoint for worker in workers)
            settings = {"rpc_servers": servers, "n_gpu_layers": -1, "tensor_split": [1.0] * len(workers), **settings}
        draft = None if mode == "plain" else DFlashDraft(self.drafter, budget=12 if mode == "tree" else 7, mode=mode)
        return Llama(str(self.target), draft_model=draft, **{**SETTINGS, **settings})

    def tokens(self, llm: Llama, n: int = 40, prompt=PROMPT, **settings) -> list[int]:
        return list(itertools.islice(llm.generate(prompt, **{"temp": 0.0, **settings}), n))


@pytest.fixture(scope="session")
def dense(tmp_path_factory) -> Pair:
    return Pair(tmp_path_factory.mktemp("dense"), "llama")


@pytest.fixture(scope="session")
def hybrid(tmp_path_factory) -> Pair:
    return Pair(tmp_path_factory.mktemp("hybrid"), "qwen35")


@pytest.fixture(params=["dense", "hybrid"])
def pair(request) -> Pair:
    return request.getfixturevalue(request.param)
