"""The model behind the server, without one."""

import pytest

from llama_dflash.server.client import ClientWentAway
from llama_dflash.server.served import ServedLlama

SETTINGS = dict(n_ctx=1024, n_batch=8, n_ubatch=8, n_threads=1, n_threads_batch=1, flash_attn=True, verbose=False)
PROMPT = "the digits: 0123456789 " * 30


@pytest.fixture(params=["plain", "drafted", "hybrid"])
def llm(request, pair, hybrid_pair):
    which = hybrid_pair if request.param == "hybrid" else pair
    llm = ServedLlama(str(which.target), draft_model=str(which.drafter) if request.param == "drafted" else None, **SETTINGS)
    yield llm
    llm.close()


def texts(llm, n=12):
    return llm(prompt=PROMPT, max_tokens=n, temperature=0)["choices"][0]["text"]


def test_a_prompts_evaluation_ends_when_its_client_leaves(llm, monkeypatch):
    expected = texts(llm)
    llm.reset()
    looks = []

    class Leaving:
        def check(self):
            looks.append(llm.n_tokens)
            if len(looks) == 5:
                raise ClientWentAway("gone")

    with monkeypatch.context() as patched:
        patched.setattr("llama_dflash.server.served.this_client", Leaving)
        with pytest.raises(ClientWentAway):
            texts(llm)
    assert looks == sorted(set(looks)) and looks[-1] <= 4 * SETTINGS["n_batch"]
    assert texts(llm) == expected, "what was evaluated is of use"


def test_a_text_that_can_not_fit_is_not_tokenized(llm, monkeypatch):
    tokenized = []
    monkeypatch.setattr("llama_cpp.Llama.tokenize", lambda self, text, *rest: tokenized.append(text))
    with pytest.raises(ValueError, match=r"Requested tokens \(\d+\) exceed context window of 1024"):
        llm(prompt="x" * 10_000_000, max_tokens=3)
    assert tokenized == []
