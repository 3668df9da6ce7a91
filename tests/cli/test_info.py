"""`info` on files that fit and that do not, and its memory estimates against what llama.cpp logs."""

import ctypes
import random
import re

import gguf
import pytest
from architectures import ARCHITECTURES, write_architecture
from checkpoints import write_case
from drafter_models import write_drafter, write_eagle3
from models import HYBRIDS, write_hybrid, write_recurrent, write_target

from llama_dflash import DFlashDraft, Eagle3Draft, Llama
from llama_dflash.convert import convert
from llama_dflash.gguf_file import GgufFile
from llama_dflash.info import Model, Settings, doubts, problems, report, text

import llama_cpp  # after llama_dflash, which says where it comes from
from llama_cpp import _logger

MIB = 2**20


@pytest.fixture
def target(files):
    return files / "target.gguf"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(n_embd=96), "the drafter has hidden size 96, the target 64"),
        (dict(n_vocab=300, mask=10), "a vocabulary of 300 tokens, the target of 320"),
        (dict(layers=(1, 7)), "reads the input of target layer 7, the target has layers 0 to 3"),
        (dict(layers=()), "names no target layers"),
        (dict(mask=400), "the drafter has mask token 400"),
        (dict(omit={"tokenizer.ggml.mask_token_id"}), "the drafter has no mask token"),
        (dict(more=lambda w: w.add_uint32("dflash.hyper_connection_count", 4)), "DSpark drafter of a DeepSeek V4 target"),
    ],
    ids=str,
)
def test_a_drafter_that_does_not_fit(command, target, tmp_path, settings, message):
    drafter = write_drafter(tmp_path / "other.gguf", target, **settings)
    done = command("info", "target.gguf", str(drafter))
    assert (
        done.returncode == 1 and f"{drafter} does not fit target.gguf:\n  - " in done.stdout and message in done.stdout
    )
    with pytest.raises(ValueError):  # and the engine says so too
        Llama(str(target), draft_model=drafter, n_ctx=256, verbose=False).close()


def test_drafts_of_the_text_itself_fit_a_target_and_need_an_index(command, target):
    done = command("info", "target.gguf", "ngram", "--ctx", "1024")
    assert done.returncode == 0, done.stderr
    assert "ngram fits target.gguf." in done.stdout and re.search(r"n-gram index +170\.0 KiB", done.stdout)


def test_drafts_of_the_text_itself_do_not_fit_a_target_that_takes_none(command, target, tmp_path):
    recurrent = write_recurrent(tmp_path / "recurrent.gguf")
    done = command("info", str(recurrent), "ngram")
    assert done.returncode == 1 and f"ngram does not fit {recurrent}:\n  - the recurrent layers of" in done.stdout


def test_other_token_texts(target, files, tmp_path):
    drafter = tmp_path / "texts.gguf"
    drafter.write_bytes((files / "drafter.gguf").read_bytes().replace(b"<pad>", b"<PAD>"))
    assert problems(Model(target), Model(drafter)) == ['token 317 is "<PAD>" in the drafter and "<pad>" in the target']


@pytest.mark.parametrize(
    ("case", "kind"), [("dflash2", "DFlash2 drafter"), ("dspark", "DSpark drafter"), ("plain", "DFlash drafter")]
)
def test_kinds_of_drafters(target, tmp_path, case, kind):
    model = Model(convert(write_case(tmp_path, case), target, tmp_path / "d.gguf"))
    assert model.kind == kind and model.quantisation == "BF16"
    assert problems(Model(target), model) == []  # it reads the output of the last layer, among others


def test_a_recurrent_target_can_not_hold_trees(files, tmp_path):
    found = problems(Model(write_recurrent(tmp_path / "m.gguf")), Model(files / "drafter.gguf"))
    assert any("the recurrent layers of mamba targets can't compute draft trees" in problem for problem in found)


def test_hybrids_can(tmp_path):
    target = write_hybrid(tmp_path / "t.gguf")
    assert problems(Model(target), Model(write_drafter(tmp_path / "d.gguf", target))) == []


@pytest.mark.filterwarnings("ignore:.*chains are verified instead:RuntimeWarning")
@pytest.mark.parametrize("name", [*ARCHITECTURES, *HYBRIDS])
def test_which_architectures_fit_is_what_the_library_says(tmp_path, name):
    target = write_architecture(tmp_path / f"{name}.gguf", name)
    drafter = write_drafter(tmp_path / "d.gguf", target, n_layer=1)
    found = problems(Model(target), Model(drafter))
    settings = dict(n_ctx=64, n_batch=32, n_threads=1, n_gpu_layers=0, verbose=False)
    try:
        Llama(str(target), draft_model=str(drafter), **settings).close()
    except ValueError as error:
        assert len(found) == 1 and "draft_model=None" in str(error), (found, error)
    else:
        assert found == []


# ---------------------------------------------------------------- files of other converters


def of_another_converter(name, *values):
    """A key that llama.cpp's converter writes, and we don't."""
    return lambda w: getattr(w, f"add_{name}")(*values)


