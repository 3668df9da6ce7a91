import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "python"), str(Path(__file__).parents[1])]

import pytest

from llama_dflash import Llama, demo

PAIR = demo.PAIRS["tiny-qwen35"]


@pytest.fixture(scope="session")
def shipped():
    """Paths of the shipped target and drafter, as keyword arguments."""
    return {"model_path": str(demo.find_target(PAIR)), "draft_model": str(demo.find_shipped(PAIR.drafter))}


@pytest.fixture(scope="session")
def plain(shipped):
    """The target alone, with the settings that the tests give the wrappers."""
    llm = Llama(shipped["model_path"], n_ctx=512, n_threads=1, flash_attn=True, verbose=False)
    yield llm
    llm.close()
