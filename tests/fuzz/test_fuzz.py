"""No damage to a file ends the process. See README.md."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS), str(TESTS / "convert")]  # at the end: other folders' tests import their own conftest by its name

import drafter_models  # noqa: E402
import models  # noqa: E402
from checkpoints import CONFIG, dflash_shapes, random_tensors, write_safetensors  # noqa: E402

SECONDS_PER_CASE = 2  # ten times what one takes


def write_checkpoint(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(folder / "model.safetensors", random_tensors(dflash_shapes(), "BF16", std=0.02))
    return folder


@pytest.mark.parametrize(
    "kind, arch, head",
    [
        ("drafter", "llama", None),
        ("drafter", "llama", "markov"),
        ("drafter", "llama", "selector"),
        ("target", "llama", None),
        ("target", "qwen35", None),
        ("checkpoint", "llama", None),
    ],
)
def test_no_damage_to_a_file_ends_the_process(tmp_path, pytestconfig, kind, arch, head):
    write = models.write_hybrid if arch in models.HYBRIDS else models.write_target
    target = drafter_models.make_predictable(write(tmp_path / f"{arch}.gguf", arch, n_layer=4))
    if kind == "checkpoint":
        other = write_checkpoint(tmp_path / "published")
    else:
        other = drafter_models.write_drafter(tmp_path / "drafter.gguf", target, n_ff=32, n_head=2, n_head_kv=1, head=head)
    n_cases = pytestconfig.getoption("--cases")
    seconds = 30 + n_cases * SECONDS_PER_CASE
    (tmp_path / "work").mkdir()
    run = subprocess.run(
        [
            *(sys.executable, str(Path(__file__).with_name("fuzz.py")), kind, "0", str(n_cases), str(seconds)),
            *(str(target), str(other), str(tmp_path / "work")),
        ],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 60,
    )
    last = run.stdout[run.stdout.rfind("case ") :]
    assert run.returncode == 0, f"exit code {run.returncode} at {last}\n{run.stderr[-3000:]}"
    print(last)
    assert "done: " in run.stdout and f"case {n_cases - 1}\n" in run.stdout
