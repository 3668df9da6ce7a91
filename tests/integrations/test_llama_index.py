"""llama-index-llms-llama-cpp's wrapper: unchanged after install(), and ours with its `draft_model` argument."""

import pytest

from llama_dflash import DFlashDraft, NGramDraft

pytest.importorskip(
    "llama_index.llms.llama_cpp",
    reason="needs `pip install llama-index-core` and `pip install --no-deps llama-index-llms-llama-cpp`",
)

from llama_index.core.llms import ChatMessage  # noqa: E402
from llama_index.llms.llama_cpp import LlamaCPP as Unchanged  # noqa: E402

from llama_dflash.llama_index import LlamaCPP  # noqa: E402

CODE = "import os\n\ndef read_json(path):\n"
THREADS = {"n_threads": 1, "n_threads_batch": 1}
SETTINGS = dict(temperature=0.0, max_new_tokens=48, context_window=512, verbose=False)


@pytest.fixture(scope="module")
def text(plain):
    return plain.create_completion(CODE, max_tokens=48, temperature=0.0)["choices"][0]["text"]


@pytest.fixture(scope="module", params=["ours", "unchanged"])
def llm(request, shipped):
    draft = DFlashDraft(shipped["draft_model"], budget=8)
    path = shipped["model_path"]
    if request.param == "ours":
        return LlamaCPP(model_path=path, draft_model=draft, model_kwargs=THREADS, **SETTINGS)
    return Unchanged(model_path=path, model_kwargs={**THREADS, "draft_model": draft}, **SETTINGS)


def test_complete_and_stream_write_plain_decodings_text(llm, text):
    assert llm.complete(CODE, formatted=True).text == text
    assert llm._model.speculative_stats.accepted > 0
    assert list(llm.stream_complete(CODE, formatted=True))[-1].text == text


def test_drafts_of_the_text_itself_by_their_word(shipped, text):
    llm = LlamaCPP(model_path=shipped["model_path"], draft_model="ngram", model_kwargs=THREADS, **SETTINGS)
    assert llm.complete(CODE, formatted=True).text == text
    assert llm._model.draft_model == NGramDraft() and llm._model.speculative_stats.rounds > 0


def test_chat_answers_and_streams(llm):
    messages = [ChatMessage(role="user", content="How many pencils are in 3 boxes of 12?")]
    answer = llm.chat(messages).message.content
    assert answer
    assert list(llm.stream_chat(messages))[-1].message.content == answer


def test_a_wrong_drafter_is_a_sentence(shipped):
    with pytest.raises(ValueError, match="draft_model"):
        LlamaCPP(model_path=shipped["model_path"], draft_model=__file__, **SETTINGS)
