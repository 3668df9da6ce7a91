"""Files that are no drafter for the target, or damaged: always a ValueError that says what was found, never a crash."""

import itertools
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import SETTINGS
from drafter_models import make_predictable, write_drafter
from models import N_VOCAB, write_target
from same_text import assert_same_text

from llama_dflash import DFlashDraft, Llama

PROMPT = list(b"the digits: 0123")
FUZZ = Path(__file__).with_name("fuzz_drafters.py")
sys.path.append(str(Path(__file__).parents[1] / "fuzz"))

from damage import Gguf  # noqa: E402


def refusal(target, drafter):
    with pytest.raises(ValueError, match="^draft_model: ") as error:
        Llama(str(target), draft_model=drafter, **SETTINGS).close()
    return str(error.value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def small(folder):
    """A target and the smallest drafter with everything that a drafter can have in it."""

    def more(w):
        w.add_sliding_window(16)
        w.add_array("dflash.attention.sliding_window_pattern", [True, False])
        w.add_rope_dimension_sections([16, 0, 0, 0])
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(2.0)
        w.add_rope_scaling_orig_ctx_len(2048)
        w.add_final_logit_softcapping(30.0)
        w.add_logit_scale(1.0)
        w.add_float32("dflash.embedding_scale", 1.0)
        w.add_float32("dflash.attention.scale", 0.2)
        w.add_string("dflash.hidden_act", "silu")

    target = make_predictable(write_target(folder / "target.gguf"))
    drafter = write_drafter(folder / "drafter.gguf", target, n_ff=32, n_head=2, n_head_kv=1, more=more)
    return target, drafter


def test_a_plain_model(pair):
    message = refusal(pair.target, DFlashDraft(pair.target))
    assert 'has architecture "llama", expected "dflash"' in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(n_vocab=N_VOCAB - 5, mask=10), "vocabulary of 315 tokens, the target of 320"),
        (dict(n_embd=96), "hidden size 96, the target 64"),
        (dict(layers=(1, 7)), "input of target layer 7, the target has layers 0 to 2"),
        (dict(layers=(-1, 2)), "input of target layer -1"),
        (dict(layers=()), "target_layers"),
        (dict(mask=None, omit={"tokenizer.ggml.mask_token_id"}), "no mask token"),
        (dict(mask=N_VOCAB + 7), "mask"),
        (dict(block_size=1), "dflash.block_size = 1"),
        (dict(block_size=0), "dflash.block_size = 0"),
        (dict(arch="eagle3"), "no EAGLE-3 head, or it is damaged"),
        (dict(reduced=[48, 49, N_VOCAB]), f"token {N_VOCAB}, outside the vocabulary"),
        (dict(reduced=[48, -1, 49]), "token -1, outside the vocabulary"),
        (dict(reduced=[48, 49, 48]), "two rows of its head to token 48"),
        (dict(head="markov", omit={"markov_w2.weight"}), "could not load"),
        (dict(head="markov", reduced=[48, 49], omit={"d2t"}), "could not load"),
        (dict(head="selector", omit={"selector_top_k"}), "no key dflash.selector_top_k"),
        (dict(head="selector", omit={"conv_kernel_size"}), "no key dflash.conv_kernel_size"),
        (dict(head="selector", omit={"selector_successor.weight"}), "could not load"),
        (dict(head="selector", omit={"selector_hidden.weight"}), "no tensor selector_hidden.weight"),
        (dict(head="selector", top_k=0), "dflash.selector_top_k = 0"),
        (dict(head="selector", top_k=8), "could not load"),
        (dict(head="selector", top_k=65536), "dflash.selector_top_k = 65536"),
        (dict(more=lambda w: w.add_uint32("dflash.hyper_connection_count", 4)), "DSpark drafter of a DeepSeek V4 target"),
    ],
    ids=str,
)
def test_a_drafter_of_another_target(pair, folder, settings, message):
    assert message in refusal(pair.target, write_drafter(folder / "other.gguf", pair.target, **settings))


def test_a_drafter_with_other_token_texts(pair, folder):
    data = pair.drafter.read_bytes().replace(b"<pad>", b"<PAD>")
    (folder / "texts.gguf").write_bytes(data)
    message = refusal(pair.target, folder / "texts.gguf")
    assert '"<PAD>" in the drafter and "<pad>" in the target' in message


OPTIONAL = {
    "context_length",  # llama.cpp's own requirement, checked below
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "vocab_size",
}
KEYS = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "rope.freq_base",
    "attention.layer_norm_rms_epsilon",
    "vocab_size",
    "block_size",
    "target_layers",
    "tokenizer",
    "tokenizer.ggml.mask_token_id",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key(pair, folder, key):
    drafter = write_drafter(folder / "key.gguf", pair.target, omit={key})
    if key in OPTIONAL - {"context_length", "attention.key_length", "attention.value_length"}:
        Llama(str(pair.target), draft_model=drafter, **SETTINGS).close()
    else:
        refusal(pair.target, drafter)


