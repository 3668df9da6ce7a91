"""A target, a drafter and a published drafter, and the command line run over them."""

import subprocess
import sys
from pathlib import Path

import pytest

# at the end: other folders' tests import their own conftest by its name
sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "convert")]

from checkpoints import write_case  # noqa: E402
from drafter_models import write_drafter  # noqa: E402
from models import write_target  # noqa: E402


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """A folder with target.gguf, drafter.gguf and published/, whose names the docs use too."""
    folder = tmp_path_factory.mktemp("files")
    write_drafter(folder / "drafter.gguf", write_target(folder / "target.gguf", n_layer=4))
    write_case(folder, "plain").rename(folder / "published")
    return folder


@pytest.fixture
def command(files):
    """Runs `llama-dflash` with arguments in the folder of `files`, in a process of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "llama_dflash", *arguments], cwd=files, capture_output=True, text=True, timeout=60
        )

    return run
