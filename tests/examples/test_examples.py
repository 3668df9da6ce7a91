"""Every script of examples/ runs, and says what it should."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# a sentence of the output that is there whatever the model writes
SAYS = {
    "swap_the_import.py": "tokens per forward of the target",
    "stream_a_chat.py": "> Which of them is the largest?",
    "json_schema.py": '"is_compiled"',
    "own_sampler_settings.py": "--- without digits",
    "ask_a_server.py": "draft nodes accepted)",
    "look_at_a_tree.py": "bonus token:",
}

def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=EXAMPLES.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # the package that the tests are about
    )


def test_every_script_is_tested():
    elsewhere = {"use_a_published_drafter.py"}  # tests/convert/test_load_checkpoint.py
    assert {path.name for path in EXAMPLES.glob("*.py")} - {"pair.py"} - elsewhere == SAYS.keys()


@pytest.mark.parametrize("script", SAYS)
def test_the_example_runs(script):
    done = run(EXAMPLES / script)
    assert done.returncode == 0, done.stderr
    assert SAYS[script] in done.stdout
