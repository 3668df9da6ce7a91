"""A drafter that fails costs its drafts, never the generation; it is said once, and tried again later."""

import itertools
import warnings

import pytest
from same_text import assert_same_text

import llama_cpp

PROMPT = list(b"the digits: 0123")


class Switch:
    """Makes the drafter's forwards fail while it is on: they are aborted."""

    def __init__(self, llm):
        self.on = False
        self.callback = llama_cpp.ggml_abort_callback(lambda data: self.on)
        llm._engine._c.set_abort_callback(llm._engine._engine, self.callback, None)


@pytest.fixture(params=[False, True], ids=["host", "device"])
def failing(request, load, any_pair):
    llm = load(any_pair, any_pair.draft(budget=12, device_outputs=request.param))
    return llm, Switch(llm)


def test_the_text_goes_on_and_the_failure_is_said_once(failing, kept, any_pair):
    llm, switch = failing
    plain = kept(any_pair, logits_all=True)
    expected = list(itertools.islice(plain.generate(PROMPT, temp=0.0), 120))
    for fails_from in (0, 1, 5, 30):
        switch.on = fails_from == 0
        llm.reset()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            stream, text = llm.generate(PROMPT, temp=0.0), []
            for i in range(120):
                text.append(next(stream))
                switch.on = switch.on or i + 1 == fails_from
            stream.close()
        assert_same_text(plain, PROMPT, expected, text)
        assert len(said) == (fails_from == 0), [str(w.message) for w in said]  # the first failure of this object
        if said:
            assert "A drafter failed" in str(said[0].message) and said[0].category is RuntimeWarning


def test_it_is_tried_again_later(failing):
    llm, switch = failing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = llm.generate(PROMPT, temp=0.0)
        for i in range(90):
            next(stream)
            switch.on = 3 < i < 6
        stream.close()
    assert llm.speculative_stats.accepted > 10
    nodes = llm.speculative_stats.nodes
    llm.reset()
    list(itertools.islice(llm.generate(PROMPT, temp=0.0), 40))
    assert llm.speculative_stats.nodes > 0 and nodes > 0


def test_a_state_is_saved_without_the_memory_of_a_drafter_that_fails(failing, kept, any_pair):
    llm, switch = failing
    plain = kept(any_pair, logits_all=True)
    llm.eval(PROMPT)
    switch.on = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = llm.save_state()
        switch.on = False
        llm.reset()
        llm.load_state(state)
        text = list(itertools.islice(llm.generate(PROMPT, temp=0.0), 40))
    assert_same_text(plain, PROMPT, list(itertools.islice(plain.generate(PROMPT, temp=0.0), 40)), text)
