"""Drafters from the Hub: what is downloaded, checked, converted and kept, and what is said where that does not work."""

import shutil

import pytest
from hub_server import files_of, use_hub

from llama_dflash import DFlashDraft, Eagle3Draft, Llama, ModelDraft
from llama_dflash.drafts import parse
from llama_dflash.hub import Access, HubError, HubId, drafter as hub_drafter
from llama_dflash.hub.drafter import fetch_drafter

PUBLISHED = "org/plain-DFlash"


def drafts(target, draft_model, **settings):
    """Rounds of a short text."""
    llm = Llama(target, draft_model=draft_model, n_ctx=256, n_threads=1, verbose=False, **settings)
    llm.create_completion("0123", max_tokens=8)
    rounds = llm.speculative_stats.rounds
    llm.close()
    return rounds


def test_a_checkpoint_is_downloaded_and_converted_once(hub, models, target, tmp_path):
    hub.add(PUBLISHED, files_of(models / "published"))
    assert drafts(target, PUBLISHED) > 0
    (converted,) = (tmp_path / "cache" / "drafters").glob("*.gguf")
    written, sent = converted.stat().st_mtime_ns, hub.sent("model.safetensors")
    assert drafts(target, [PUBLISHED, "ngram"]) > 0
    assert converted.stat().st_mtime_ns == written and hub.sent("model.safetensors") == sent > 0


def test_a_converted_checkpoint_needs_no_download_any_more(hub, models, target, tmp_path):
    hub.add(PUBLISHED, files_of(models / "published"))
    drafts(target, PUBLISHED)
    sent = hub.sent("model.safetensors")
    shutil.rmtree(tmp_path / "hf")
    assert drafts(target, PUBLISHED) > 0 and hub.sent("model.safetensors") == sent


def test_a_new_commit_is_converted_anew_and_a_revision_names_the_old_one(hub, models, target, tmp_path):
    repo = hub.add(PUBLISHED, files_of(models / "published"))
    first = repo.refs["main"]
    drafts(target, PUBLISHED)
    repo.push({**files_of(models / "published"), "README.md": b"new"})
    drafts(target, PUBLISHED)
    assert len(list((tmp_path / "cache" / "drafters").glob("*.gguf"))) == 2
    asked = len(hub.asked)
    drafts(target, f"{PUBLISHED}@{first}")
    assert not any("model.safetensors" in path for _, path, _ in hub.asked[asked:])


def test_a_gguf_file_is_taken_as_it_is(hub, models, target, tmp_path):
    hub.add("org/drafter-GGUF", files_of(models / "drafter.gguf"))
    for name in ("org/drafter-GGUF", "hf://org/drafter-GGUF/drafter.gguf", "org/drafter-GGUF@main:*.gguf"):
        assert drafts(target, name) > 0
    assert not (tmp_path / "cache").exists() and hub.sent("drafter.gguf") == (models / "drafter.gguf").stat().st_size


def test_a_quantisation_names_one_of_several_files(hub, models, target):
    content = (models / "drafter.gguf").read_bytes()
    hub.add("org/many", {"x-Q8_0.gguf": content, "x-Q4_K_M.gguf": content, "mmproj-F16.gguf": b"no model"})
    assert fetch_drafter(HubId("org/many", None, "q8_0"), target).name == "x-Q8_0.gguf"
    with pytest.raises(HubError, match=r"has 2 GGUF files that this may mean: name one, as in org/many:x-Q4_K_M.gguf"):
        fetch_drafter(HubId("org/many"), target)
    with pytest.raises(HubError, match=r"has no GGUF file Q5_0: name one"):
        fetch_drafter(HubId("org/many", None, "Q5_0"), target)


def test_settings_are_kept_until_the_kind_is_known(hub, models, target):
    hub.add(PUBLISHED, files_of(models / "published"))
    assert drafts(target, DFlashDraft(PUBLISHED, budget=4, block="short")) > 0
    (draft,) = parse(PUBLISHED)
    (ready,) = draft.all_ready_for(target)
    assert isinstance(ready, DFlashDraft) and ready.path.endswith(".gguf")


def test_from_pretrained_gives_a_draft(hub, models, target):
    hub.add(PUBLISHED, files_of(models / "published"))
    hub.add("org/drafter-GGUF", files_of(models / "drafter.gguf"))
    assert drafts(target, DFlashDraft.from_pretrained(PUBLISHED, budget=4)) > 0
    assert drafts(target, DFlashDraft.from_pretrained("org/drafter-GGUF", "drafter.gguf", revision="main")) > 0
    hub.add("org/small-GGUF", files_of(models / "target.gguf"))
    assert drafts(target, ModelDraft.from_pretrained("org/small-GGUF", depth=2)) > 0
    with pytest.raises(HubError, match="is a checkpoint, expected a repository with a GGUF file"):
        ModelDraft.from_pretrained(PUBLISHED)


# ---------------------------------------------------------------- whether it fits


@pytest.fixture
def check_everything(monkeypatch):
    """The models here are smaller than what is looked at before it is downloaded."""
    monkeypatch.setattr(hub_drafter, "CHECKED_FROM", 0)


