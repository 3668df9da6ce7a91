"""`llama-dflash bench`: what it writes, what it prints, and what becomes of an interrupted run."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from drafter_models import write_drafter

from llama_dflash import cli

jsonschema = pytest.importorskip("jsonschema")

PAIR = ["--target", "target.gguf", "--draft-model", "drafter.gguf"]
QUICK = ["--chain-budgets", "3", "--tree-budgets", "4,auto", "--max-tokens", "8", "--ctx", "256", "--threads", "1"]


@pytest.fixture
def prompts(files) -> Path:
    def write(name, rows):
        (files / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("texts.jsonl", [{"prompt": "012"}, {"prompt": "345"}, {"prompt": "67"}])
    write("questions.jsonl", [{"question": "1 and 1?"}])
    write("others.jsonl", [{"text": "abc"}])
    write("empty.jsonl", [])
    write("all.jsonl", [{"prompt": "a"}])
    write("nothing.jsonl", [{"prompt": "a"}, {"prompt": ""}])
    write("many.jsonl", [{"prompt": str(n)} for n in range(2000)])
    write_drafter(files / "wrong.gguf", files / "target.gguf", n_embd=96)
    (files / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    return files


def checked(file: Path) -> dict:
    from llama_dflash.bench.results import SCHEMA

    results = json.loads(file.read_text())
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(results)
    return results


def test_bench_writes_results_and_prints_tables(command, prompts):
    asked = ["bench", *PAIR, "--prompts", "texts.jsonl:2", "--prompts", "questions.jsonl", *QUICK, "--out", "out/r.json"]
    done = command(*asked)
    assert done.returncode == 0, done.stderr
    results = checked(prompts / "out" / "r.json")
    assert results["complete"] and results["command"] == " ".join(["llama-dflash", *asked])
    assert len(results["runs"]) == 3 * len(["plain", "chain 3", "tree 4", "tree auto"])
    assert results["versions"]["git_commit"] is None  # whatever repository the folder is in, it is not ours
    for text in ("## Speed\n", "| tokens per second (times plain) | texts | questions | all |", "\n| tree auto |"):
        assert text in done.stdout
    assert "3/3 texts[1]" in done.stderr and "min left" in done.stderr
    assert "\r" not in done.stderr  # no line moves where there is no terminal


def test_bench_drafts_from_the_text_itself_alone_and_beside_a_drafter(command, prompts):
    for given, name, n_bytes in ((["ngram"], "ngram", 0), (["drafter.gguf", "ngram"], "drafter + ngram", None)):
        words = [word for item in given for word in ("--draft-model", item)]
        asked = ["--target", "target.gguf", *words, "--prompts", "texts.jsonl:2", *QUICK, "--out", f"{name}.json"]
        done = command("bench", *asked)
        assert done.returncode == 0, done.stderr
        results = checked(prompts / f"{name}.json")
        n_bytes = (prompts / "drafter.gguf").stat().st_size if n_bytes is None else n_bytes
        assert results["drafter"] == {"name": name, "bytes": n_bytes}
        assert {run["method"] for run in results["runs"]} == {"plain", "chain 3", "tree 4", "tree auto"}


def test_a_llama_server_drafts_with_one_drafter_only(command, prompts):
    (prompts / "llama-server").touch()
    several = ["--draft-model", "ngram", "--llama-server", "llama-server"]
    done = command("bench", *PAIR, *several, "--prompts", "texts.jsonl", *QUICK, "--out", "r.json")
    assert done.returncode != 0 and "--llama-server: it can't draft with drafter.gguf and ngram together" in done.stderr


def test_tables_and_pictures_go_into_files(prompts, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(prompts)
    monkeypatch.setitem(sys.modules, "jsonschema", None)  # is not needed to measure
    asked = ["--prompts", "others.jsonl", "--field", "text", "--markdown", "md/r.md", "--plots", "png", "--out", "files.json"]
    assert cli.main(["bench", *PAIR, *QUICK, *asked]) == 0
    assert capsys.readouterr().out == ""
    tables = (prompts / "md" / "r.md").read_text()
    assert "| tree 4 |" in tables and "| others | single prompts" in tables  # no column for all of one set
    assert (prompts / "png" / "target.png").read_bytes().startswith(b"\x89PNG")
    assert checked(prompts / "files.json")["sets"] == [{"name": "others", "style": "raw", "prompts": 1}]


def test_a_published_drafter_is_measured(prompts, monkeypatch, tmp_path):
    monkeypatch.chdir(prompts)
    monkeypatch.setenv("LLAMA_DFLASH_CACHE", str(tmp_path))
    pair = ["--target", "target.gguf", "--draft-model", "published"]
    assert cli.main(["bench", *pair, "--prompts", "texts.jsonl:1", *QUICK, "--out", "published.json"]) == 0
    results = checked(prompts / "published.json")
    assert results["drafter"]["name"] == "published" and results["drafter"]["bytes"] > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "no.jsonl"], "--prompts no.jsonl: No such file or directory"),
        (["--prompts", "others.jsonl"], 'expected rows of JSON, each with a "prompt" or each with a "question"'),
        (["--prompts", "texts.jsonl", "--field", "text"], 'each with a "text" (a text)'),
        (["--prompts", "empty.jsonl"], "it has no rows"),
        (["--prompts", "broken.jsonl"], "row 2 is no JSON"),
        (["--prompts", "all.jsonl"], '"all" is what all prompts together are called'),
        (["--prompts", "nothing.jsonl"], "nothing: prompt 1 is empty"),
        (["--prompts", "texts.jsonl", "--prompts", "./texts.jsonl"], "two files have the same name"),
        (["--prompts", "texts.jsonl", "--target", "./target.gguf"], "two targets have the same file name"),
        (["--prompts", "texts.jsonl", "--target", "no.gguf"], "no such file: no.gguf"),
        (["--prompts", "texts.jsonl", "--llama-server", "no"], "no such file: no"),
        (["--prompts", "texts.jsonl", "--draft-model", "no.gguf"], "no such file: no.gguf"),
        (["--prompts", "texts.jsonl", "--draft-model", "wrong.gguf"], "wrong.gguf does not fit target.gguf: "),
        (["--prompts", "texts.jsonl", "--draft-model", "bigram"], 'draft_model is "bigram", which is no file'),
        (["--prompts", "texts.jsonl", "--max-tokens", "250"], "use --ctx 512"),
        (["--prompts", "texts.jsonl", "--markdown", "published"], "published is a folder"),
        (["--prompts", "texts.jsonl", "--markdown", "texts.jsonl/r.md"], "File exists"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_problem_is_stated_and_nothing_is_written(prompts, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(prompts)
    assert cli.main(["bench", *PAIR, *QUICK, "--out", "problem.json", *arguments]) == 1
    shown = capsys.readouterr()
    stated = shown.err.splitlines()[-1]
    assert stated.startswith("llama-dflash bench: ") and message in stated
    assert shown.out == "" and not (prompts / "problem.json").exists()


def test_without_matplotlib_a_sentence_says_what_to_install(prompts, capsys, monkeypatch):
    monkeypatch.chdir(prompts)
    monkeypatch.delitem(sys.modules, "llama_dflash.bench.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    asked = ["--prompts", "texts.jsonl", "--plots", "png", "--out", "problem.json"]
    assert cli.main(["bench", *PAIR, *QUICK, *asked]) == 1
    assert '--plots needs matplotlib: pip install "llama-dflash[bench]"' in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_keeps_what_was_measured(prompts, number):
    arguments = ["bench", *PAIR, "--prompts", "many.jsonl", *QUICK, "--out", "interrupted.json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_dflash", *arguments],
        cwd=prompts, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background of a shell ignore it
    )  # fmt: skip
    try:
        for line in process.stderr:
            if "2/2000" in line:
                process.send_signal(number)
                break
        printed, said = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1 and "interrupted: interrupted.json holds what was measured" in said
    assert "not all prompts that were asked for" in printed
    results = checked(prompts / "interrupted.json")
    assert not results["complete"] and len(results["runs"]) >= 2 * 4 and len(results["runs"]) % 4 == 0
