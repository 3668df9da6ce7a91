"""The prompt sets that ship with the package."""

import json
from pathlib import Path

import pytest

from llama_dflash.bench.prompts import read_prompts

SETS = Path(__file__).resolve().parents[2] / "benchmarks" / "prompts"
ROWS = [json.loads(line) for line in (SETS / "edit.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_edit_set_is_of_40_different_questions():
    assert len({row["question"] for row in ROWS}) == len(ROWS) == 40
    assert {row["kind"] for row in ROWS} == {"rename", "fix", "spelling", "table", "rewrite", "quote", "list", "json"}
    assert all(set(row) == {"kind", "question", "answer"} and row["answer"] for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=[str(i) for i in range(len(ROWS))])
def test_an_edit_asks_for_something_and_then_gives_the_text(row):
    asked, _, text = row["question"].partition("\n\n")
    assert 20 < len(asked) < 200 and "\n" not in asked
    assert 150 < len(text) < 1000 and text.count("```") in (0, 2)
    assert row["question"] == row["question"].strip() and "\t" not in text


def test_bench_takes_a_set_by_its_name():
    edit = read_prompts("edit")
    assert (edit.name, edit.style) == ("edit", "chat") and edit.texts == [row["question"] for row in ROWS]
    assert read_prompts("edit:3").texts == edit.texts[:3]


def test_a_file_goes_before_a_set_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("edit").write_text('{"prompt": "mine"}\n')
    assert read_prompts("edit").texts == ["mine"]


def test_a_set_that_is_not_there_is_an_error_that_names_those_that_are():
    with pytest.raises(ValueError, match=r"--prompts edits: No such file.*sets that ship with the package: edit"):
        read_prompts("edits")
