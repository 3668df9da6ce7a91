"""`DFlashDraft` and the `draft_model` argument: what is accepted, and what a user is told otherwise."""

import dataclasses
import pickle
import re
import warnings

import pytest
from architectures import write_architecture
from drafter_models import write_drafter
from models import write_recurrent
from same_text import assert_same_text

from conftest import SETTINGS
from llama_dflash import DFlashDraft, Llama

PROMPT = list(b"the digits: 0123")


def test_settings_have_the_documented_defaults():
    draft = DFlashDraft("drafter.gguf")
    assert dataclasses.astuple(draft) == ("drafter.gguf", "auto", "tree", 4096, None, None, None, "whole", True, None, True, None)


def test_a_path_object_is_as_good_as_a_string(tmp_path):
    assert DFlashDraft(tmp_path / "d.gguf") == DFlashDraft(str(tmp_path / "d.gguf"))


def test_settings_are_values(pair):
    draft = pair.draft(budget=7, mode="chain", context=100, n_gpu_layers=0, type_k=8, type_v=8)
    assert pickle.loads(pickle.dumps(draft)) == draft and hash(draft) == hash(dataclasses.replace(draft))
    with pytest.raises(dataclasses.FrozenInstanceError):
        draft.budget = 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(path=None), "path is None, expected a str or a path"),
        (dict(path=b"d.gguf"), "path is b'd.gguf', expected a str or a path"),
        (dict(budget=0), 'budget is 0, expected "auto" or a number of nodes, at least 1'),
        (dict(budget=-3), "budget is -3"),
        (dict(budget=2.5), "budget is 2.5"),
        (dict(budget=True), "budget is True"),
        (dict(budget="all"), "budget is 'all'"),
        (dict(budget=2**40), "budget is 1099511627776"),
        (dict(mode="star"), 'mode is \'star\', expected "tree" or "chain"'),
        (dict(mode=None), "mode is None"),
        (dict(block="half"), 'block is \'half\', expected "whole" or "short"'),
        (dict(flash_attn=1), "flash_attn is 1, expected True or False"),
        (dict(context=0), "context is 0"),
        (dict(context="4096"), "context is '4096'"),
        (dict(n_gpu_layers=-2), "n_gpu_layers is -2"),
        (dict(type_k=4), "type_k is 4, expected a ggml type for a cache"),
        (dict(type_v="f16"), "type_v is 'f16'"),
        (dict(type_v=[]), "type_v is []"),
        (dict(type_v=True), "type_v is True"),
    ],
    ids=str,
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        DFlashDraft(**{"path": "d.gguf", **settings})


@pytest.mark.parametrize("how", ["str", "path", "draft"])
def test_a_drafter_is_given_by_path_or_with_settings(load, pair, plain, how):
    given = {"str": str(pair.drafter), "path": pair.drafter, "draft": pair.draft()}[how]
    llm = load(pair, given)
    assert llm.draft_model == DFlashDraft(pair.drafter)
    a, b = (list(zip(range(20), one.generate(PROMPT, temp=0.0))) for one in (plain, llm))
    assert_same_text(plain, PROMPT, [t for _, t in a], [t for _, t in b])


@pytest.mark.parametrize("type_k", [None, 0, 1, 8, 30])
@pytest.mark.parametrize("type_v", [None, 0, 8])
def test_every_cache_type_drafts(load, pair, plain, type_k, type_v):
    llm = load(pair, pair.draft(budget=12, type_k=type_k, type_v=type_v))
    a, b = (list(zip(range(30), one.generate(PROMPT, temp=0.0))) for one in (plain, llm))
    assert_same_text(plain, PROMPT, [t for _, t in a], [t for _, t in b])
    assert llm.speculative_stats.accepted > 0


def refusal(target, draft_model, **settings):
    with pytest.raises(ValueError) as error:
        Llama(str(target), draft_model=draft_model, **{**SETTINGS, **settings})
    return str(error.value)


def test_a_missing_drafter(pair, tmp_path):
    assert refusal(pair.target, tmp_path / "no.gguf") == f"draft_model: no such file: {tmp_path / 'no.gguf'}"


def test_a_missing_target(pair, tmp_path):
    assert "does not exist" in refusal(tmp_path / "no.gguf", pair.draft())


def test_a_checkpoint_without_its_config(pair, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"{}")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        message = refusal(pair.target, path)
        assert message.startswith("draft_model: ") and "has no config.json" in message


def test_a_file_that_is_no_gguf(pair, tmp_path):
    (tmp_path / "d.gguf").write_text("hello")
    assert "is no GGUF file: it starts with b'hell'" in refusal(pair.target, tmp_path / "d.gguf")
    (tmp_path / "empty.gguf").touch()
    assert "is no GGUF file" in refusal(pair.target, tmp_path / "empty.gguf")


@pytest.mark.parametrize("value", [7, 3.5, [7], [], "nothing", ["nothing"], [None]], ids=str)
def test_something_that_is_no_draft_model(pair, value):
    assert "expected the path of a DFlash drafter" in refusal(pair.target, value)


def test_a_budget_larger_than_the_physical_batch(pair):
    assert "budget is 64, expected 0 (auto) or 1 to n_ubatch - 1 = 63" in refusal(pair.target, pair.draft(budget=64))


def test_a_target_whose_layers_can_not_be_read(pair, tmp_path):
    target = write_architecture(tmp_path / "gemma3n.gguf", "gemma3n")
    message = refusal(target, write_drafter(tmp_path / "drafter.gguf", target))
    assert "can't be had of architecture \"gemma3n\"" in message and "draft_model=None" in message


def test_a_refused_drafter_leaves_no_target_behind(pair, tmp_path):
    target = write_architecture(tmp_path / "gemma3n.gguf", "gemma3n")
    with pytest.raises(ValueError):
        llm = Llama.__new__(Llama)
        llm.__init__(str(target), draft_model=write_drafter(tmp_path / "drafter.gguf", target), **SETTINGS)
    assert llm._model.model is None and llm._ctx.ctx is None and llm._engine is None


def test_a_recurrent_target_that_holds_no_trees_is_refused(tmp_path):
    target = write_recurrent(tmp_path / "mamba.gguf")
    message = refusal(target, write_drafter(tmp_path / "drafter.gguf", target))
    assert "the recurrent layers of mamba targets can't compute draft trees" in message and "draft_model=None" in message


def test_a_target_that_holds_no_trees_says_so_once_and_verifies_chains(pair, monkeypatch):
    from llama_dflash import _engine

    monkeypatch.setattr(_engine._library_functions(), "uses_trees", lambda engine: False)
    with pytest.warns(RuntimeWarning, match="chains are verified instead") as record:
        Llama(str(pair.target), draft_model=pair.draft(), **SETTINGS).close()
    assert len(record) == 1 and record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Llama(str(pair.target), draft_model=pair.draft(mode="chain"), **SETTINGS).close()
