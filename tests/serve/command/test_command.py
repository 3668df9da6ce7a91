"""`llama-dflash serve`: how it starts, what it prints, how it ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from serve_process import BINARY, NO_BINARY, command

from llama_dflash import _library, cli

needs_binary = pytest.mark.skipif(not BINARY.exists(), reason=NO_BINARY)
BODY = {"prompt": "the digits: 0123", "n_predict": 24, "temperature": 0}
ENDLESS = {**BODY, "n_predict": 3000, "ignore_eos": True, "stream": True}


def run(*words, **environment):
    """The command, which ends by itself."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=60, env=env, cwd="/")


# ---------------------------------------------------------------- starting


@needs_binary
def test_it_says_when_it_is_ready_and_where(trees):
    first, second = trees.out.splitlines()[:2]
    assert re.fullmatch(r"llama-dflash serve: loading target-0\.gguf, drafts of drafter-0\.gguf", first)
    where = r"http://127\.0\.0\.1:\d+"
    assert re.fullmatch(rf"llama-dflash serve: ready in [\d.]+ s at {where} \(draft trees: {where}/tree, OpenAI's API: {where}/v1\)", second)
    slots = trees.http.get(f"{trees.url}/slots").json()
    assert len(slots) == 4 and trees.http.get(f"{trees.url}/metrics").status_code == 200


@needs_binary
def test_llama_cpps_log_is_seen_only_where_it_is_asked_for(start, pair):
    quiet = start("-m", pair.target, "--alias", "quiet")
    loud = start("-m", pair.target, "--verbose")
    assert quiet.log == "" and "without draft trees" in quiet.out
    loud.wait_for("load_model", in_log=True)
    assert quiet.http.get(f"{quiet.url}/v1/models").json()["data"][0]["id"] == "quiet"  # passed through
    for server in (quiet, loud):
        assert server.end() == 0


