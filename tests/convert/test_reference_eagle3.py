"""Converted EAGLE-3 heads compute what their authors' own classes compute: tests/fixtures/reference_drafters.

llama.cpp's graph is asked for the log-probabilities at every node of the reference's trees: after the token at a node, given
the hidden state that the graph left at its parent. Features are those of the target's own forward.
"""

import ctypes
import functools
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "fixtures" / "reference_drafters"))

from fixture import FOLDER_EAGLE3, fixtures  # noqa: E402
from targets import TARGETS  # noqa: E402

from following import draft, draft_on, follow, paths_of, rounds_after  # noqa: E402
from llama_dflash import Eagle3Draft, Llama, convert  # noqa: E402

import llama_cpp as lib  # noqa: E402  # after llama_dflash, which says where it comes from

F32, N_CTX, N_VOCAB = 0, 640, 96
TOLERANCE = 1e-3  # of log-probabilities
FIXTURES = fixtures(FOLDER_EAGLE3)
ENCODE, DECODE = 0, 1


@functools.cache
def internal(name, result, *types):
    """A C++ function of llama-ext.h, by the name that the Itanium ABI gives it."""
    function = lib.llama_cpp._lib[name]
    function.restype, function.argtypes = result, types
    return function


def want_layer_input(ctx, layer):
    assert internal("llama_tree_has_layer_inp", ctypes.c_bool, ctypes.c_void_p, ctypes.c_int32)(ctx, layer)
    want = internal("llama_tree_want_layer_inp", ctypes.c_int32, ctypes.c_void_p, ctypes.c_int32, ctypes.c_bool)
    assert want(ctx, layer, True) == 0


def rows(name, ctx, shape, *args):
    types = (ctypes.c_uint32,) * len(args)
    pointer = internal(name, ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, *types)(ctx, *args)
    return np.ctypeslib.as_array(pointer, shape).copy()


class Model:
    def __init__(self, path, target=None):
        self.model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        assert self.model
        params = lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = N_CTX
        params.n_threads = params.n_threads_batch = 1
        params.type_k = params.type_v = F32
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.ctx_other = target.ctx if target else None
        self.ctx = lib.llama_init_from_model(self.model, params)
        assert self.ctx
        self.n_embd = lib.llama_model_n_embd(self.model)

    def number(self, key):
        text = ctypes.create_string_buffer(64)
        lib.llama_model_meta_val_str(self.model, key.encode(), text, 64)
        return text.value.decode()

    def close(self):
        lib.llama_free(self.ctx)
        lib.llama_model_free(self.model)


class Target(Model):
    def features(self, tokens, layers):
        """[S, layers * hidden]: the inputs of layers at every token."""
        lib.llama_memory_clear(lib.llama_get_memory(self.ctx), True)
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        assert lib.llama_decode(self.ctx, lib.llama_batch_get_one(ids, len(tokens))) == 0
        shape = (len(tokens), self.n_embd)
        name = "_Z30llama_get_embeddings_layer_inpP13llama_contextj"
        return np.concatenate([rows(name, self.ctx, shape, layer) for layer in layers], axis=1)


