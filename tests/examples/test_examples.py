"""Every script of examples/ runs, and says what it should."""

import os
import re
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
    "instructor_pydantic.py": "Sum(a=",
    "outlines_regex.py": "typing: ",
}
NEEDS = {"instructor_pydantic.py": ["instructor"], "outlines_regex.py": ["outlines", "llguidance"]}  # script: modules


def run(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=EXAMPLES.parent,
        # the package that the tests are about
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def skip_without(script):
    for module in NEEDS.get(script, []):
        pytest.importorskip(module, reason=f"{script} needs pip install {' '.join(NEEDS[script])}")


def test_every_script_is_tested():
    elsewhere = {"use_a_published_drafter.py"}  # tests/convert/test_load_checkpoint.py
    assert {path.name for path in EXAMPLES.glob("*.py")} - {"pair.py"} - elsewhere == SAYS.keys()


@pytest.mark.parametrize("script", SAYS)
def test_the_example_runs(script):
    skip_without(script)
    done = run(EXAMPLES / script)
    assert done.returncode == 0, done.stderr
    assert SAYS[script] in done.stdout


@pytest.mark.parametrize("script", NEEDS)
def test_the_example_says_the_same_without_a_drafter(script):
    skip_without(script)
    # GGML_CPU_BATCH_INVARIANT: a CPU verifies trees with the very bits of plain decoding (docs/exactness.md)
    runs = [run(Path(__file__).with_name("with_budget.py"), EXAMPLES, script, budget, GGML_CPU_BATCH_INVARIANT="1") for budget in (8, 0)]
    assert [done.returncode for done in runs] == [0, 0], [done.stderr for done in runs]
    (*drafted, stats), (*plain, none) = (done.stdout.strip().splitlines() for done in runs)
    assert drafted == plain
    assert re.search(r"[1-9]\d* of \d+ draft nodes accepted", stats) and none == "None"
