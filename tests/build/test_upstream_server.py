"""The tests of llama.cpp's server, from the pinned sdist, over the server of the package: plainly and with draft trees.

Some of them run here; with `--upstream-tests` all that fit (tests/serve/upstream/expectations.py says which do not, and why).
"""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serve" / "upstream"))

for module in ("gguf", "filelock", "openai", "requests"):
    pytest.importorskip(module, reason="upstream's tests import it")

import llama_dflash  # noqa: E402
import run as upstream  # noqa: E402
from expectations import IN_EVERY_RUN, LEFT_OUT, PROMPT_TOKENS  # noqa: E402

SERVER = Path(llama_dflash.__file__).parent / "bin" / "llama-dflash-server"
needs_server = pytest.mark.skipif(not SERVER.exists(), reason="built with -DLLAMA_DFLASH_SERVER=OFF")


@pytest.fixture(scope="module")
def folder(sdist, tmp_path_factory):
    folder = tmp_path_factory.mktemp("upstream")
    upstream.prepare(sdist, folder)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def passed(folder, names, **options) -> "tuple[set, str]":
    """Names of upstream's tests that passed, and what pytest said. One that fails fails here."""
    done = upstream.run(
        SERVER, folder, "-v", "--tb=short", *names, port=free_port(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return set(re.findall(r"^(unit/\S+\.py::.*) PASSED", done.stdout, re.M)), done.stdout


@needs_server
def test_upstreams_server_tests_pass_plainly_and_with_trees_which_write_the_same_texts(folder, pytestconfig, tmp_path):
    everything = pytestconfig.getoption("--upstream-tests")
    names = ["unit"] if everything else [f"unit/{name}" for name in IN_EVERY_RUN]
    texts = tmp_path / "texts.json"
    plain, _ = passed(folder, names, texts=texts)
    tree, _ = passed(folder, names, spec_type="tree", spec_env={"LLAMA_ARG_SPEC_TREE_BUDGET": "6"}, expected_texts=texts)
    assert plain == tree
    assert len(plain) >= (300 if everything else len(IN_EVERY_RUN))
    assert len(json.loads(texts.read_text())) > 3, "or few texts were compared"


@pytest.mark.parametrize("prompt, n_tokens", PROMPT_TOKENS)
def test_the_vocabulary_in_place_of_stories260K_splits_upstreams_prompts_alike(folder, prompt, n_tokens):
    model = folder / "hub/ggml-org/models/tinyllamas/stories260K.gguf"
    llm = llama_dflash.Llama(str(model), vocab_only=True, verbose=False)
    assert len(llm.tokenize(prompt.encode(), add_bos=True)) == n_tokens


def test_every_test_that_is_left_out_is_one_of_upstreams_and_has_a_reason(folder):
    unit = folder / "llama.cpp/tools/server/tests/unit"
    for name, reason in LEFT_OUT.items():
        file, _, test = name.partition("::")
        assert f"def {test.split('[')[0]}(" in (unit / file).read_text() if test else (unit / file).exists(), name
        assert reason