class Head(Model):
    def __init__(self, path, target, layers):
        super().__init__(path, target)
        self.layers = layers
        for layer in layers:
            want_layer_input(target.ctx, layer)
        internal(
            "_Z26llama_set_embeddings_nextnP13llama_contextbb", None, ctypes.c_void_p, ctypes.c_bool, ctypes.c_bool
        )(self.ctx, True, True)
        self.batch = lib.llama_batch_ext_init(self.ctx)

    def close(self):
        lib.llama_batch_ext_free(self.batch)
        super().close()

    def _row(self, values):
        values = np.ascontiguousarray(values, dtype=np.float32)
        self._kept.append(values)
        return lib.llama_embd(values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), 1, values.size)

    def _run(self, kind, n_rows):
        assert lib.llama_process(self.ctx, kind, self.batch) == 0
        lib.llama_synchronize(self.ctx)
        return rows("_Z26llama_get_embeddings_nextnP13llama_context", self.ctx, (n_rows, self.n_embd))

    def _begin(self):
        self._kept = []
        lib.llama_batch_ext_clear(self.batch)

    def _set(self, index, pos, output):
        assert lib.llama_batch_ext_set_pos(self.batch, index, ctypes.byref(ctypes.c_int32(pos)))
        assert lib.llama_batch_ext_set_output_logits(self.batch, index, output)

    def fused(self, features):
        """[S, hidden of the head]"""
        self._begin()
        for pos, row in enumerate(features):
            self._set(lib.llama_batch_ext_add_embd(self.batch, 0, self._row(row)), pos, True)
        return self._run(ENCODE, len(features))

    def decode(self, tokens, states, first_pos):
        """Of the last token: log-probabilities [V] and what goes on from it [hidden]."""
        self._begin()
        for i, (token, state) in enumerate(zip(tokens, states)):
            index = lib.llama_batch_ext_add_token(self.batch, 0, token)
            assert lib.llama_batch_ext_set_embd_token(self.batch, index, self._row(state))
            self._set(index, first_pos + i, i == len(tokens) - 1)
        state = self._run(DECODE, 1)[0]
        n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        logits = np.ctypeslib.as_array(lib.llama_get_logits_ith(self.ctx, len(tokens) - 1), (n_vocab,)).astype(np.float64)
        with np.errstate(divide="ignore"):
            return logits - np.logaddexp.reduce(logits), state

    def forget(self, first_pos):
        assert lib.llama_memory_seq_rm(lib.llama_get_memory(self.ctx), 0, first_pos, -1)


class Round:
    """One of a fixture's rounds, drafted by the head."""

    def __init__(self, head, target, tokens, n_past):
        self.head, self.n_past = head, n_past
        head.forget(0)
        states = head.fused(target.features(tokens[:n_past], head.layers))
        self.known = {(): head.decode(tokens[1 : n_past + 1], states, 0)}

    def logprobs(self, path):
        return self._after(path)[0]

    def _after(self, path):
        if path not in self.known:
            before = [self._after(path[:i]) for i in range(len(path))]
            self.head.forget(self.n_past)
            for i, token in enumerate(path):
                after = self.head.decode([token], [before[i][1]], self.n_past + i)
            self.known[path] = after
        return self.known[path]


@pytest.fixture(scope="module")
def target_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    return {name: target.write(folder / f"{name}.gguf") for name, target in TARGETS.items()}


def load(fixture, file, folder):
    checkpoint = fixture.write_checkpoint(folder / "checkpoint")
    path = convert.convert(checkpoint, file, folder / "head.gguf", type="f32")
    target = Target(file)
    layers = convert.eagle3.read_eagle3(fixture.about["config"]).layer_inputs(TARGETS[fixture.target].n_layers)
    return target, Head(path, target, layers)


def differences(fixture, file, folder):
    """The largest difference in log-probability of every round, over its chain's positions and its nodes."""
    target, head = load(fixture, file, folder)
    unknown = np.setdiff1d(np.arange(N_VOCAB), fixture.ids)
    for stored in fixture.rounds:
        round = Round(head, target, fixture.tokens, stored.n_past)
        chain = tuple(stored.chain.tolist())
        found = [round.logprobs(chain[:i]) for i in range(len(chain))]
        assert all((logprobs[unknown] == -np.inf).all() for logprobs in found)
        nodes = [round.logprobs(path[:-1])[path[-1]] for path in stored.paths(22)]
        yield max(
            np.abs(np.stack(found)[:, fixture.ids] - stored.logprobs).max(),
            np.abs(np.array(nodes) - stored.node_logprobs[:22]).max(),
        )
    head.close()
    target.close()


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda fixture: fixture.name)
def test_log_probabilities_are_those_of_the_reference(fixture, target_files, tmp_path):
    found = list(differences(fixture, target_files[fixture.target], tmp_path))
    assert len(found) == len(fixture.rounds) and max(found) <= TOLERANCE


