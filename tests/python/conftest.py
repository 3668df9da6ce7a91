"""Tiny models for the tests of the Python package, and `Llama` objects over them."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import drafter_models  # noqa: E402
import models  # noqa: E402

import llama_dflash  # noqa: E402
from llama_dflash import DFlashDraft, Llama  # noqa: E402

import llama_cpp  # noqa: E402  # after llama_dflash, which says where it comes from

# One thread: these models are too small for two. Flash attention, which a drafter switches on: for the plain texts too.
SETTINGS = dict(n_ctx=512, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, flash_attn=True, seed=1, verbose=False)


class Pair:
    """A target and a drafter for it."""

    def __init__(self, target: Path, drafter: Path):
        self.target = target
        self.drafter = drafter

    def draft(self, **settings) -> DFlashDraft:
        return DFlashDraft(self.drafter, **settings)


def write_pair(folder: Path, arch: str = "llama", seed: int = 0, sizes: dict = {}, **drafter) -> Pair:
    """sizes: of the target, as write_hybrid() or write_target() takes them."""
    write = models.write_hybrid if arch in models.HYBRIDS else models.write_target
    target = write(folder / f"{arch}-{seed}.gguf", arch, seed=seed, **sizes)
    drafter_models.make_predictable(target)
    return Pair(target, drafter_models.write_drafter(folder / f"{arch}-{seed}-dflash.gguf", target, **drafter))


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> Pair:
    """Text of digits, of which a drafter guesses a good part."""
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="session", params=[("llama", 5), ("qwen3", 3), ("qwen35", 8), ("qwen35moe", 4), ("qwen3next", 4)], ids=lambda p: p[0])
def any_pair(request, tmp_path_factory) -> Pair:
    return write_pair(tmp_path_factory.mktemp("pairs"), *request.param)


@pytest.fixture(scope="session")
def random_pair(tmp_path_factory) -> Pair:
    """Text of random tokens and a drafter of random weights: nearly nothing is accepted."""
    folder = tmp_path_factory.mktemp("random")
    target = models.write_target(folder / "target.gguf", seed=7)
    return Pair(target, drafter_models.write_drafter(folder / "drafter.gguf", target, std=0.3, seed=8))


@pytest.fixture(scope="session")
def kept():
    """Llama objects that tests share, by their settings; a test that shares one starts with reset()."""
    objects = {}

    def get(pair: Pair, draft=None, **settings) -> Llama:
        key = (pair.target, draft, tuple(sorted(settings.items())))
        if key not in objects:
            objects[key] = Llama(str(pair.target), draft_model=draft, **{**SETTINGS, **settings})
        objects[key].reset()
        return objects[key]

    yield get
    for llm in objects.values():
        llm.close()


@pytest.fixture
def load():
    """Loads a Llama of a test's own."""
    objects = []

    def get(pair: Pair, draft=None, **settings) -> Llama:
        objects.append(Llama(str(pair.target), draft_model=draft, **{**SETTINGS, **settings}))
        return objects[-1]

    yield get
    for llm in objects:
        llm.close()


@pytest.fixture
def plain(kept, pair) -> Llama:
    """The target alone."""
    return kept(pair, logits_all=True)


@pytest.fixture(params=["tree", "chain", "auto"])
def drafted(request, kept, pair) -> Llama:
    """The target with its drafter."""
    drafts = {"tree": dict(budget=12), "chain": dict(budget=7, mode="chain"), "auto": dict(budget="auto")}
    return kept(pair, pair.draft(**drafts[request.param]))


@pytest.fixture
def tree(kept, pair) -> Llama:
    """The target with its drafter and a fixed budget: every round speculates."""
    return kept(pair, pair.draft(budget=12))
