"""benchmarks/serving.py: a real run over a tiny pair, and the tables that are made of its results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT / "tests"), str(CHECKOUT / "benchmarks")]

import drafter_models  # noqa: E402
import models  # noqa: E402
import serving_tables  # noqa: E402
from served import package_server  # noqa: E402

WAYS = ["plain", "chain 3", "tree", "tree + ngram", "python server"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    if not package_server().exists():
        pytest.skip("built with -DLLAMA_DFLASH_SERVER=OFF")
    folder = tmp_path_factory.mktemp("serving")
    target = drafter_models.make_predictable(models.write_target(folder / "tiny.gguf"))
    drafter = drafter_models.write_drafter(folder / "drafter.gguf", target)
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"the digits of {i}: "}) + "\n" for i in range(4)))
    out = folder / "results.json"
    command = [sys.executable, CHECKOUT / "benchmarks/serving.py", "--target", target, "--draft-model", drafter, "--prompts", prompts]
    command += ["--clients", "1,4", "--max-tokens", "24", "--repeats", "1", "--threads", "1", "--ways", ",".join(WAYS), "--out", out]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=200, cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())


def test_every_way_answers_every_prompt_with_the_plain_text(results):
    assert [run["way"] for run in results["runs"]] == WAYS * 2
    assert all(run["tokens"] == 4 * 24 and run["texts_wrong"] == 0 for run in results["runs"]), results["runs"]
    assert all(0 < run["first_token_median"] <= run["first_token_worst"] <= run["seconds"] for run in results["runs"])
    assert all(run["draft_n_accepted"] > 0 for run in results["runs"] if run["way"] == "chain 3")


def test_tables_show_each_way_and_what_is_required(results):
    table, bars = serving_tables.table(results), serving_tables.bars(results)
    assert all(f"| {way} |" in table for way in WAYS)
    assert "| 4 clients of trees, times 1 client |" in bars and bars.count("worst first token") == 2


def test_a_text_that_parts_where_two_tokens_are_as_good_is_no_wrong_one():
    from serving import Reference

    expected = Reference("one two", [3, 7], [5.0, 0.001])
    assert expected.accepts("one two") and expected.accepts("one too")
    assert not expected.accepts("own two")
