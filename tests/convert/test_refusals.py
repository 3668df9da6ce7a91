"""Checkpoints that do not convert: always a sentence that says what was found, never a file left behind."""

import json
import random
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import CASES, CONFIG, dflash_shapes, dspark_shapes, random_tensors, write_case, write_safetensors
from models import write_target

from llama_dflash.convert import convert

DFLASH = CONFIG["dflash_config"]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return write_target(tmp_path_factory.mktemp("target") / "target.gguf", n_layer=4)


@pytest.fixture
def refusal(target, tmp_path):
    def get(checkpoint, target=target, **settings):
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        with pytest.raises(ValueError) as error:
            convert(checkpoint, target, out / "drafter.gguf", **settings)
        assert list(out.iterdir()) == []
        assert type(error.value) is ValueError  # meant, not one that json or numpy raised
        return str(error.value)

    return get


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(architectures=["Qwen3ForCausalLM"]), "of architecture 'Qwen3ForCausalLM', expected that of a drafter"),
        (dict(architectures=[]), "of architecture None"),
        (dict(hidden_size=128), "hidden size 128, the target "),
        (dict(vocab_size=500), "vocabulary of 500 tokens, the target "),
        (dict(num_target_layers=64), "for a target of 64 layers, "),
        (dict(dflash_config={**DFLASH, "target_layer_ids": [1, 4]}), "reads the target's layer 4, "),
        (dict(dflash_config={**DFLASH, "target_layer_ids": [-2, 2]}), "reads the target's layer -2, "),
        (dict(dflash_config={**DFLASH, "target_layer_ids": []}), "names no target layers"),
        (
            dict(dflash_config={**DFLASH, "target_layer_ids": [0, 1, 2]}),
            "fc.weight has shape [64, 128], expected [64, 192]",
        ),
        (dict(dflash_config={"target_layer_ids": [0, 2]}), "mask_token_id = None"),
        (dict(dflash_config={**DFLASH, "mask_token_id": 320}), "mask token is 320, "),
        (dict(num_hidden_layers=3), "lacks layers.2.input_layernorm.weight, "),
        (dict(num_hidden_layers=1), "has layers.1.input_layernorm.weight, "),
        (dict(num_hidden_layers=None), "has no num_hidden_layers"),
        (dict(num_hidden_layers="two"), "num_hidden_layers = 'two', expected a whole number from 1 to "),
        (dict(intermediate_size=100), "layers.0.mlp.gate_proj.weight has shape [96, 64], expected [100, 64]"),
        (dict(head_dim=16), "layers.0.self_attn.q_proj.weight has shape [128, 64], expected [64, 64]"),
        (dict(quantization_config={"quant_method": "fp8"}), "the checkpoint is quantised"),
        (dict(rope_scaling={"rope_type": "yarn"}), "scales positions by yarn without factor"),
        (dict(rope_scaling={"rope_type": "dynamic", "factor": 2.0}), "rope_type = 'dynamic', expected one of default, "),
        (dict(rope_scaling={"rope_type": "llama3", "factor": 8.0}), "scales positions by llama3 without low_freq_factor"),
        (
            dict(rope_scaling={"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}),
            "partial_rotary_factor = 0.5 with rope_type = 'linear'",
        ),
        (dict(hidden_act="tanh"), "hidden_act = 'tanh', expected one of silu, "),
        (dict(attention_bias=True), "lacks layers.0.self_attn.q_proj.bias, "),
        (dict(mlp_bias=True), "mlp_bias = True, which changes what the drafter computes"),
        (dict(log_snr_conditioning=True), "log_snr_conditioning = True, which changes what the drafter computes"),
        (dict(layer_types=["full_attention", "linear_attention"]), "a layer of type 'linear_attention', expected"),
        (dict(layer_types=["full_attention"]), "layer_types = ['full_attention'], expected one for each of 2 layers"),
        (dict(is_causal="yes"), "is_causal = 'yes', expected true or false"),
        (
            dict(is_causal=True, dflash_config={**DFLASH, "causal": False}),
            "contradicts itself: is_causal = True, dflash_config.causal = False",
        ),
        (dict(dflash_config={**DFLASH, "new_trick": 3}), "new_trick = 3 in dflash_config, a setting that is not known"),
        (dict(dflash_config={**DFLASH, "projector_type": "domino"}), "projector_type = 'domino' for a DFlash drafter"),
        (dict(speculators_model_type="peagle"), "speculators_model_type 'peagle', expected dflash, dflash2, dspark or eagle3"),
        (dict(architectures=["Qwen35DSparkModel"]), "the gated attention of this class"),
        (dict(block_size="x"), "block_size = 'x', expected 2 to 1024"),
        (dict(dflash_config={**DFLASH, "block_size": 1}), "block_size = 1, expected 2 to 1024"),
        (
            dict(rms_norm_eps="tiny"),
            "gives attention.layer_norm_rms_epsilon (by the name in GGUF) as 'tiny', expected a number",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_config_of_something_else(tmp_path, refusal, changes, message):
    assert message in refusal(write_case(tmp_path, "plain", **changes))


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("dspark", dict(markov_head_type="gated"), "lacks markov_head.gate_proj.weight, "),
        ("dspark", dict(markov_head_type="grand"), "markov_head_type = 'grand', expected one of vanilla, gated, rnn"),
        ("dspark", dict(draft_vocab_size=40), "lacks d2t"),
        ("dspark-gemma4", dict(attention_k_eq_v=False), "attention_k_eq_v = False"),
        ("dspark-gemma4", dict(tie_word_embeddings=False), "lacks lm_head.weight"),
        (
            "dspark-gemma4",
            dict(rope_parameters={"rope_type": "proportional", "partial_rotary_factor": 0.3}),
            "partial_rotary_factor = 0.3",
        ),
        (
            "dflash2",
            dict(dflash_config={**CASES["dflash2"]["config"]["dflash_config"], "selector_rank": 8}),
            "has shape [320, 16], expected [320, 8]",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 14 else "",
)
def test_a_dspark_or_dflash2_config_that_does_not_convert(tmp_path, refusal, case, changes, message):
    assert message in refusal(write_case(tmp_path, case, **changes))


def test_a_mask_embedding_of_its_own(tmp_path, refusal):
    checkpoint = write_case(tmp_path, "plain")
    (checkpoint / "mask_embedding.pt").touch()
    assert "has a mask embedding of its own (mask_embedding.pt)" in refusal(checkpoint)


def test_a_missing_tensor(tmp_path, refusal):
    for name in dflash_shapes():
        tensors = random_tensors(dflash_shapes(), "BF16")
        del tensors[name]
        checkpoint = write_case(tmp_path, "plain")
        write_safetensors(checkpoint / "model.safetensors", tensors)
        assert f"the checkpoint lacks {name}, " in refusal(checkpoint)


def test_an_unknown_tensor(tmp_path, refusal):
    checkpoint = write_case(tmp_path, "plain")
    write_safetensors(
        checkpoint / "model.safetensors",
        random_tensors({**dflash_shapes(), "layers.0.self_attn.q_proj.bias": (128,)}, "F16"),
    )
    assert "has layers.0.self_attn.q_proj.bias, which llama.cpp's DFlash drafters do not have" in refusal(checkpoint)


def test_a_damaged_table_of_a_reduced_vocabulary(tmp_path, refusal):
    checkpoint = write_case(tmp_path, "dspark-reduced")
    tensors = random_tensors({**dspark_shapes(40, confidence=False), "d2t": (40,)}, "BF16")
    for values in (np.full(40, 300), np.arange(0, -40, -1)):
        tensors["d2t"] = "I64", values.astype(np.int64)
        write_safetensors(checkpoint / "model.safetensors", tensors)
        assert "d2t maps the drafter's 40 tokens to numbers" in refusal(checkpoint)


def test_files_that_are_missing(tmp_path, refusal):
    assert "no such checkpoint" in refusal(tmp_path / "no")
    checkpoint = write_case(tmp_path, "mrope", shards=3)
    (checkpoint / "model-00002-of-00003.safetensors").unlink()
    assert "lacks model-00002-of-00003.safetensors, which model.safetensors.index.json names" in refusal(checkpoint)
    (checkpoint / "model.safetensors.index.json").write_text("{}")
    assert "holds no weight_map" in refusal(checkpoint)
    empty = write_case(tmp_path, "plain")
    (empty / "model.safetensors").unlink()
    assert "has no model*.safetensors, nor a pytorch_model.bin (found: README.md, config.json)" in refusal(empty)
    (empty / "config.json").write_text("{")
    assert "is no readable JSON" in refusal(empty)
    (empty / "config.json").write_text('{"a":' * 100_000)
    assert "is no readable JSON" in refusal(empty)
    (empty / "config.json").unlink()
    assert "has no config.json in it" in refusal(empty)


def test_a_target_that_is_none(tmp_path, refusal, target):
    checkpoint = write_case(tmp_path, "plain")
    assert "no such file" in refusal(checkpoint, tmp_path / "no.gguf")
    drafter = convert(checkpoint, target, tmp_path / "drafter.gguf")
    assert "is a drafter itself" in refusal(checkpoint, drafter)
    assert "is no GGUF file: it starts with" in refusal(checkpoint, checkpoint / "config.json")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(target.read_bytes()[:-100])
    assert "is truncated: tensor" in refusal(checkpoint, cut)


def test_a_type_that_is_not_written(tmp_path, refusal):
    assert "type is 'q4_k', expected auto or one of f32, bf16" in refusal(write_case(tmp_path, "plain"), type="q4_k")


def test_every_truncation_of_a_safetensors_file(tmp_path, refusal):
    checkpoint = write_case(tmp_path, "plain")
    file = checkpoint / "model.safetensors"
    whole = file.read_bytes()
    for n_bytes in [0, 1, 7, 8, 9, 100, 1000, *random.Random(0).sample(range(len(whole)), 20), len(whole) - 1]:
        file.write_bytes(whole[:n_bytes])
        assert "truncated" in refusal(checkpoint)


def test_no_damage_to_the_files_is_any_other_exception(tmp_path, target):
    """A damaged header or config converts, or is a ValueError."""
    checkpoint = write_case(tmp_path, "dspark-reduced")
    rng = random.Random(1)
    for name, n_bytes in (("model.safetensors", 3000), ("config.json", 10**6)):
        file = checkpoint / name
        whole = file.read_bytes()
        for _ in range(150):
            damaged = bytearray(whole)
            damaged[rng.randrange(min(n_bytes, len(whole)))] = rng.choice(b'0179"{}[],:xe-')
            file.write_bytes(damaged)
            try:
                convert(checkpoint, target, tmp_path / "drafter.gguf")
            except ValueError:
                pass
        file.write_bytes(whole)


@pytest.mark.parametrize("case", ["window", "dflash2", "dspark-reduced", "dspark-gemma4"])
def test_any_value_of_another_type_in_the_config(tmp_path, target, case):
    """It converts, or is a ValueError of ours."""
    checkpoint = write_case(tmp_path, case)
    config = json.loads((checkpoint / "config.json").read_text())
    objects = [config, *(value for value in config.values() if isinstance(value, dict))]
    for holder in objects:
        for key, before in list(holder.items()):
            for value in ("x", -1, 2**70, None, ["x"], {}):
                holder[key] = value
                (checkpoint / "config.json").write_text(json.dumps(config))
                try:
                    convert(checkpoint, target, tmp_path / "drafter.gguf")
                except ValueError as error:
                    assert type(error) is ValueError, (key, value)
            holder[key] = before


def test_an_interrupted_conversion_leaves_what_was_there(tmp_path, target):
    out = tmp_path / "out" / "drafter.gguf"
    out.parent.mkdir()
    out.write_text("the one before")

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(write_case(tmp_path, "plain"), target, out, on_progress=interrupt)
    assert list(out.parent.iterdir()) == [out] and out.read_text() == "the one before"


def test_the_target_s_layers_for_multi_token_prediction_do_not_count(tmp_path):
    """Qwen3.5's GGUF files have one layer more than the model."""
    reference = Path(__file__).with_name("reference") / "qwen35.gguf"
    assert gguf.GGUFReader(str(reference)).fields["qwen35.block_count"].contents() == 5
    assert convert(write_case(tmp_path, "mrope", num_target_layers=4), reference, tmp_path / "d.gguf").is_file()