def test_a_missing_tensor(pair, folder):
    names = [tensor.name for tensor in gguf.GGUFReader(str(pair.drafter)).tensors]
    for name in names:
        if not name.endswith("attn_v.weight"):  # K then serves as V too
            refusal(pair.target, write_drafter(folder / "tensor.gguf", pair.target, omit={name}))


@pytest.mark.parametrize("head", [None, "markov", "selector"])
def test_a_tensor_of_any_other_type_is_refused_or_works(pair, tmp_path, head):
    """In a process of its own. Files that are right but for one tensor's type: every tensor, every type."""
    drafter = write_drafter(tmp_path / "drafter.gguf", pair.target, n_layer=1, head=head)
    command = [sys.executable, str(FUZZ), str(pair.target), str(drafter), str(tmp_path / "case.gguf"), "types"]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    cases = [line for line in run.stdout.splitlines() if line.startswith("case ")]
    assert run.returncode == 0, f"exit code {run.returncode} at {cases[-1:]}\n{run.stderr[-2000:]}"
    assert len(cases) > 300 and "done: " in run.stdout


def test_the_refusal_of_a_type_names_tensor_and_types(pair, tmp_path):
    file = Gguf(pair.drafter)
    for name, kind, expected in [("fc.weight", "I32", "expected f32, f16, bf16"), ("output_norm.weight", "F16", "expected f32")]:
        i = next(i for i, tensor in enumerate(file.tensors) if tensor.name == name)
        (tmp_path / "typed.gguf").write_bytes(file.with_type(i, gguf.GGMLQuantizationType[kind]))
        message = refusal(pair.target, tmp_path / "typed.gguf")
        assert f"holds {name} as {kind.lower()}, {expected}" in message


@pytest.mark.parametrize("damage", ["nan", "inf", "huge", "zero", "noise"])
def test_damaged_weights_cost_acceptance_only(load, pair, plain, folder, damage):
    drafter = folder / f"{damage}.gguf"
    drafter.write_bytes(pair.drafter.read_bytes())
    for tensor in gguf.GGUFReader(str(drafter), "r+").tensors:
        rng = np.random.default_rng(1)
        value = {"nan": np.nan, "inf": np.inf, "huge": 1e30, "zero": 0.0, "noise": rng.standard_normal(tensor.data.shape)}
        tensor.data[:] = value[damage]
        tensor.data.flush()
    for settings in (dict(budget=12), dict(budget=7, mode="chain"), dict()):
        llm = load(pair, type(pair.draft())(drafter, **settings))
        a, b = (list(itertools.islice(one.generate(PROMPT, temp=0.0), 30)) for one in (plain, llm))
        assert_same_text(plain, PROMPT, a, b)


def test_a_reduced_draft_vocabulary_drafts_its_own_tokens_only(load, pair, plain, folder):
    drafter = write_drafter(folder / "reduced.gguf", pair.target, reduced=[48, 49, 50, 51], std=0.2)
    llm = load(pair, type(pair.draft())(drafter, budget=20))
    a, b = (list(itertools.islice(one.generate(PROMPT, temp=0.0), 40)) for one in (plain, llm))
    assert_same_text(plain, PROMPT, a, b)
    assert set(llm.last_tree.tokens[1:]) <= {48, 49, 50, 51} and llm.speculative_stats.accepted > 0


@pytest.mark.parametrize("head", ["markov", "selector"])
@pytest.mark.parametrize("arguments", [("truncate",), ("values",), ("flip", "0", "400")], ids=" ".join)
def test_no_damage_to_a_file_with_a_head_crashes(small, tmp_path, arguments, head):
    def more(w):
        w.add_bool("dflash.sample_from_anchor", True)
        w.add_bool("dflash.attention.causal", False)

    reduced = list(range(48, 56)) if head == "markov" else None
    drafter = write_drafter(
        tmp_path / "drafter.gguf", small[0], n_ff=32, n_head=2, n_head_kv=1, head=head, reduced=reduced, more=more
    )
    assert_no_crash(small[0], drafter, tmp_path, arguments)


@pytest.mark.parametrize(
    "arguments", [("truncate",), ("values",), *(("flip", str(n), str(n + 400)) for n in (0, 400))], ids=" ".join
)
def test_no_damage_to_the_file_crashes(small, tmp_path, arguments):
    assert_no_crash(*small, tmp_path, arguments)


def assert_no_crash(target, drafter, tmp_path, arguments):
    """In a process of its own: a crash there is a failure here, and the last case it printed is the one."""
    command = [sys.executable, str(FUZZ), str(target), str(drafter), str(tmp_path / "case.gguf"), *arguments]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    cases = [line for line in run.stdout.splitlines() if line.startswith("case ")]
    assert run.returncode == 0, f"exit code {run.returncode} at {cases[-1:]}\n{run.stderr[-2000:]}"
    assert len(cases) >= 300 and "done: " in run.stdout
