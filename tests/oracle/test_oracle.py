"""Whatever is called between two tokens, the text is plain decoding's. See README.md."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS))  # at the end: other folders' tests import their own conftest by its name

import drafter_models  # noqa: E402
import models  # noqa: E402
import mtp_models  # noqa: E402


def write_pair(folder: Path, arch: str, seed: int, **sizes) -> list[str]:
    write = models.write_hybrid if arch in models.HYBRIDS else models.write_target
    target = drafter_models.make_predictable(write(folder / f"{arch}.gguf", arch, seed=seed, **sizes))
    drafter = drafter_models.write_drafter(folder / f"{arch}-dflash.gguf", target)
    return [str(target), str(drafter)]


def test_texts_are_plain_decodings_whatever_is_called_between_two_tokens(tmp_path, pytestconfig):
    """Dense and hybrid, and a hybrid's own MTP layer. A crash there is a failure here."""
    n_cases = pytestconfig.getoption("--cases")
    pairs = write_pair(tmp_path, "llama", 0) + write_pair(tmp_path, "qwen35", 8, n_layer=4)
    pairs += [str(mtp_models.shipped(tmp_path)), "mtp"]
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("oracle.py")), str(n_cases), "1", *pairs],
        cwd=tmp_path,
        env={**os.environ, "GGML_CPU_BATCH_INVARIANT": "1"},
        capture_output=True,
        text=True,
        timeout=60 + 5 * n_cases,
    )
    assert run.returncode == 0, f"exit code {run.returncode}\n{run.stdout[-4000:]}{run.stderr[-6000:]}"
    print(run.stdout)
    assert "done: " in run.stdout
