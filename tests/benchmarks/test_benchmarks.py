"""llama_dflash.bench and benchmarks/: a real run over tiny random models, and what is made of its results."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

jsonschema = pytest.importorskip("jsonschema")

CHECKOUT = Path(__file__).resolve().parents[2]
BENCHMARKS = CHECKOUT / "benchmarks"
sys.path.append(str(CHECKOUT / "tests"))

import drafter_models  # noqa: E402
import models  # noqa: E402

from llama_dflash.bench.results import SCHEMA  # noqa: E402
from llama_dflash.bench.summary import Table, summarise  # noqa: E402


def script(name: str, *args: object, status: int = 0) -> str:
    command = [sys.executable, str(BENCHMARKS / name), *map(str, args)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    target = drafter_models.make_predictable(models.write_target(folder / "tiny-F32.gguf"))
    drafter_models.write_drafter(folder / "drafter.gguf", target)
    (folder / "code.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("012", "345", "unused")))
    (folder / "questions.jsonl").write_text(json.dumps({"question": "1 and 1?", "answer": "2"}) + "\n")
    server = folder / "llama-server"
    server.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("fake_llama_server.py")}" "$@"\n')
    server.chmod(0o755)
    return folder


def arguments(folder: Path) -> list:
    return [
        *("--target", folder / "tiny-F32.gguf", "--draft-model", folder / "drafter.gguf", "--threads", 1),
        *("--prompts", f"{folder}/code.jsonl:2", "--prompts", folder / "questions.jsonl"),
        *("--chain-budgets", "7", "--tree-budgets", "7,16,auto", "--server-lengths", "3,7"),
        *("--llama-server", folder / "llama-server", "--max-tokens", 12, "--ctx", 256),
    ]


@pytest.fixture(scope="module")
def results_file(folder) -> Path:
    out = folder / "results.json"
    said = script("bench.py", *arguments(folder), "--out", out)
    assert "3/3 code[1]" in said and "min left" in said, said
    return out


@pytest.fixture(scope="module")
def results(results_file) -> dict:
    return json.loads(results_file.read_text())


def test_a_runs_results_fit_the_schema(results):
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(results)
    assert results["complete"]


def test_every_method_is_measured_on_every_prompt_asked_for(results):
    assert [(s["name"], s["style"], s["prompts"]) for s in results["sets"]] == [("code", "raw", 2), ("questions", "chat", 1)]
    methods = {"plain", "chain 7", "tree 7", "tree 16", "tree auto", "server-plain", "server-chain 3", "server-chain 7"}
    cases = {(r["set"], r["prompt"]): set() for r in results["runs"]}
    for run in results["runs"]:
        cases[run["set"], run["prompt"]].add(run["method"])
    assert cases == {case: methods for case in [("code", 0), ("code", 1), ("questions", 0)]}


def test_numbers_of_a_speculating_method_belong_together(results):
    tree = Table(results).get("tiny-F32", "all", "tree 16")
    assert tree["prompts"] == tree["texts"] == 3
    assert tree["acceptance_length"] == pytest.approx(1 + tree["accepted"] / tree["rounds"])
    assert tree["acceptance_length"] > 1.2  # the drafter guesses a good part of this text
    phases = dict(tree["milliseconds_per_round"])
    wall = phases.pop("wall")
    assert 0.5 * wall < sum(phases.values()) <= 1.01 * wall
    assert 0 < tree["overhead_share"] < 1


def test_texts_are_compared_with_plain_decoding(results):
    for run in results["runs"]:
        if run["kind"] in ("plain", "chain", "tree"):
            assert run["first_difference"] is None or run["top_two_gap"] < 1e-3
        else:  # the fake server writes zeros
            assert run["first_difference"] == 0 and run["top_two_gap"] >= 0


def test_the_servers_own_times_are_used(results):
    chain = Table(results).get("tiny-F32", "all", "server-chain 7")
    assert chain["tokens_per_second"] == pytest.approx(200)
    assert chain["ratio_to_plain"] == pytest.approx(2)  # of the server's plain decoding, not of ours
    assert chain["acceptance_length"] == pytest.approx(11 / 6)


def test_no_local_path_is_recorded(results, folder):
    assert str(folder) not in json.dumps(results)
    # where the temporary folder is a neighbour of the checkout, the path to it from there is kept
    assert re.search(r"--target (\.\./\S*)?tiny-F32\.gguf", results["command"]) and "code.jsonl:2" in results["command"]


def test_tables_go_between_their_markers(results_file, tmp_path):
    page = tmp_path / "page.md"
    names = ["bars", "speed", "pictures", "acceptance", "phases", "peers", "exactness"]
    page.write_text("# Title\n" + "".join(f"<!-- begin {n} -->\nold\n<!-- end {n} -->\nbetween\n" for n in names))
    script("report.py", results_file, "--into", page)
    once = page.read_text()
    assert "old" not in once and once.count("between") == 7 and once.startswith("# Title\n")
    assert once.count("`python benchmarks/bench.py --target") == 7
    assert re.search(r"\| tree 16 \|", once) and "llama-server, chain 7" in once
    script("report.py", results_file, "--into", page)
    assert page.read_text() == once


def test_tables_of_a_run_without_a_server_and_drafts(results, tmp_path):
    runs = [run for run in results["runs"] if run["kind"] == "plain"]
    file = tmp_path / "plain.json"
    file.write_text(json.dumps({**results, "runs": runs, "summary": summarise(runs)}))
    assert "| plain |" in script("report.py", file)


def test_a_run_that_was_cut_short_is_reported_and_plotted(results, tmp_path):
    pytest.importorskip("matplotlib")
    runs = [run for run in results["runs"] if run["set"] == "code"]
    file = tmp_path / "cut.json"
    file.write_text(json.dumps({**results, "complete": False, "runs": runs, "summary": summarise(runs)}))
    assert "not all prompts that were asked for" in script("report.py", file)
    script("plot.py", file, "--out", tmp_path)


def test_plots_are_pictures(results_file, tmp_path):
    pytest.importorskip("matplotlib")
    script("plot.py", results_file, "--out", tmp_path / "images")
    assert (tmp_path / "images" / "tiny-F32.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_is_named(folder):
    args = arguments(folder)
    assert "no such file: nowhere.gguf" in script("bench.py", *args, "--target", "nowhere.gguf", "--out", "x", status=1)
    assert "--ctx 512" in script("bench.py", *args, "--max-tokens", 250, "--out", folder / "long.json", status=1)


def run_of(method: str, seconds: float, **more) -> dict:
    base = dict(target="t", set="s", prompt=0, repeat=0, method=method, kind=method, budget=None, baseline="plain")
    return {**base, "decoded": 100, "seconds": seconds, "rounds": None, "phases": None, "first_difference": None, **more}


def test_a_ratio_is_the_median_over_prompts_and_repeats_of_neighbours():
    seconds = {(0, 0): (2.0, 1.0), (0, 1): (6.0, 2.0), (1, 0): (4.0, 1.0)}  # machine drift: plain takes 2 to 6 seconds
    runs = [
        run_of(method, s, prompt=prompt, repeat=repeat)
        for (prompt, repeat), pair in seconds.items()
        for method, s in zip(("plain", "tree"), pair)
    ]
    tree = next(s for s in summarise(runs) if (s["set"], s["method"]) == ("all", "tree"))
    assert tree["ratio_to_plain"] == 3.0 and tree["ratio_range"] == [2.0, 4.0]
    # the first prompt's median of 100 and 50 tokens per second, the second's 100
    assert tree["tokens_per_second"] == pytest.approx(200 / (100 / 75 + 1))