@needs_binary
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-m", "/no/such.gguf"], 1, "llama-dflash serve: no such model: /no/such.gguf. Name a GGUF file"),
        (["-m", "{folder}"], 1, "no such model: "),
        (["-m", "{target}", "--budget", "8"], 1, "--budget 8: there is nothing to draft with"),
        (["-hf", "some/repo", "--draft-model", "auto"], 1, "name the target with -m"),
        (["-m", "{damaged}"], 1, "damaged.gguf"),
        (["-m", "{target}", "--draft-model", "/no/such.gguf"], 1, "llama-dflash serve: draft_model: no such file: /no/such.gguf\n"),
        (["-m", "{target}", "--draft-model", "nothing"], 1, 'an item of draft_model is "nothing", which is no file'),
        (["-m", "{target}", "--draft-model", "mtp"], 1, "has no MTP layer"),
        (["-m", "{target}", "--draft-model", "{misfit}"], 1, "misfit.gguf does not fit"),
        (["-m", "{target}", "--port", "{taken}"], 1, " is in use; choose another with --port, or 0 for any that is free\n"),
        (["-m", "{target}", "--port", "many"], 1, "--port is many, expected a number"),
        (["-m", "{target}", "--host", "no.such.host.invalid"], 1, "--host is no.such.host.invalid, which has no address here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_goes_wrong_at_the_start_is_one_sentence(pair, folder, capfd, words, code, message):
    import drafter_models
    import models

    misfit, damaged = folder / "misfit.gguf", folder / "damaged.gguf"
    if not misfit.exists():
        other = models.write_target(folder / "other.gguf", n_embd=128, seed=5)
        drafter_models.write_drafter(misfit, other)
        damaged.write_bytes(pair.target.read_bytes()[:2000])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        named = dict(folder=folder, target=pair.target, misfit=misfit, damaged=damaged, taken=taken.getsockname()[1])
        found = cli.main(["serve", *(word.format(**named) for word in words)])
    said = capfd.readouterr().err
    assert found == code and message in said and said.count("\n") == 1, said


@needs_binary
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--no-such-option"], 2, "llama-dflash serve: llama.cpp's server: error: invalid argument: --no-such-option\n"),
        (["-c", "many"], 2, "llama-dflash serve: llama.cpp's server: error"),
        (["--lora", "/no/lora.gguf"], 1, "llama-dflash serve: the server did not start: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_the_server_finds_wrong_at_its_start_is_one_sentence_too(pair, words, code, message):
    done = run("-m", pair.target, "--port", 0, *words)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1, done.stderr


def test_wrong_usage_is_exit_code_2(capsys):
    assert cli.main(["serve", "-m", "t.gguf", "--budget", "many"]) == 2
    assert capsys.readouterr().err.startswith("usage: llama-dflash serve -m")


def test_its_help_has_examples(capsys):
    assert cli.main(["serve", "--help"]) == 0
    assert "examples:\n  llama-dflash serve -m" in capsys.readouterr().out


def test_without_the_binary_it_says_how_to_get_it(monkeypatch, tmp_path):
    from llama_dflash.serve import checks  # which loads the library first

    monkeypatch.setattr(_library, "lib_dir", tmp_path / "lib")
    with pytest.raises(ValueError) as found:
        checks.binary()
    said = str(found.value)
    assert "-DLLAMA_DFLASH_SERVER=OFF" in said and "pip install" in said and "python -m llama_dflash.server" in said


@needs_binary
def test_what_only_prints_something_is_passed_to_the_server():
    done = run("--version")
    assert done.returncode == 0 and "version" in done.stdout + done.stderr
    assert "--spec-type" in run("--help-all").stdout


# ---------------------------------------------------------------- requests


@needs_binary
def test_each_request_is_a_line(trees):
    assert trees.http.post(f"{trees.url}/completion", json=BODY).status_code == 200
    line = trees.wait_for(r"(?m)^.* POST /completion 200 .*$")[0]
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d POST /completion 200  [\d.]+ m?s  prompt \d+( \+ \d+ cached)?, 24 tokens at [\d.]+/s, "
        r"[\d.]+ a round \(\d+ of \d+ nodes accepted\)",
        line,
    ), line


@needs_binary
def test_streams_and_errors_are_lines_too(trees):
    chat = {"messages": [{"role": "user", "content": "0123"}], "max_tokens": 8, "temperature": 0, "stream": True}
    with trees.http.stream("POST", f"{trees.url}/v1/chat/completions", json=chat) as answer:
        assert answer.read().endswith(b"data: [DONE]\n\n")
    line = trees.wait_for(r"POST /v1/chat/completions 200 .* prompt \d+.*, 8 tokens at [\d.]+/s.*")[0]
    assert "left" not in line
    trees.http.get(f"{trees.url}/nowhere")
    trees.wait_for(r"GET  /nowhere 404 ")
    trees.http.post(f"{trees.url}/v1/chat/completions", content=b"{")
    trees.wait_for(r"POST /v1/chat/completions (400|500) ")
    trees.http.post(f"{trees.url}/completion", json={**BODY, "prompt": "0123" * 5000})
    trees.wait_for(r"POST /completion 400 .*exceeds? the available context size")


@needs_binary
def test_a_client_that_leaves_is_told_of(trees):
    with trees.http.stream("POST", f"{trees.url}/completion", json=ENDLESS) as answer:
        next(answer.iter_lines())
    trees.wait_for(r"POST /completion 200 .* tokens?, the client left", 20)


@needs_binary
def test_what_is_asked_every_second_is_no_line(trees):
    for path in ("/health", "/slots", "/metrics", "/tree", "/", "/v1/models"):
        assert trees.http.get(f"{trees.url}{path}").status_code == 200
    trees.http.get(f"{trees.url}/last")
    trees.wait_for("/last 404")
    assert not re.search(r"GET  /(health|slots|metrics|tree|v1/models)? 200", trees.out)


# ---------------------------------------------------------------- ending


@needs_binary
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_it_within_two_seconds_also_while_it_generates(start, pair, number):
    server = start("-m", pair.target, "--draft-model", pair.drafter, "--budget", 8, "-c", 16000)
    begun = threading.Event()

    def ask():
        try:
            with server.http.stream("POST", f"{server.url}/completion", json=ENDLESS) as answer:
                for _ in answer.iter_lines():
                    begun.set()
        except Exception:
            pass  # it ends in the middle

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert begun.wait(20)
    pid = server.server_pid()
    assert server.end(number, 2) == 0
    assert pid is None or not os.path.exists(f"/proc/{pid}")
    for thread in threads:
        thread.join(10)
    assert server.out.splitlines()[-1] == "llama-dflash serve: ended"


@needs_binary
@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends a process with its parent")
def test_the_server_goes_with_its_command_and_its_port_is_free_again(start, pair):
    server = start("-m", pair.target)
    pid, port = server.server_pid(), server.url.rsplit(":", 1)[1]
    server.process.kill()
    server.process.wait()
    end = time.monotonic() + 5
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.02)
    again = start("-m", pair.target, "--port", port)
    assert again.url == server.url and again.end() == 0


@needs_binary
def test_a_server_that_dies_is_told_of(start, pair):
    server = start("-m", pair.target)
    os.kill(server.server_pid(), signal.SIGABRT)
    assert server.process.wait(5) == 1
    assert server.log.startswith("llama-dflash serve: the server ended by itself: it was ended by SIGABRT")


@needs_binary
def test_a_signal_while_the_model_is_loaded_ends_it(start, pair):
    server = start("-m", pair.target, wait=False)
    server.wait_for("loading")
    assert server.end(seconds=2) == 0


def test_a_request_line_is_read_as_it_was_written():
    from llama_dflash.serve import log

    request = {"method": "POST", "path": "/v1/chat/completions", "status": 200, "seconds": 1.234, "prompt": 7, "cached": 3}
    request.update(tokens=1, tokens_per_second=20.0, rounds=2, tokens_per_round=2.5, nodes=9, accepted=3)
    assert log.request_of(f"@request {json.dumps(request)}") == request
    assert log.request_of(f"[50123] @request {json.dumps(request)}") == request  # of a router's child
    assert log.describe(request, "12:00:00") == (
        "12:00:00 POST /v1/chat/completions 200  1.23 s  prompt 7 + 3 cached, 1 token at 20.0/s, 2.50 a round (3 of 9 nodes accepted)"
    )
    line = log.line_of("0.01.234.567 E slot  operator(): id  0 | task 3 | it failed")
    assert (line.level, line.message) == ("E", "it failed")
    assert log.line_of("and more").level == ""
