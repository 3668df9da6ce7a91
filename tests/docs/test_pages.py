"""Every code block of a page of docs/ does what the page says (pages.py says how a block is marked)."""

import os
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "convert"), str(Path(__file__).parents[1] / "hub")]

import checkpoints  # noqa: E402
import drafter_models  # noqa: E402
import models  # noqa: E402
from pages import Block, Reader, blocks_of  # noqa: E402

from llama_dflash import demo  # noqa: E402

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [  # another page is added by its name
    "serve.md",
    "server.md",
    "convert.md",
    "cli.md",
    "hub.md",
    "ngram.md",
    "python-api.md",
    "batches.md",
    "coming-from-llama-cpp-python.md",
    "structured-output.md",
    "langchain.md",
    "llama-index.md",
]
# over the shipped pair: their texts have to come to an end, or they speak of hybrid targets
SHIPPED = {"ngram.md", "python-api.md", "batches.md", "coming-from-llama-cpp-python.md", "structured-output.md", "langchain.md", "llama-index.md"}
NEEDS = {  # page: modules
    "structured-output.md": ["instructor", "outlines", "llguidance"],
    "langchain.md": ["langchain_community", "langchain_llama_cpp"],
    "llama-index.md": ["llama_index.llms.llama_cpp"],
}


def write_random_models(folder):
    target = drafter_models.make_predictable(models.write_target(folder / "target.gguf", n_layer=4))
    drafter_models.write_drafter(folder / "drafter.gguf", target)
    checkpoints.write_case(folder, "plain").rename(folder / "Qwen3-8B-DFlash")


def link_shipped_models(folder):
    pair = demo.PAIRS["tiny-qwen35"]
    (folder / "target.gguf").symlink_to(demo.find_target(pair))
    (folder / "drafter.gguf").symlink_to(demo.find_shipped(pair.drafter))


@pytest.fixture
def folder(page, tmp_path, monkeypatch):
    """What a page calls target.gguf, drafter.gguf and Qwen3-8B-DFlash (a published drafter): tiny ones of random weights,
    or the shipped ones."""
    link_shipped_models(tmp_path) if page in SHIPPED else write_random_models(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLAMA_DFLASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLAMA_DFLASH_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    if page == "hub.md":
        yield from folder_and_hub(tmp_path, monkeypatch)
    elif page == "cli.md" and hasattr(os, "sched_setaffinity"):
        yield from folder_on_one_cpu(tmp_path)
    else:
        yield tmp_path


def folder_on_one_cpu(folder):
    """Its commands take all CPUs by default; the models are too small for more than one."""
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    yield folder
    os.sched_setaffinity(0, cpus)


def folder_and_hub(folder, monkeypatch):
    """A Hub that has the page's models: the tiny ones by other names."""
    pytest.importorskip("huggingface_hub")
    from hub_server import HubServer, use_hub

    hub = HubServer()
    use_hub(monkeypatch, hub.url, folder)
    hub.add("Qwen/Qwen3-8B-GGUF", {"Qwen3-8B-Q4_K_M.gguf": (folder / "target.gguf").read_bytes()})
    hub.add("z-lab/Qwen3-8B-DFlash-b16", {file.name: file.read_bytes() for file in (folder / "Qwen3-8B-DFlash").iterdir()})
    yield folder
    hub.close()


@pytest.mark.parametrize("page", PAGES)
def test_the_code_blocks_of_the_page_run(page, folder):
    for module in NEEDS.get(page, []):
        pytest.importorskip(module)
    reader = Reader(DOCS / page, folder)
    try:
        blocks = blocks_of(DOCS / page)
        assert blocks
        for block in blocks:
            reader.do(block)
    finally:
        reader.stop()


@pytest.mark.parametrize(
    "block",
    [
        Block(1, "python", "1 / 0", ""),
        Block(1, "bash", "false | true", ""),
        Block(1, "bash", "true", "run in the background"),
        Block(1, "bash", "true", "not run:"),
        Block(1, "python", "pass", "skip"),
    ],
    ids=lambda block: f"{block.language}: {block.code} ({block.marker})",
)
def test_a_block_that_fails_or_is_marked_wrongly_is_noticed(block, tmp_path):
    with pytest.raises((AssertionError, ZeroDivisionError)):
        Reader(DOCS / "some.md", tmp_path).do(block)
