"""What `draft_model=` takes, and what a kind of drafter is made of."""

import pickle
from dataclasses import dataclass
from typing import Union

import pytest
from drafter_models import write_drafter

from conftest import SETTINGS
from llama_dflash import DFlashDraft, Llama, drafts
from llama_dflash.drafts import Draft, FileDraft, parse
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding


def test_a_path_is_a_drafter_of_the_kind_that_its_file_says(pair):
    assert parse(str(pair.drafter)) == parse(pair.drafter) == parse([pair.drafter]) == [DFlashDraft(pair.drafter)]


def test_none_is_no_drafter():
    assert parse(None) == []


def test_settings_stay_as_they_are():
    draft = DFlashDraft("drafter.gguf", budget=5)
    assert parse(draft)[0] is draft


def test_a_stock_draft_model_stays_what_it_is():
    stock = LlamaPromptLookupDecoding()
    assert parse(stock) is stock
    with pytest.raises(ValueError, match="an item of draft_model is a LlamaPromptLookupDecoding, expected the path"):
        parse([stock])


def test_a_list_is_a_drafter_each(pair):
    assert parse([str(pair.drafter), DFlashDraft("other.gguf")]) == [DFlashDraft(pair.drafter), DFlashDraft("other.gguf")]


def test_a_list_of_one_drafts(pair):
    llm = Llama(str(pair.target), draft_model=[pair.drafter], **SETTINGS)
    assert llm.draft_model == [DFlashDraft(pair.drafter)] and llm.speculative_stats is not None
    llm.close()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (7, "draft_model is a int"),
        ([], "draft_model is an empty list"),
        ([None], "an item of draft_model is a NoneType"),
        ("nothing", 'draft_model is "nothing", which is no file'),
        (["nothing"], 'an item of draft_model is "nothing", which is no file'),
    ],
    ids=str,
)
def test_something_else_is_told_what_is_accepted(given, found):
    with pytest.raises(ValueError) as error:
        parse(given)
    message = str(error.value)
    assert message.startswith(f"{found}, expected the path of a DFlash drafter, ")
    assert all(f" {kind.__name__}, " in message for kind in drafts.KINDS)
    assert message.endswith("a list of these, a LlamaDraftModel of llama-cpp-python, or None")


def test_a_file_of_an_architecture_that_nothing_drafts_with(pair, monkeypatch):
    monkeypatch.setattr(drafts, "KINDS", (DFlashDraft,))
    with pytest.raises(ValueError, match=f'{pair.target.name} has architecture "llama", expected "dflash": draft_model takes the path'):
        parse(pair.target)


def test_a_folder_is_of_the_kind_of_its_file(pair, tmp_path):
    write_drafter(tmp_path / "drafter.gguf", pair.target)
    assert parse(tmp_path) == [DFlashDraft(tmp_path)]


# ---------------------------------------------------------------- kinds


@dataclass(frozen=True)
class Echo(Draft):
    kind = "echo"
    word = "echo"

    length: int = 8
    budget: Union[str, int] = "auto"
    mode: str = "tree"

    def __post_init__(self):
        super().__post_init__()
        self._check_int("length", 1, "a number of tokens, at least 1")


@dataclass(frozen=True)
class Small(FileDraft):
    kind = "small"
    asked_for = "the path of a small model"

    path: str
    context: int = 512
    n_gpu_layers: int = 0
    type_k: int = 1
    type_v: int = 1
    budget: Union[str, int] = 4
    mode: str = "chain"

    @classmethod
    def drafts_with(cls, architecture):
        return True


@pytest.fixture
def kinds(monkeypatch):
    monkeypatch.setattr(drafts, "KINDS", (DFlashDraft, Echo, Small))


def test_a_kind_without_a_file_has_a_word(kinds):
    assert parse("echo") == [Echo()]
    with pytest.raises(ValueError, match=r'path of a small model, its id on the Hub \(org/name\), "echo", a DFlashDraft, a Echo, a Small, a list of these'):
        parse(7)


def test_the_last_kind_takes_the_files_that_are_left(kinds, pair):
    assert parse([pair.drafter, pair.target]) == [DFlashDraft(pair.drafter), Small(pair.target)]


def test_every_kind_checks_what_is_common_and_its_own():
    assert pickle.loads(pickle.dumps(Echo(3))) == Echo(3)
    with pytest.raises(ValueError, match='Echo: budget is 0, expected "auto" or a number of nodes, at least 1'):
        Echo(budget=0)
    with pytest.raises(ValueError, match="Echo: length is None, expected a number of tokens, at least 1"):
        Echo(length=None)
    with pytest.raises(ValueError, match="Small: context is 0, expected a number of positions, at least 1"):
        Small("d.gguf", context=0)


def test_the_engine_gets_the_settings_that_were_given():
    assert Echo().engine_params(n_gpu_layers=3) == {}
    given = DFlashDraft("d.gguf", context=7, type_k=8, block="short").engine_params(n_gpu_layers=3)
    assert given == dict(path=b"d.gguf", n_context=7, n_gpu_layers=3, type_k=8, flash_attn=True, short_block=True)
    assert DFlashDraft("d.gguf", n_gpu_layers=0).engine_params(n_gpu_layers=3)["n_gpu_layers"] == 0


def test_a_kind_that_the_engine_does_not_know_is_an_error(kinds, pair):
    with pytest.raises(ValueError, match='no kind of drafter "echo"'):
        Llama(str(pair.target), draft_model="echo", **SETTINGS)
