"""`Llama(draft_model=<checkpoint>)`: converted once into a cache, then as any drafter."""

import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkpoints import CONFIG, dflash_shapes, random_tensors, write_case, write_safetensors
from drafter_models import make_predictable
from models import write_hybrid, write_target
from same_text import assert_same_text

from llama_dflash import DFlashDraft, Llama
from llama_dflash.convert import cache
from llama_dflash.convert import convert as convert_checkpoint

SETTINGS = dict(n_ctx=512, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, seed=1, verbose=False)
PROMPT = list(b"the digits: 0123")


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """It has the vocabulary and hidden size of the checkpoints, and text that a drafter of small weights guesses."""
    return make_predictable(write_target(tmp_path_factory.mktemp("target") / "target.gguf", n_layer=4))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "Tiny-DFlash"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_safetensors(folder / "model.safetensors", random_tensors(dflash_shapes(), "BF16", std=0.02))
    return folder


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_DFLASH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "drafters"


def text(llm):
    tokens = []
    for token in llm.generate(PROMPT, temp=0.0):
        tokens.append(token)
        if len(tokens) == 40:
            return tokens


def files(folder):
    return sorted(p.name for p in folder.glob("*.gguf"))


@pytest.mark.parametrize("part", ["", "model.safetensors"])
def test_a_checkpoint_drafts_as_its_gguf_file_does(target, checkpoint, cached, tmp_path, part):
    file = convert_checkpoint(checkpoint, target, tmp_path / "drafter.gguf")
    texts, accepted = [], []
    for path in (file, checkpoint / part):
        llm = Llama(str(target), draft_model=DFlashDraft(path, budget=12), **SETTINGS)
        texts.append(text(llm))
        accepted.append((llm.speculative_stats.rounds, llm.speculative_stats.accepted))
        llm.close()
    assert texts[0] == texts[1] and accepted[0] == accepted[1] and accepted[0][1] > 0
    assert (cached / files(cached)[0]).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("case", "layers"), [("dflash2", None), ("dspark", [0, 2]), ("dspark-reduced", None), ("dspark-gemma4", [0, 1, 2])]
)
@pytest.mark.parametrize("settings", [dict(budget=16), dict(budget=12, mode="chain"), dict()], ids=str)
def test_every_kind_drafts(target, tmp_path, case, layers, settings):
    checkpoint = write_case(tmp_path, case, **({"target_layer_ids": layers} if layers else {}))
    plain = Llama(str(target), **{**SETTINGS, "flash_attn": True, "logits_all": True})
    llm = Llama(str(target), draft_model=DFlashDraft(checkpoint, **settings), **SETTINGS)
    assert_same_text(plain, PROMPT, text(plain), text(llm))
    if settings:
        assert llm.speculative_stats.nodes > 100 and len(llm.last_tree.tokens) > 4
    plain.close()
    llm.close()


def test_a_folder_with_a_gguf_file_is_as_good_as_the_file(target, checkpoint, tmp_path):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "config.json").write_text("{}")  # some repositories have the original's beside the GGUF file
    file = convert_checkpoint(checkpoint, target, folder / "drafter-bf16.gguf")
    llm = Llama(str(target), draft_model=DFlashDraft(folder, budget=12), **SETTINGS)
    text(llm)
    assert llm.speculative_stats.accepted > 0
    llm.close()
    (folder / "drafter-q8_0.gguf").write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="holds 2 GGUF files .drafter-bf16.gguf, drafter-q8_0.gguf.: name the one"):
        Llama(str(target), draft_model=folder, **SETTINGS)


def test_it_is_converted_once(target, checkpoint, cached, monkeypatch):
    first = cache.converted(checkpoint, target)
    monkeypatch.setattr(cache, "_convert", lambda *_: pytest.fail("converted again"))
    assert cache.converted(checkpoint, target) == cache.converted(checkpoint / "model.safetensors", target) == first
    assert first.name.startswith("Tiny-DFlash-") and files(cached) == [first.name]


