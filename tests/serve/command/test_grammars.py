"""Grammars in llama.cpp's server, with draft trees and without."""

import re
import threading

import pytest

BODY = {"prompt": "the digits: 0123", "n_predict": 40, "temperature": 0}
FOLLOWED = [
    ('root ::= "x" [0-9] "y" [0-9]', r"x\dy\d"),
    ('root ::= [0-9]+ "[TOOL_CALLS]" "z"', r"\d+\[TOOL_CALLS\]z"),
]
HOPELESS = [
    ('root ::= s\ns ::= [0-9] s a | [0-9] s b | [0-9]\na ::= "x"\nb ::= "y"', "too ambiguous"),
    ("root ::= [0-9] <[999999]>", "no token of the model's vocabulary"),
]


@pytest.fixture(scope="module")
def plain(start, pair):
    return start("-m", pair.target)


@pytest.fixture(params=["trees", "plain"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(("grammar", "pattern"), FOLLOWED)
def test_a_text_follows_its_grammar(server, grammar, pattern):
    answer = server.http.post(f"{server.url}/completion", json={**BODY, "grammar": grammar}).json()
    assert re.fullmatch(pattern, answer["content"]), answer["content"]


@pytest.mark.parametrize(("grammar", "said"), HOPELESS)
def test_a_grammar_that_can_not_be_followed_is_an_error_of_its_request_alone(server, grammar, said):
    others = []

    def ask():
        others.append(server.http.post(f"{server.url}/completion", json={**BODY, "n_predict": 200, "ignore_eos": True}).json())

    thread = threading.Thread(target=ask)
    thread.start()
    answer = server.http.post(f"{server.url}/completion", json={**BODY, "grammar": grammar})
    thread.join()
    assert answer.status_code == 500 and said in answer.json()["error"]["message"], answer.text
    assert others[0]["tokens_predicted"] == 200


def test_a_wrong_grammar_says_what_is_wrong(server):
    answer = server.http.post(f"{server.url}/completion", json={**BODY, "grammar": 'root ::= root "a" | "b"'})
    assert answer.status_code == 400 and "left recursion" in answer.json()["error"]["message"], answer.text