def sliding(w):
    w.add_sliding_window(64)
    w.add_array("dflash.attention.sliding_window_pattern", [True, False])


@pytest.mark.parametrize(
    ("more", "doubt"),
    [
        (sliding, "does not say whether its sliding layers are causal"),
        (of_another_converter("string", "dflash.rope.scaling.type", "yarn"), "takes attention factors twice"),
    ],
)
def test_a_file_that_drafts_something_else_is_doubted(command, target, tmp_path, more, doubt):
    drafter = write_drafter(tmp_path / "other.gguf", target, more=more)
    done = command("info", "target.gguf", str(drafter))
    assert done.returncode == 0 and "doubtful: it" in done.stdout and doubt in done.stdout


def test_rotary_dimensions_and_scales_of_the_target_are_doubted(target, tmp_path):
    part = write_drafter(
        tmp_path / "part.gguf", target, omit={"rope.dimension_count"}, more=of_another_converter("rope_dimension_count", 16)
    )
    assert ["rotates 16 of 32 dimensions" in doubt for doubt in doubts(Model(part))] == [True]
    capped = write_drafter(
        tmp_path / "c.gguf", target, head="markov", more=of_another_converter("float32", "dflash.logit_scale", 0.5)
    )
    assert ["has dflash.logit_scale" in doubt for doubt in doubts(Model(capped))] == [True]


@pytest.mark.parametrize("case", ["plain", "window", "yarn", "own-head", "dflash2", "dspark", "dspark-gemma4"])
def test_our_own_files_are_not(target, tmp_path, case):
    assert doubts(Model(convert(write_case(tmp_path, case), target, tmp_path / "d.gguf"))) == []


# ---------------------------------------------------------------- memory


def test_what_is_not_counted_is_said(files, tmp_path):
    plain = report([Model(files / "target.gguf")], Settings())
    tied = Model(files / "target.gguf")
    tied.tensors.pop("output.weight")
    tied = report([tied], Settings())
    hybrid = report([Model(write_hybrid(tmp_path / "t.gguf"))], Settings())
    assert ["compute buffers" in what for what in plain["memory_not_counted"]] == [True]
    assert ["second copy" in what for what in tied["memory_not_counted"]] == [False, True]
    assert "checkpoints" in hybrid["memory_not_counted"][-1]
    pair = report([Model(files / "target.gguf"), Model(files / "drafter.gguf")], Settings())
    assert ["features" in what for what in pair["memory_not_counted"]] == [False, True]
    for facts in (plain, hybrid, pair):
        assert text(facts).splitlines()[-len(facts["memory_not_counted"]) :] == [
            f"Not counted: {what}." for what in facts["memory_not_counted"]
        ]


@pytest.fixture
def logged(capfd):
    """Loads a model and returns the MiB that llama.cpp says it allocates, by what for, in the order of the log."""

    def load(path, **settings):
        llama_cpp.llama_log_set(_logger.llama_log_callback, ctypes.c_void_p(0))  # other tests set their own
        capfd.readouterr()
        Llama(str(path), n_threads=1, verbose=True, n_gpu_layers=0, use_mmap=False, **settings).close()
        log = capfd.readouterr().err
        return {
            "weights": re.findall(r"(\S+) model buffer size = +([\d.]+) MiB", log),
            "kv": re.findall(r"llama_kv_cache: size = +([\d.]+) MiB", log),
            "recurrent": re.findall(r"llama_memory_recurrent: size = +([\d.]+) MiB", log),
        }

    return load


def assert_weights(path, n_bytes, found, before=None):
    """The weights of a model. Those that a CPU's kernels want in a form of their own are in a buffer of their own; of the file's
    mapping the log then says from where to where it is used. Embeddings that are the output head too are there twice."""
    new = found["weights"][len(before["weights"]) if before else 0 :]
    own = [float(mib) for name, mib in new if not name.endswith("_Mapped")]
    logged = sum(own or [float(mib) for _, mib in new])
    tensors = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(str(path)).tensors}
    head = 0 if "output.weight" in tensors else tensors.get("token_embd.weight", 0)
    assert any(abs(size / MIB - logged) < 0.031 + 0.03 * logged for size in (n_bytes, n_bytes + head)), (n_bytes / MIB, found, before)


def assert_logged(parts, logged_mib):
    """`parts`: (what, bytes); the log has two decimals."""
    assert len(parts) == len(logged_mib), (parts, logged_mib)
    for (what, n_bytes), mib in zip(parts, logged_mib):
        assert abs(n_bytes / MIB - float(mib)) < 0.011, (what, n_bytes / MIB, mib)


TARGETS = {
    "llama": lambda path: write_target(path, n_layer=4),
    "qwen3": lambda path: write_target(path, "qwen3", n_head_kv=4),
    "gemma3": lambda path: write_target(path, "gemma3"),
    "qwen35": write_hybrid,
    "qwen3next": lambda path: write_hybrid(path, "qwen3next", n_layer=4),
    "mamba": write_recurrent,
}