OTHERWISE = [
    ("specforge eagle3 layers", "eagle_config.eagle_aux_hidden_state_layer_ids", [1, 3, 5]),
    ("specforge eagle3 norm_output false", "norm_output", True),
    ("specforge eagle3 llama3 rope", "rope_parameters", {"rope_type": "default", "rope_theta": 10000.0}),
    ("specforge eagle3 yarn", "rope_parameters.mscale", 1.0),
    ("speculators eagle3 norm_before_residual", "norm_before_residual", False),
    ("speculators eagle3 norm_output", "norm_output", False),
    ("speculators eagle3 gelu", "transformer_layer_config.hidden_act", "silu"),
    ("speculators eagle3 layers", "eagle_aux_hidden_state_layer_ids", [1, 4, 7]),
    ("eagle3 rope_theta", "rope_theta", 10000.0),
]


@pytest.mark.parametrize(("name", "key", "value"), OTHERWISE, ids=lambda value: str(value))
def test_a_setting_changes_what_is_drafted(name, key, value, target_files, tmp_path):
    """Or these fixtures would not show whether it is followed."""
    (fixture,) = [fixture for fixture in fixtures(FOLDER_EAGLE3) if fixture.name == name]
    *outer, last = key.split(".")
    settings = fixture.about["config"]
    for part in outer:
        settings = settings[part]
    settings[last] = value
    assert max(differences(fixture, target_files[fixture.target], tmp_path)) > 5 * TOLERANCE


# ---------------------------------------------------------------- the drafter's trees

DEPTH = 5  # of the fixtures' chains


def expected_tree(fixture, round, budget):
    """{path: log-probability}: the chain of best tokens, and for what is left of the budget the best nodes."""
    chain = [tuple(round.chain[: i + 1].tolist()) for i in range(DEPTH)]
    where = {token: i for i, token in enumerate(fixture.ids.tolist())}
    nodes = {path: float(round.logprobs[i, where[path[-1]]]) for i, path in enumerate(chain)}
    for path, logprob in round.paths(64).items():
        if len(nodes) < budget:
            nodes.setdefault(path, logprob)
    return nodes


def assert_is_expected(tree, fixture, round, budget):
    found, expected = paths_of(tree), expected_tree(fixture, round, budget)
    assert set(found) == set(expected)
    assert max(abs(found[path] - expected[path]) for path in found) <= TOLERANCE


class Drafting:
    def __init__(self, fixture, file, folder):
        self.file = file
        self.path = convert.convert(fixture.write_checkpoint(folder / "checkpoint"), file, folder / "head.gguf", type="f32")

    def load(self, budget, **settings):
        exact = dict(type_k=F32, type_v=F32, flash_attn=False)
        draft = Eagle3Draft(self.path, budget=budget, depth=DEPTH, width=64, context=N_CTX, **{**exact, **settings})
        return Llama(
            str(self.file), draft_model=draft, n_ctx=N_CTX, n_batch=512, n_threads=1, n_threads_batch=1, verbose=False, **exact
        )


SOME = [
    "eagle3",
    "eagle3 smaller than its target",
    "eagle3 qwen35 target",
    "specforge eagle3 fc_norm",
    "speculators eagle3 layers",
    "speculators eagle3 of version 3.1",
    "speculators eagle3 two of its own",
]


@pytest.fixture(scope="module", params=SOME)
def drafting(request, target_files, tmp_path_factory):
    (fixture,) = [fixture for fixture in FIXTURES if fixture.name == request.param]
    return fixture, Drafting(fixture, target_files[fixture.target], tmp_path_factory.mktemp("head"))