@pytest.mark.parametrize("kind", ["checkpoint", "GGUF"])
def test_a_drafter_of_another_target_is_not_downloaded(hub, models, check_everything, kind):
    path = models / ("published" if kind == "checkpoint" else "drafter.gguf")
    files = files_of(path)
    weights = "model.safetensors" if kind == "checkpoint" else "drafter.gguf"
    files[weights] += b"\0" * (32 << 20)
    hub.add("org/d", files)
    with pytest.raises(ValueError, match=r"org/d does not fit .*other.gguf, and was not downloaded: the drafter has hidden size 64, .* 96"):
        Llama(str(models / "other.gguf"), draft_model="org/d", n_ctx=256, verbose=False)
    assert 0 < hub.sent(weights) < 5 << 20


def test_a_drafter_that_fits_is_looked_at_and_then_downloaded(hub, models, target, check_everything):
    hub.add(PUBLISHED, files_of(models / "published"))
    assert drafts(target, PUBLISHED) > 0


# ---------------------------------------------------------------- what can go wrong


def test_a_private_repository_needs_its_token(hub, models, target, monkeypatch, tmp_path):
    hub.add("org/private", files_of(models / "drafter.gguf"), token="secret")
    with pytest.raises(HubError, match="no such model, or it is private .*HF_TOKEN"):
        fetch_drafter(HubId("org/private"), target)
    assert fetch_drafter(HubId("org/private"), target, Access(token="secret")).is_file()
    with pytest.raises(HubError, match="or it is private"):
        fetch_drafter(HubId("org/private"), target, Access(token="wrong", cache_dir=tmp_path / "elsewhere"))
    use_hub(monkeypatch, hub.url, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert DFlashDraft.from_pretrained("org/private").path.endswith("drafter.gguf")


def test_a_gated_repository_says_where_its_terms_are(hub, models, target):
    hub.add("org/gated", files_of(models / "drafter.gguf"), gated=True)
    with pytest.raises(HubError, match=rf"org/gated is gated: accept its terms at {hub.url}/org/gated"):
        fetch_drafter(HubId("org/gated"), target)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such", r"no/such: the Hub has no such model, or it is private \(nor is there such a file or folder here\)"),
        ("org/drafter-GGUF@v9", "has no revision v9"),
        ("org/drafter-GGUF:nothing.gguf", r"has no GGUF file nothing.gguf: name one.*\(it has drafter.gguf\)"),
        ("org/readme", r"org/readme holds no drafter: .* \(it has README.md\)"),
    ],
)
def test_what_is_not_there_is_said(hub, models, target, name, message):
    hub.add("org/drafter-GGUF", files_of(models / "drafter.gguf"))
    hub.add("org/readme", {"README.md": b"# hello"})
    with pytest.raises(ValueError, match=message):
        drafts(target, name)


def test_a_connection_that_breaks_off_is_taken_up_again(hub, models, target, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.add("org/drafter-GGUF", files_of(models / "drafter.gguf"))
    hub.cuts["drafter.gguf"] = 2
    path = fetch_drafter(HubId("org/drafter-GGUF"), target)
    assert path.read_bytes() == (models / "drafter.gguf").read_bytes()
    assert hub.cuts["drafter.gguf"] < 0


def test_a_connection_that_keeps_breaking_off_is_said(hub, models, target, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.add("org/drafter-GGUF", files_of(models / "drafter.gguf"))
    hub.cuts["drafter.gguf"] = 1000
    with pytest.raises(HubError, match="org/drafter-GGUF: the (connection broke off|Hub .* can't be reached)"):
        fetch_drafter(HubId("org/drafter-GGUF"), target)
    hub.cuts.clear()
    assert fetch_drafter(HubId("org/drafter-GGUF"), target).is_file()


def test_offline_mode_takes_what_is_in_the_cache(hub, models, target, monkeypatch, tmp_path):
    hub.add(PUBLISHED, files_of(models / "published"))
    hub.add("org/drafter-GGUF", files_of(models / "drafter.gguf"))
    fetch_drafter(HubId("org/drafter-GGUF"), target)
    drafts(target, PUBLISHED)
    asked = len(hub.asked)
    use_hub(monkeypatch, hub.url, tmp_path, offline=True)
    assert drafts(target, "org/drafter-GGUF") > 0 and drafts(target, PUBLISHED) > 0
    with pytest.raises(HubError, match="no/such is not in the cache, and HF_HUB_OFFLINE is set: unset it"):
        fetch_drafter(HubId("no/such"), target)
    assert len(hub.asked) == asked


def test_a_hub_out_of_reach_is_no_trouble_for_what_is_in_the_cache(hub, models, target, monkeypatch, tmp_path):
    hub.add("org/drafter-GGUF", files_of(models / "drafter.gguf"))
    fetch_drafter(HubId("org/drafter-GGUF"), target)
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path)  # nobody listens there
    assert drafts(target, "org/drafter-GGUF") > 0
    with pytest.raises(HubError, match=r"no/such: the Hub \(http://127.0.0.1:9\) can't be reached, and the cache does not have it"):
        fetch_drafter(HubId("no/such"), target)


def test_without_huggingface_hub_the_line_that_installs_it_is_said(models, target, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'there is no file or folder org/name here, and .* pip install "llama-dflash\[hub\]"'):
        Llama(target, draft_model="org/name", n_ctx=256, verbose=False)
    with pytest.raises(ImportError, match="pip install"):
        Eagle3Draft.from_pretrained("org/name")
