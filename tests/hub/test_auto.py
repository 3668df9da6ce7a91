"""draft_model="auto", and the list of published drafters that it looks into."""

import json
import re

import gguf
import pytest
from hub_server import files_of, use_hub
from models import write_hybrid, write_recurrent
from mtp_models import add_random_layer

from llama_dflash import Llama, MTPDraft, NGramDraft
from llama_dflash.drafts import AutoDraft
from llama_dflash.drafts.auto import choose
from llama_dflash.gguf_file import GgufFile
from llama_dflash.pairs import FORMATS, known_targets, targets_called, targets_like


def known_drafter(folder, target, *repos, name="Test-1B"):
    """The user's pairs.json, with drafters for a target's shape."""
    file = GgufFile(target)
    drafters = [{"repo": repo, "publisher": "org", "format": "dflash", "source": "a test"} for repo in repos]
    entry = {"name": name, "model": f"org/{name}", "architecture": file.arch, "layers": file.n_layers, "drafters": drafters}
    entry.update(hidden_size=file.of_arch("embedding_length"), vocabulary=file.n_vocab)
    path = folder / "config" / "pairs.json"
    path.parent.mkdir(exist_ok=True)
    listed = json.loads(path.read_text())["targets"] if path.is_file() else []
    path.write_text(json.dumps({"targets": [*listed, entry]}))


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_DFLASH_CONFIG", str(tmp_path / "config"))


def test_a_published_drafter_is_taken_and_said(hub, models, target, tmp_path, capfd):
    hub.add("org/plain-DFlash", files_of(models / "published"))
    known_drafter(tmp_path, target, "org/plain-DFlash")
    llm = Llama(target, draft_model="auto", n_ctx=256, n_threads=1, verbose=False)
    llm.create_completion("0123", max_tokens=8)
    assert llm.speculative_stats.rounds > 0 and isinstance(llm.draft_model, AutoDraft)
    llm.close()
    said = "llama-dflash: drafting with org/plain-DFlash (DFlash, for Test-1B), and with n-grams of the text"
    assert said in capfd.readouterr().err.splitlines()


def test_the_next_drafter_is_taken_where_the_first_is_not_to_be_had(hub, models, target, tmp_path):
    hub.add("org/drafter-GGUF", files_of(models / "drafter.gguf"))
    known_drafter(tmp_path, target, "org/gone-DFlash", "org/drafter-GGUF")
    assert "org/drafter-GGUF" in choose(target).why


def test_a_model_that_nobody_knows_drafts_from_its_text(hub, target):
    found = choose(target)
    assert found.drafts == [NGramDraft()] and "n-grams of the text alone (no drafter is known for this model" in found.why
    assert hub.asked == []


def test_the_models_own_layer_drafts_where_nothing_is_published(hub, tmp_path):
    target = str(add_random_layer(write_hybrid(tmp_path / "hybrid.gguf"), tmp_path / "mtp.gguf"))
    found = choose(target)
    assert found.drafts == [MTPDraft(), NGramDraft()] and "the model's own MTP layer" in found.why
    chosen = []
    llm = Llama(target, draft_model=AutoDraft(budget=4, on_choice=chosen.append), n_ctx=256, n_threads=1, verbose=False)
    llm.create_completion("0123", max_tokens=8)
    assert llm.speculative_stats.nodes > 0 and chosen == [found.why]
    llm.close()


def test_where_the_hub_is_out_of_reach_the_reason_is_said(hub, target, tmp_path, monkeypatch):
    known_drafter(tmp_path, target, "org/plain-DFlash")
    use_hub(monkeypatch, hub.url, tmp_path, offline=True)
    found = choose(target)
    assert found.drafts == [NGramDraft()] and "HF_HUB_OFFLINE is set" in found.why


def test_a_model_that_takes_no_drafts_is_decoded_plainly(hub, tmp_path):
    target = str(write_recurrent(tmp_path / "recurrent.gguf"))
    assert choose(target).drafts == [] and choose(target).why.startswith("no drafter: the recurrent layers of")
    llm = Llama(target, draft_model="auto", n_ctx=256, n_threads=1, verbose=False)
    assert llm.create_completion("0123", max_tokens=4)["choices"] and llm.speculative_stats is None
    llm.close()


# ---------------------------------------------------------------- pairs.json


def test_the_list_has_what_a_reader_needs():
    targets = known_targets()
    assert len({target.name for target in targets}) == len(targets) > 20
    for target in targets:
        assert target.drafters and min(target.shape[1:]) > 0 and "/" in target.model
        for drafter in target.drafters:
            assert drafter.format in FORMATS and drafter.source.startswith("https://")
            assert re.fullmatch(r"[\w.-]+/[\w.-]+", drafter.repo) and drafter.repo.startswith(drafter.publisher + "/")


def like(tmp_path, name=None, **shape):
    """Which known targets a file of these numbers may be; it has no weights."""
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", shape["arch"])
    writer.add_block_count(shape["layers"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_token_list(["t"] * shape["vocabulary"])
    if name is not None:
        writer.add_name(name)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [target.name for target in targets_like(GgufFile(tmp_path / "x.gguf"))]


def test_a_target_is_known_by_its_sizes(tmp_path):
    assert like(tmp_path, arch="qwen3", layers=36, hidden=4096, vocabulary=151936) == ["Qwen3-8B"]
    assert like(tmp_path, arch="qwen3", layers=36, hidden=4096, vocabulary=151935) == []


def test_targets_of_the_same_sizes_are_told_apart_by_the_name_in_the_file(tmp_path):
    shape = dict(arch="qwen35", layers=64, hidden=5120, vocabulary=248320)
    assert like(tmp_path, "Qwen3.6 27B", **shape) == ["Qwen3.6-27B"]
    assert like(tmp_path, "Qwen_Qwen3.5-27B", **shape) == ["Qwen3.5-27B"] or like(tmp_path, "Qwen3.5-27B", **shape) == ["Qwen3.5-27B"]
    assert like(tmp_path, "My model", **shape) == ["Qwen3.8-27B", "Qwen3.6-27B", "Qwen3.5-27B"]
    shape = dict(arch="qwen3moe", layers=48, hidden=2048, vocabulary=151936)
    assert like(tmp_path, "Qwen3 Coder 30B A3B Instruct", **shape) == ["Qwen3-Coder-30B-A3B-Instruct"]
    assert like(tmp_path, "Qwen3-30B-A3B-Instruct-2507", **shape) == ["Qwen3-30B-A3B-Instruct-2507"]


def test_a_target_is_found_by_a_part_of_its_name():
    assert [target.name for target in targets_called("qwen3.5-27b")] == ["Qwen3.5-27B"]
    assert [target.name for target in targets_called("openai/gpt-oss-20b")] == ["gpt-oss-20b"]
    assert targets_called("") == [] and targets_called("nothing-like-it") == []


def test_ones_own_pairs_come_first_and_a_damaged_list_is_said(tmp_path, models):
    known_drafter(tmp_path, models / "target.gguf", "org/mine", name="Qwen3-8B")
    (target,) = targets_called("Qwen3-8B")
    assert target.drafters[0].repo == "org/mine" and target.architecture == "qwen3" and len(target.drafters) > 3
    (tmp_path / "config" / "pairs.json").write_text('{"targets": [{"name": 3}]}')
    with pytest.raises(ValueError, match="pairs.json can't be used"):
        targets_called("x")
