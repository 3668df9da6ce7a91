"""Every code block of a page of docs/ does what the page says (pages.py says how a block is marked)."""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "convert")]

import checkpoints  # noqa: E402
import drafter_models  # noqa: E402
import models  # noqa: E402
from pages import Block, Reader, blocks_of  # noqa: E402

from llama_dflash import demo  # noqa: E402

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [  # another page is added by its name
    "server.md",
    "convert.md",
    "cli.md",
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
    return tmp_path


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