def test_trees_of_rounds_that_follow_each_other_are_those_of_the_reference(drafting):
    """After each round the drafter keeps what it needs, and nothing of the tokens that were not accepted."""
    fixture, head = drafting
    llm, lengths = head.load(22), set()
    for start in fixture.starts:
        for round, tree in follow(llm, fixture, start):
            if tree is not None:
                assert_is_expected(tree, fixture, round, 22)
                lengths.add(len(tree.path) - 1)
    assert len(lengths) > 2
    llm.close()


@pytest.mark.parametrize("device_outputs", [False, True])
def test_a_tree_of_all_stored_nodes_is_that_of_the_reference(drafting, device_outputs):
    fixture, head = drafting
    llm = head.load(64, device_outputs=device_outputs)
    for start in fixture.starts:
        round = rounds_after(fixture, start)[-1]
        assert_is_expected(draft(llm, fixture, round), fixture, round, 64)
    llm.close()


def test_a_chain_is_that_of_the_reference(drafting):
    fixture, head = drafting
    llm = head.load(DEPTH, mode="chain")
    for start in fixture.starts:
        round = rounds_after(fixture, start)[-1]
        tree = draft(llm, fixture, round)
        assert list(tree.tokens[1:]) == round.chain.tolist() and list(tree.parents) == list(range(-1, DEPTH))
    llm.close()


@pytest.mark.parametrize("places", [(30, 20), (39, 30), (40, 39), (12, 1), (3, 0)], ids=str)
def test_a_text_that_was_cut_back_is_drafted_on_as_the_reference_does(drafting, places):
    """With other tokens and drafts after them in between."""
    fixture, head = drafting
    llm = head.load(22)
    round = rounds_after(fixture, fixture.starts[1])[0]
    llm.eval(fixture.tokens[: round.n_past])
    assert_is_expected(draft_on(llm, fixture.tokens[round.n_past]), fixture, round, 22)
    for place, other in zip(places, ([7, 8, 9], [5])):
        llm.n_tokens = place
        llm.eval(other)
        draft_on(llm, 11)
    llm.n_tokens = places[1]
    llm.eval(fixture.tokens[places[1] : round.n_past])
    assert_is_expected(draft_on(llm, fixture.tokens[round.n_past]), fixture, round, 22)
    llm.close()


def test_a_state_that_was_loaded_is_drafted_on_as_the_reference_does(drafting):
    fixture, head = drafting
    llm, other = head.load(22), head.load(22)
    round = rounds_after(fixture, fixture.starts[1])[0]
    llm.eval(fixture.tokens[: round.n_past - 2])
    draft_on(llm, 11)
    state = llm.save_state()
    for again in (llm, other):
        again.reset()
        again.eval([1, 2, 3])
        again.load_state(state)
        again.eval(fixture.tokens[round.n_past - 2 : round.n_past])
        assert_is_expected(draft_on(again, fixture.tokens[round.n_past]), fixture, round, 22)
        again.close()


# ---------------------------------------------------------------- what does not convert


def checkpoint_of(name, folder, changes, drop=()):
    (fixture,) = [fixture for fixture in FIXTURES if fixture.name == name]
    config = {**fixture.about["config"], **changes}
    fixture.about["config"] = {key: value for key, value in config.items() if key not in drop}
    return fixture.write_checkpoint(folder / "checkpoint")


def nested(**changes):
    (fixture,) = [fixture for fixture in FIXTURES if fixture.name == "speculators eagle3"]
    return {"transformer_layer_config": {**fixture.about["config"]["transformer_layer_config"], **changes}}


