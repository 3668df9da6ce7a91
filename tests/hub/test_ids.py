"""What names something on the Hub, and what is a path."""

import pytest

from llama_dflash.hub import HubId, as_hub_id


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("z-lab/Qwen3.5-27B-DFlash", HubId("z-lab/Qwen3.5-27B-DFlash")),
        ("unsloth/Qwen3.5-27B-GGUF:Q4_K_M", HubId("unsloth/Qwen3.5-27B-GGUF", None, "Q4_K_M")),
        ("org/name:file.gguf", HubId("org/name", None, "file.gguf")),
        ("org/name@v1:folder/file.gguf", HubId("org/name", "v1", "folder/file.gguf")),
        ("org/name@refs/pr/3", HubId("org/name", "refs/pr/3")),
        ("hf://org/name", HubId("org/name")),
        ("hf://org/name/file.gguf", HubId("org/name", None, "file.gguf")),
        ("hf://org/name@abc123/folder/file.gguf", HubId("org/name", "abc123", "folder/file.gguf")),
        ("hf://org/name:file.gguf", HubId("org/name", None, "file.gguf")),
        *[
            (path, None)
            for path in ("ngram", "drafter.gguf", "models/drafter.gguf", "./org/name", "../org/name", "/org/name", "a/b/c", "org/..")
        ],
        ("C:\\models\\x", None),
        (b"org/name", None),
        (3, None),
    ],
)
def test_an_id_is_told_from_a_path(text, id):
    assert as_hub_id(text) == id


def test_a_folder_that_is_there_is_a_path(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert as_hub_id("org/name") is None and as_hub_id("hf://org/name") == HubId("org/name")


@pytest.mark.parametrize("text", ["hf://", "hf://name", "hf://org/name@", "hf://or g/name"])
def test_a_url_that_is_no_id_is_an_error(text):
    with pytest.raises(ValueError, match="is no id of the Hub, expected hf://org/name"):
        as_hub_id(text)


@pytest.mark.parametrize("id", [HubId("org/name"), HubId("org/name", "v1", "x.gguf"), HubId("org/name", None, "Q8_0")])
def test_an_id_as_text_is_the_id(id):
    assert as_hub_id(str(id)) == id