@pytest.mark.parametrize(("n_ctx", "kind", "number"), [(4096, "f16", 1), (1000, "q8_0", 8)], ids=["f16", "q8_0"])
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_s_memory_is_what_llama_cpp_allocates(tmp_path, logged, name, n_ctx, kind, number):
    path = TARGETS[name](tmp_path / "target.gguf")
    parts = dict(Model(path).memory(Settings(n_ctx, kind, kind)))
    found = logged(path, n_ctx=n_ctx, type_k=number, type_v=number, flash_attn=True)
    assert_weights(path, parts["target: weights"], found)
    cached = parts.get("target: KV cache", 0)
    assert abs(cached / MIB - sum(float(mib) for mib in found["kv"])) < 0.021
    assert_logged([p for p in parts.items() if "recurrent" in p[0]], found["recurrent"])


def window(writer):
    writer.add_sliding_window(600)
    writer.add_array("dflash.attention.sliding_window_pattern", [True, False])


@pytest.mark.parametrize("more", [None, window], ids=["full", "window"])
@pytest.mark.parametrize("context", [4096, 1000])
def test_a_drafter_s_ring_is_what_llama_cpp_allocates(files, target, tmp_path, logged, context, more):
    drafter = write_drafter(tmp_path / "drafter.gguf", target, n_head_kv=4, head_dim=64, more=more)
    parts = dict(Model(drafter).memory(Settings(draft_context=context)))
    alone = logged(target, n_ctx=512)
    both = logged(target, n_ctx=512, draft_model=DFlashDraft(drafter, context=context))
    ring = sum(map(float, both["kv"])) - sum(map(float, alone["kv"]))
    assert abs(parts["drafter: ring"] / MIB - ring) < 0.031
    assert_weights(drafter, parts["drafter: weights"], both, alone)


def test_a_head_is_called_by_its_kind_and_its_cache_is_what_llama_cpp_allocates(target, tmp_path, logged):
    head = write_eagle3(tmp_path / "head.gguf", target)
    model = Model(head)
    assert model.kind == "EAGLE-3 head" and problems(Model(target), model) == []
    facts = report([Model(target), model], Settings())
    assert "EAGLE-3 head, architecture eagle3" in text(facts) and "reads the inputs of target layers 1, 2, 3" in text(facts)
    parts = dict(model.memory(Settings(draft_context=4096)))
    alone, both = logged(target, n_ctx=512), logged(target, n_ctx=512, draft_model=Eagle3Draft(head, context=4096))
    assert abs(parts["drafter: KV cache"] / MIB - sum(map(float, both["kv"])) + sum(map(float, alone["kv"]))) < 0.031
    assert_weights(head, parts["drafter: weights"], both, alone)


def test_a_head_that_does_not_fit(target, tmp_path):
    other = write_target(tmp_path / "other.gguf", n_embd=96, n_layer=9)
    head = Model(write_eagle3(tmp_path / "head.gguf", other))
    assert problems(Model(target), head) == [
        "the head reads hidden states of size 96, the target's have 64",
        "the drafter reads the input of target layer 8, the target has layers 0 to 3",
        "the head has no tensor token_embd.weight, and can't use that of a target of hidden size 64, as its own is 96",
        "the head has no tensor output.weight, and can't use that of a target of hidden size 64, as its own is 96",
    ]


def test_the_parts_of_a_split_model_count(tmp_path):
    whole = Model(write_target(tmp_path / "whole.gguf"))
    for i in range(2):
        w = gguf.GGUFWriter(str(tmp_path / f"m-0000{i + 1}-of-00002.gguf"), "llama")
        w.add_uint16("split.count", 2)
        w.add_block_count(3)
        w.add_embedding_length(64)
        for tensor in gguf.GGUFReader(str(whole.file.path)).tensors[i::2]:
            w.add_tensor(tensor.name, tensor.data)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
    assert Model(tmp_path / "m-00001-of-00002.gguf").n_bytes == whole.n_bytes


# ---------------------------------------------------------------- reading


def test_keys_and_tensors_are_what_gguf_reads(files):
    for name in ("target.gguf", "drafter.gguf"):
        ours, theirs = GgufFile(files / name), gguf.GGUFReader(str(files / name))
        expected = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
        assert {key: ours.get(key) for key in ours.values} == expected
        assert [(t.name, list(t.shape), t.type, t.offset, t.n_bytes) for t in ours.tensors] == [
            (t.name, t.shape.tolist(), t.tensor_type.name, t.data_offset, t.n_bytes) for t in theirs.tensors
        ]


def test_no_damage_to_a_file_is_any_other_exception(files, tmp_path):
    whole = (files / "drafter.gguf").read_bytes()
    rng = random.Random(0)
    path = tmp_path / "damaged.gguf"
    cases = [whole[:n] for n in rng.sample(range(len(whole)), 60)]
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.randrange(9000)] = rng.randrange(256)
        cases.append(bytes(damaged))
    target = Model(files / "target.gguf")
    for case in cases:
        path.write_bytes(case)
        try:
            model = Model(path)
            model.as_dict(Settings())
            problems(target, model)
        except ValueError as error:
            assert type(error) is ValueError
