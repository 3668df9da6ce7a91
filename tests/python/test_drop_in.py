"""`llama_dflash.Llama` is the stock class in everything else."""

import inspect
import itertools

import gguf
import numpy as np
import pytest
from same_text import TOLERANCE, assert_same_text

import llama_cpp
import llama_dflash
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
from llama_dflash import Llama

PROMPT = list(b"the digits: 0123")


def greedy(llm, prompt, n, **settings):
    return list(itertools.islice(llm.generate(prompt, temp=0.0, **settings), n))


def test_the_signatures_are_the_stock_ones():
    for name in ("__init__", "generate", "eval", "save_state", "load_state", "reset"):
        ours, stock = (inspect.signature(getattr(cls, name)) for cls in (Llama, llama_cpp.llama.Llama))
        assert [p for p in ours.parameters if p not in ("checkpoint_bytes", "rpc_servers", "rpc_timeout")] == list(stock.parameters)
        for parameter in stock.parameters.values():
            assert ours.parameters[parameter.name].default == parameter.default
            assert ours.parameters[parameter.name].kind == parameter.kind


def test_without_a_drafter_it_is_the_stock_class(load, pair):
    llm = load(pair, flash_attn=False)
    stock = llama_cpp.llama.Llama(str(pair.target), n_ctx=512, n_batch=64, n_threads=1, n_threads_batch=1, verbose=False)
    for settings in (dict(temperature=0.0), dict(seed=3), dict(seed=4, repeat_penalty=1.2)):
        a, b = (one.create_completion("0123", max_tokens=30, **settings)["choices"][0] for one in (stock, llm))
        assert a == b
        assert stock._input_ids.tolist() == llm._input_ids.tolist()
    stock.close()


def test_flash_attention_is_on_with_a_drafter_unless_it_is_given(pair):
    on, off = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED, llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    for draft, settings, expected in (
        (None, {}, off),
        (pair.draft(), {}, on),
        (pair.draft(), dict(flash_attn=False), off),
        (pair.draft(), dict(flash_attn=True), on),
    ):
        llm = Llama(str(pair.target), draft_model=draft, n_ctx=256, verbose=False, **settings)
        assert llm.context_params.flash_attn_type == expected
        llm.close()


def test_no_array_of_all_logits_is_kept_with_a_drafter(drafted):
    assert len(drafted.scores) == drafted.n_batch < drafted.n_ctx()
    assert not drafted._logits_all


@pytest.mark.parametrize("model", [LlamaPromptLookupDecoding(num_pred_tokens=4)])
def test_stock_draft_models_work_as_before(load, pair, plain, model):
    llm = load(pair, model)
    assert llm.draft_model is model and llm.speculative_stats is None and llm._logits_all
    prompt = PROMPT + PROMPT
    stock = llama_cpp.llama.Llama(str(pair.target), draft_model=model, n_ctx=512, n_batch=512, n_threads=1, verbose=False)
    assert_same_text(plain, prompt, greedy(stock, prompt, 30), greedy(llm, prompt, 30))
    stock.close()


def test_embeddings_work_with_a_drafter(load, pair):
    texts = ["0123", "the digits: 3210", "x"]
    settings = dict(embedding=True, pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN)
    stock = load(pair, **settings)
    llm = load(pair, pair.draft(budget=12), **settings)
    for text in (texts, texts[0]):
        assert np.allclose(stock.embed(text), llm.embed(text), atol=1e-4)
    answer = llm.create_embedding(texts)
    assert len(answer["data"]) == 3


@pytest.mark.parametrize("pooling", [llama_cpp.LLAMA_POOLING_TYPE_NONE, llama_cpp.LLAMA_POOLING_TYPE_MEAN])
def test_completions_of_an_embedding_object_do_what_they_do_in_the_stock_class(load, pair, plain, pooling):
    llm = load(pair, pair.draft(budget=12), embedding=True, pooling_type=pooling)
    llm.embed("0123")
    assert_same_text(plain, PROMPT, greedy(plain, PROMPT, 20), greedy(llm, PROMPT, 20))
    llm.embed("3")
    assert_same_text(plain, PROMPT, greedy(plain, PROMPT, 20), greedy(llm, PROMPT, 20))


def test_a_vocabulary_alone_needs_no_drafter(load, pair):
    llm = load(pair, pair.draft(), vocab_only=True)
    assert llm.tokenize(b"0123", add_bos=False) == [48, 49, 50, 51]
    assert llm.speculative_stats is None


def write_lora(path, n_embd=64, n_out=128, rank=4):
    rng = np.random.default_rng(3)
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_type("adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", 8.0)
    for layer in range(3):
        name = f"blk.{layer}.attn_q.weight"
        w.add_tensor(f"{name}.lora_a", rng.standard_normal((rank, n_embd)).astype(np.float32))
        w.add_tensor(f"{name}.lora_b", rng.standard_normal((n_out, rank)).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def test_lora_adapters_apply_to_the_target(load, pair, plain, tmp_path):
    write_lora(tmp_path / "lora.gguf")
    adapted = load(pair, lora_path=str(tmp_path / "lora.gguf"), logits_all=True)
    llm = load(pair, pair.draft(budget=12), lora_path=str(tmp_path / "lora.gguf"))
    text = greedy(adapted, PROMPT, 40)
    assert_same_text(adapted, PROMPT, text, greedy(llm, PROMPT, 40))
    assert text != greedy(plain, PROMPT, 40)


def test_tokens_decoded_outside_of_eval_leave_a_gap_in_the_features_only(drafted, plain):
    """What a multimodal chat handler does with an image: it decodes it itself and sets n_tokens."""
    texts = []
    for llm in (plain, drafted):
        greedy(llm, PROMPT, 7)
        llm.reset()
        llm._ctx.kv_cache_clear()
        llm.eval(PROMPT)
        image = [200, 201, 202, 203, 204]
        batch = llm._batch
        batch.set_batch(image, llm.n_tokens, False)
        llm._ctx.decode(batch)
        llm.input_ids[llm.n_tokens : llm.n_tokens + len(image)] = image
        llm.n_tokens += len(image)
        llm.eval([48, 49])
        texts.append(greedy(llm, llm._input_ids.tolist(), 30))
    assert_same_text(plain, PROMPT + [200, 201, 202, 203, 204, 48, 49], *texts)


def test_a_full_size_array_of_logits_on_request(kept, pair, plain):
    """logits_all=True: the rows of accepted tokens are those of plain decoding."""
    llm = kept(pair, pair.draft(budget=12), logits_all=True)
    for one in (plain, llm):
        greedy(one, PROMPT, 30)
    assert llm.speculative_stats.accepted > 5
    assert np.abs(plain._scores - llm._scores).max() < TOLERANCE


def test_the_version_and_the_public_names():
    assert llama_dflash.__version__
    assert {"Llama", "DFlashDraft", "SpeculativeStats", "DraftTree"} <= set(llama_dflash.__all__)