def test_a_changed_checkpoint_and_another_target_are_converted_anew(target, checkpoint, cached, tmp_path):
    first = cache.converted(checkpoint, target)
    other = write_hybrid(tmp_path / "other.gguf", n_layer=4)
    of_other_target = cache.converted(checkpoint, other)
    file = checkpoint / "model.safetensors"
    before = file.stat()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert len({first, of_other_target, cache.converted(checkpoint, target)}) == len(files(cached)) == 3


def test_another_quantisation_of_the_target_shares_the_file(target, checkpoint, cached, tmp_path):
    copy = write_target(tmp_path / "copy.gguf", n_layer=4, seed=9)  # other weights, the same model
    assert cache.converted(checkpoint, target) == cache.converted(checkpoint, copy)


def test_a_llama_with_a_checkpoint_pickles(target, checkpoint):
    llm = Llama(str(target), draft_model=checkpoint, **SETTINGS)
    copy = pickle.loads(pickle.dumps(llm))
    assert copy.draft_model == llm.draft_model == DFlashDraft(checkpoint)
    assert text(copy) == text(llm)
    llm.close()
    copy.close()


def test_processes_that_want_the_same_one_at_once_convert_it_once(target, checkpoint, cached, tmp_path):
    program = (
        "import sys, time; from llama_dflash.convert import cache; one = cache._convert\n"
        "def slow(*a): print('converts', flush=True); time.sleep(0.5); one(*a)\n"
        "cache._convert = slow; print(cache.converted(*sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, str(checkpoint), str(target)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) for _ in range(3)]
    outputs = [process.communicate(timeout=60)[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert sum(output.count("converts") for output in outputs) == 1
    assert len({output[-1] for output in outputs}) == 1
    assert [p.suffix for p in cached.iterdir() if p.suffix != ".lock"] == [".gguf"]


def test_a_process_that_is_killed_leaves_no_drafter_and_no_lock(target, checkpoint, cached, tmp_path):
    program = (
        "import sys, time; from llama_dflash import convert\n"
        "def stuck(*a): print('writing', flush=True); time.sleep(60)\n"
        "convert._encoded = stuck; from llama_dflash.convert import cache; cache.converted(*sys.argv[1:])"
    )
    command = [sys.executable, "-c", program, str(checkpoint), str(target)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout.readline() == "writing\n"
    process.kill()
    process.communicate()
    assert files(cached) == []
    start = time.monotonic()
    path = cache.converted(checkpoint, target)
    assert time.monotonic() - start < 10
    assert {p.name for p in cached.iterdir()} == {path.name, path.with_suffix(".lock").name}  # and nothing half-written


def test_the_example_drafts(target, checkpoint, cached, tmp_path):
    script = Path(__file__).parents[2] / "examples" / "use_a_published_drafter.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(script), str(target), str(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (
        f"converted to {cached}" in done.stdout
        and "drafter: ring" in done.stdout
        and "acceptance" in done.stdout.lower()
    )


def refusal(target, draft):
    with pytest.raises(ValueError) as error:
        Llama(str(target), draft_model=draft, **SETTINGS).close()
    return str(error.value)


def test_a_bare_file_without_config(target, tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {})
    message = refusal(target, tmp_path / "model.safetensors")
    assert message.startswith("draft_model: ") and "has no config.json beside it" in message


def test_a_drafter_of_another_target(target, tmp_path):
    message = refusal(target, write_case(tmp_path, "plain", hidden_size=128))
    assert (
        message.startswith("draft_model: the drafter has hidden size 128, the target ")
        and "made for another target" in message
    )


def test_a_missing_target(checkpoint, tmp_path):
    assert refusal(tmp_path / "no.gguf", checkpoint) == f"Model path does not exist: {tmp_path / 'no.gguf'}"


def test_a_cache_that_can_not_be_written(target, checkpoint, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLAMA_DFLASH_CACHE", str(tmp_path / "file"))
    assert "set LLAMA_DFLASH_CACHE to a folder with room" in refusal(target, checkpoint)