FLAT, NESTED = "specforge eagle3 reduced vocabulary", "speculators eagle3"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (FLAT, {"eagle_config": {"use_last_layernorm": False}}, "use_last_layernorm = False, which changes what the head computes"),
        (FLAT, {"eagle_config": {"use_aux_hidden_state": False}}, "use_aux_hidden_state = False, which changes what"),
        (FLAT, {"eagle_config": {"parallel_draft_step": 2}}, "parallel_draft_step = 2, which changes what the head computes"),
        (FLAT, {"eagle_config": {"new_trick": 1}}, "new_trick = 1 in eagle_config, a setting that is not known here"),
        (FLAT, {"eagle_config": 3}, "eagle_config = 3, expected an object"),
        (FLAT, {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 7]}}, "the input of the target's layer 8, "),
        (FLAT, {"eagle_aux_hidden_state_layer_ids": [1, "x", 3]}, "eagle_aux_hidden_state_layer_ids = [1, 'x', 3], expected a list"),
        (FLAT, {"eagle_aux_hidden_state_layer_ids": [1, 3]}, "fc.weight has shape [64, 192], expected [64, 128]"),
        (FLAT, {"mlp_bias": True}, "mlp_bias = True, which changes what the head computes"),
        (FLAT, {"norm_before_fc": True}, "lacks input_norm.weight"),
        (FLAT, {"fc_norm": True}, "lacks fc_norm.0.weight, fc_norm.1.weight, fc_norm.2.weight"),
        (FLAT, {"fc_norm": True, "norm_before_fc": True}, "both norm_before_fc and fc_norm"),
        (FLAT, {"norm_output": "no"}, "norm_output = 'no', expected true or false"),
        (FLAT, {"hidden_act": "tanh"}, "hidden_act = 'tanh', expected one of"),
        (FLAT, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type = 'dynamic', expected one of"),
        (FLAT, {"draft_vocab_size": 50}, "lm_head.weight has shape [48, 64], expected [50, 64]"),
        (FLAT, {"vocab_size": 97}, "a vocabulary of 97 tokens, the target "),
        (FLAT, {"target_hidden_size": 96}, "features of size 96 (target_hidden_size, else hidden_size), the target "),
        (FLAT, {"quantization_config": {"quant_method": "fp8"}}, "the checkpoint is quantised"),
        (FLAT, {"num_attention_heads": 8}, "self_attn.q_proj.weight has shape [64, 128], expected [128, 128]"),
        (NESTED, nested(model_type="laguna"), "model_type = 'laguna' in transformer_layer_config, expected one of llama, qwen3"),
        (NESTED, nested(layer_types=["sliding_attention"]), "sliding_attention among its layer_types"),
        (NESTED, nested(num_hidden_layers=2), "lacks layers.1.input_layernorm.weight"),
        (NESTED, {"speculators_model_type": "peagle"}, "speculators_model_type 'peagle', expected dflash, dflash2, dspark or eagle3"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:50],
)
def test_a_setting_that_changes_what_is_drafted_and_is_not_known_is_named(name, changes, message, target_files, tmp_path):
    stored = {fixture.name: dict(fixture.about["config"]) for fixture in FIXTURES}
    try:
        checkpoint = checkpoint_of(name, tmp_path, changes)
    finally:
        for fixture in FIXTURES:
            fixture.about["config"] = stored[fixture.name]
    with pytest.raises(ValueError) as error:
        convert.convert(checkpoint, target_files["llama"], tmp_path / "head.gguf")
    assert message in str(error.value) and not (tmp_path / "head.gguf").exists()


def test_a_checkpoint_is_drafted_with_as_it_is(target_files, tmp_path, monkeypatch):
    """Converted once; its config.json says that it is an EAGLE-3 head."""
    monkeypatch.setenv("LLAMA_DFLASH_CACHE", str(tmp_path / "cache"))
    (fixture,) = [fixture for fixture in FIXTURES if fixture.name == "eagle3"]
    llm = Llama(str(target_files["llama"]), draft_model=fixture.write_checkpoint(tmp_path / "published"), n_ctx=256, verbose=False)
    assert isinstance(llm.draft_model, Eagle3Draft) and llm.speculative_stats is not None
    llm.close()
    assert [path.suffix for path in (tmp_path / "cache" / "drafters").glob("*.gguf")] == [".gguf"]
