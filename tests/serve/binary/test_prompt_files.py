"""Prompts that no longer fit in the server's memory come back from files."""

import random

import pytest
from llama_server import Server

MOST = ("-np", 1, "-c", 2048, "--cache-ram", 1)


def conversations(n, n_letters=1200):
    rng = random.Random(n)
    return ["".join(rng.choice("0123456789 abc") for _ in range(n_letters)) for _ in range(n)]


def files(folder):
    return sorted(folder.glob("*.prompt"), key=lambda path: path.stat().st_mtime)


@pytest.fixture
def saved(tmp_path):
    (tmp_path / "saved").mkdir()
    return tmp_path / "saved"


def options(saved, drafter, *words):
    return (*MOST, "--cache-disk", 64, "--slot-save-path", f"{saved}/", "--spec-type", "tree", "-md", drafter, *words)


@pytest.mark.parametrize("arch", ["llama", "qwen35"])
def test_conversations_take_turns_on_one_slot(start, pairs, saved, arch):
    target, drafter = pairs[arch]
    plain, server = start("-m", target, *MOST), start("-m", target, *options(saved, drafter))
    texts = conversations(4)
    for turn in range(3):
        for i, text in enumerate(texts):
            answer = server.complete(text, 16)
            assert answer["content"] == plain.complete(text, 16, cache_prompt=False)["content"]
            if turn > 0:
                assert answer["timings"]["prompt_n"] < 40, answer["timings"]
            texts[i] = text + answer["content"] + f" and {turn}"
    assert files(saved)
    server.stop()

    again = start("-m", target, *options(saved, drafter))
    found = [again.complete(text, 16)["timings"]["prompt_n"] < 40 for text in texts]
    assert sum(found) >= 2  # but for those that were in memory
    assert all((path.stat().st_mode & 0o077) == 0 for path in files(saved))


def test_damaged_files_and_those_of_other_models_are_no_use_and_no_harm(start, pairs, saved):
    target, drafter = pairs["llama"]
    server = start("-m", target, *options(saved, drafter))
    texts = conversations(4)
    expected = [server.complete(text, 8)["content"] for text in texts]
    server.stop()
    assert len(files(saved)) >= 2
    for path, n in zip(files(saved), (100, 100_000)):
        path.write_bytes(path.read_bytes()[:n])
    again = start("-m", target, *options(saved, drafter))
    assert [again.complete(text, 8)["content"] for text in texts] == expected
    again.stop()

    n_files = len(files(saved))
    other, other_drafter = pairs["qwen35"]
    stranger = start("-m", other, *options(saved, other_drafter))
    assert stranger.complete(texts[0], 8)["timings"]["cache_n"] == 0
    assert len(files(saved)) == n_files


def test_the_oldest_files_make_room(start, pairs, saved):
    target, drafter = pairs["llama"]
    server = start("-m", target, *options(saved, drafter), "--cache-disk", 3)
    for text in conversations(8):
        server.complete(text, 4)
    assert files(saved) and sum(path.stat().st_size for path in files(saved)) <= 3 * 2**20


def test_options_that_do_not_go_together_end_the_start(pairs, folder, saved):
    target, _ = pairs["llama"]
    for words, sentence in (
        (("--cache-disk", 64), "give --slot-save-path"),
        (("--cache-disk", 64, "--slot-save-path", saved, "--cache-ram", 0), "must not be 0"),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            Server(folder / "refused.log", "-m", target, *words)
