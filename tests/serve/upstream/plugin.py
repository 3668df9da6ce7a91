"""Loaded with `-p plugin` into a run of upstream's server tests (`run.py`): nothing of them is copied or edited.

Their models come from `hub.py`; what asks for words of a trained model is told so (`expectations.py`); completion models get
`--spec-type` and its options when the run has them.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from pathlib import Path
from urllib.parse import urlsplit

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from expectations import LEFT_OUT, WORDS  # noqa: E402
from hub import Hub  # noqa: E402

SETTINGS = json.loads(os.environ["UPSTREAM_RUN"])
HUB = Hub(Path(SETTINGS["models"]))
os.environ["HF_ENDPOINT"] = HUB.endpoint
PORT_OF_THE_FIRST_WORKER = 8080
TEXTS: dict[str, list[str]] = {}  # what models wrote in place of WORDS, by test
EXPECTED_TEXTS: dict[str, list[str]] = json.loads(Path(SETTINGS["expected_texts"]).read_text()) if SETTINGS["expected_texts"] else {}

# utils.py imports wget, for `download_file`, which is replaced below
sys.modules.setdefault("wget", types.ModuleType("wget"))
sys.path.insert(0, SETTINGS["tests"])
import utils  # noqa: E402


def download_file(url: str, output_file_path: str | None = None) -> str:
    """As upstream's, from the hub on loopback."""
    body = HUB.answer(urlsplit(url).path)
    assert body is not None, f"{url} is not on the hub of these tests"
    path = Path(output_file_path or f"tmp/{url.split('/')[-1]}")
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(body)
    return str(path)


real_match = utils.match_regex


def match_regex(regex: str, text: str) -> bool:
    """As upstream's; where it asks for words of a trained model, any text is right, or the one that another run wrote."""
    if regex not in WORDS:
        return real_match(regex, text)
    test = os.environ["PYTEST_CURRENT_TEST"].rsplit(" ", 1)[0]
    written = TEXTS.setdefault(test, [])
    written.append(text)
    expected = EXPECTED_TEXTS.get(test, [])
    return bool(text) and (len(expected) < len(written) or expected[len(written) - 1] == text)


utils.download_file = download_file
utils.match_regex = match_regex


def from_our_hub(text: str) -> str:
    return text.replace("https://huggingface.co/", HUB.endpoint)


real_get, real_request = utils.requests.get, utils.ServerProcess.make_request


def get(url, *args, **kwargs):
    """Files of huggingface.co come from the hub on loopback."""
    return real_get(from_our_hub(url), *args, **kwargs)


def make_request(self, method, path, data=None, *args, **kwargs):
    """So do pictures that a request names."""
    return real_request(self, method, path, json.loads(from_our_hub(json.dumps(data))), *args, **kwargs)


utils.requests.get = get
utils.ServerProcess.make_request = make_request


# Presets of models that write texts, and what drafts for them: the text itself and, where one fits, a model.
DRAFTERS = {
    "tinyllama2": f"ngram,{HUB.folder}/ggml-org/test-model-stories260K/stories260K-f32.gguf",
    "tinyllama_infill": "ngram",
    "stories15m_moe": f"ngram,{HUB.folder}/ggml-org/tiny-llamas/stories15M-q4_0.gguf",
    "tinygemma3": "ngram",
}


def with_speculation(preset, drafters):
    def method():
        server = preset()
        server.spec_type, server.drafters = SETTINGS["spec_type"], drafters
        return server

    return staticmethod(method)


real_start = utils.ServerProcess.start


def start(self, *args, **kwargs):
    """The options of speculation go where upstream's class has no field for them: into the environment."""
    ours = self.spec_type is not None and self.spec_type == SETTINGS["spec_type"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"LLAMA_ARG_SPEC_DRAFT": self.drafters, **SETTINGS["spec_env"]}.items() if ours else ():
            patch.setenv(name, value)
        return real_start(self, *args, **kwargs)


utils.ServerProcess.start = start
if SETTINGS["spec_type"]:
    for name, drafters in DRAFTERS.items():
        setattr(utils.ServerPreset, name, with_speculation(getattr(utils.ServerPreset, name), drafters))


def reason_to_leave_out(nodeid: str) -> str | None:
    name = nodeid.split("unit/")[-1]
    return LEFT_OUT.get(name) or LEFT_OUT.get(name.split("[")[0]) or LEFT_OUT.get(name.split("::")[0])


def pytest_collection_modifyitems(items):
    for item in items:
        reason = reason_to_leave_out(item.nodeid)
        if reason:
            item.add_marker(pytest.mark.skip(reason="left out: " + reason))


def pytest_unconfigure():
    HUB.close()
    if SETTINGS["texts"]:
        Path(SETTINGS["texts"]).write_text(json.dumps(TEXTS, indent=1, ensure_ascii=False))


def pytest_configure():
    shutil.rmtree("tmp", ignore_errors=True)
