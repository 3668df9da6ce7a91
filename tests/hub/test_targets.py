"""Targets from the Hub: Llama.from_pretrained, alone and with a drafter."""

import pytest
from hub_server import files_of

from llama_dflash import Llama
from llama_dflash.hub import HubError

SMALL = dict(n_ctx=256, n_threads=1, verbose=False)


def test_a_target_and_its_drafter_come_from_the_hub(hub, models):
    hub.add("org/target-GGUF", files_of(models / "target.gguf"))
    hub.add("org/plain-DFlash", files_of(models / "published"))
    llm = Llama.from_pretrained("org/target-GGUF", "target.gguf", draft_model="org/plain-DFlash", **SMALL)
    llm.create_completion("0123", max_tokens=8)
    assert llm.speculative_stats.rounds > 0 and "models--org--target-GGUF" in llm.model_path
    llm.close()


def test_a_file_is_named_as_in_llama_cpp_python_or_by_its_quantisation(hub, models, tmp_path):
    content = (models / "target.gguf").read_bytes()
    hub.add("org/t", {"t-Q4_K_M.gguf": content, "t-Q8_0.gguf": content + b"\0", "mmproj.gguf": b"p", "mmproj-2.gguf": b"p"})
    for filename, found in [("*Q8_0*", "t-Q8_0.gguf"), ("Q8_0", "t-Q8_0.gguf"), (None, "t-Q4_K_M.gguf"), ("t-Q8_0.gguf", "t-Q8_0.gguf")]:
        llm = Llama.from_pretrained("org/t", filename, **SMALL)
        assert llm.model_path.endswith(found)
        llm.close()
    llm = Llama.from_pretrained("org/t", "*Q8_0*", additional_files=["mmproj.gguf"], local_dir=tmp_path / "here", **SMALL)
    llm.close()
    assert {file.name for file in (tmp_path / "here").glob("*.gguf")} == {"t-Q8_0.gguf", "mmproj.gguf"}
    with pytest.raises(HubError, match=r"2 files of org/t match mmproj\*"):
        Llama.from_pretrained("org/t", "*Q8_0*", additional_files=["mmproj*"], **SMALL)
    with pytest.raises(HubError, match=r"org/t has no GGUF file \*Q5\*"):
        Llama.from_pretrained("org/t", "*Q5*", **SMALL)


def test_all_parts_of_a_model_that_was_split_come(hub, models):
    hub.add("org/split", {f"t-Q8_0-0000{i}-of-00002.gguf": bytes([i]) for i in (1, 2)})
    with pytest.raises(ValueError, match="t-Q8_0-00001-of-00002.gguf"):  # these parts hold no model
        Llama.from_pretrained("org/split", "Q8_0", **SMALL)
    assert hub.sent("t-Q8_0-00002-of-00002.gguf") == 1


@pytest.mark.parametrize("drafter", ["org/plain-DFlash", "file"])
def test_a_target_that_the_drafter_was_not_made_for_is_not_downloaded(hub, models, drafter):
    hub.add("org/other-GGUF", {"other.gguf": (models / "other.gguf").read_bytes() + b"\0" * (32 << 20)})
    hub.add("org/plain-DFlash", files_of(models / "published"))
    named = str(models / "drafter.gguf") if drafter == "file" else drafter
    with pytest.raises(HubError, match="does not fit org/other-GGUF, and neither was downloaded: the drafter has hidden size 64"):
        Llama.from_pretrained("org/other-GGUF", draft_model=["ngram", named], **SMALL)
    assert 0 < hub.sent("other.gguf") < 5 << 20


def test_a_model_path_that_looks_like_an_id_says_what_to_do():
    with pytest.raises(ValueError, match=r"Model path does not exist: org/name. If .* Llama.from_pretrained\('org/name', '\*Q4_K_M.gguf'\)"):
        Llama("org/name", verbose=False)
    with pytest.raises(ValueError, match=r"Llama.from_pretrained\('org/name', 'Q8_0'\)"):
        Llama("org/name:Q8_0", draft_model="ngram", verbose=False)


def test_the_servers_settings_take_a_drafter_of_the_hub(hub, models):
    pytest.importorskip("pydantic_settings")
    from llama_dflash.server.settings import ModelSettings

    target = str(models / "target.gguf")
    (draft,) = ModelSettings(model=target, draft_model="org/plain-DFlash", draft_model_block="short", draft_model_budget=4).drafters()
    hub.add("org/plain-DFlash", files_of(models / "published"))
    (ready,) = draft.all_ready_for(target)
    assert (ready.block, ready.budget) == ("short", 4) and ready.path.endswith(".gguf")
    with pytest.raises(ValueError, match="no such file: drafter-that-is-not-there.gguf"):
        ModelSettings(model=target, draft_model="drafter-that-is-not-there.gguf").drafters()
