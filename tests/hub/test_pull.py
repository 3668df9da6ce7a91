"""`llama-dflash pull` and `run` with models of the Hub."""

import io
import json

import pytest
from hub_server import files_of

from llama_dflash import cli


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_DFLASH_CONFIG", str(tmp_path / "config"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.chdir(tmp_path)


def test_a_pair_is_pulled_and_run_by_its_short_name(hub, models, capsys):
    hub.add("org/Target-1B-GGUF", {"Target-1B-Q4_K_M.gguf": (models / "target.gguf").read_bytes()})
    hub.add("org/plain-DFlash", files_of(models / "published"))
    assert cli.main(["pull", "org/Target-1B-GGUF", "--draft-model", "org/plain-DFlash,ngram", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "target-1b" and found["draft_model"][0].endswith(".gguf") and found["draft_model"][1] == "ngram"
    asked = len(hub.asked)
    assert cli.main(["run", "target-1b", "0123", "--max-tokens", "4", "--json", "--ctx", "256"]) == 0
    assert json.loads(capsys.readouterr().out)["speculation"]["rounds"] > 0
    assert len(hub.asked) == asked  # all is here


def test_without_a_known_drafter_the_text_itself_drafts_and_it_is_said(hub, models, capsys):
    hub.add("org/t-GGUF", files_of(models / "target.gguf"))
    assert cli.main(["pull", "org/t-GGUF"]) == 0
    captured = capsys.readouterr()
    assert "no drafter is known for this model" in captured.err and "drafts of ngram" in captured.out


def test_a_pair_that_does_not_fit_is_not_pulled(hub, models, capsys):
    hub.add("org/other-GGUF", {"other.gguf": (models / "other.gguf").read_bytes() + b"\0" * (32 << 20)})
    hub.add("org/plain-DFlash", files_of(models / "published"))
    assert cli.main(["pull", "org/other-GGUF", "--draft-model", "org/plain-DFlash"]) == 1
    assert "does not fit org/other-GGUF, and neither was downloaded" in capsys.readouterr().err and hub.sent("other.gguf") < 5 << 20
    assert cli.main(["pull"]) == 0 and "Nothing was pulled yet" in capsys.readouterr().out


def test_a_model_that_is_not_on_the_hub_is_said(hub, capsys):
    assert cli.main(["pull", "no/such"]) == 1
    assert "llama-dflash pull: no/such: the Hub has no such model" in capsys.readouterr().err
