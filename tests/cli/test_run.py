"""`llama-dflash run`: one answer, and a chat as somebody at a terminal has it."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import pytest
from drafter_models import make_predictable
from models import write_target

FAST = ["--ctx", "512", "--threads", "1", "--temperature", "0"]


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_DFLASH_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("LLAMA_DFLASH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(files):
    def go(*arguments, stdin=None):
        command = [sys.executable, "-m", "llama_dflash", "run", "target.gguf", *FAST, *arguments]
        return subprocess.run(command, cwd=files, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=60)  # fmt: skip

    return go


def test_an_answer_is_the_same_with_and_without_a_drafter(run):
    plain, drafted, words = (run("0123", "--max-tokens", "12", "--draft-model", name) for name in ("none", "drafter.gguf,ngram", "ngram"))
    assert plain.returncode == drafted.returncode == 0, drafted.stderr
    assert plain.stdout == drafted.stdout == words.stdout != "" and plain.stdout.endswith("\n")
    assert "\x1b" not in drafted.stdout


def test_stdin_stands_behind_the_prompt_and_json_has_the_numbers(run):
    done = run("one", "two", "--json", "--max-tokens", "4", "--draft-model", "drafter.gguf", "--stats", stdin="three\n")
    facts = json.loads(done.stdout)
    assert facts["tokens"] <= 4 and facts["speculation"]["rounds"] > 0 and facts["drafted_tokens"] <= facts["tokens"]
    assert re.match(r"\d+ tokens in \d+ rounds", done.stderr.splitlines()[-1])
    alone = run("--json", "--max-tokens", "4", "--draft-model", "drafter.gguf", stdin="one two\n\nthree")
    assert json.loads(alone.stdout)["text"] == facts["text"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        ([], "", "there is no prompt: give one, or a text on stdin; a chat needs a terminal"),
        (["x" * 2000], "", "the text has 2"),
        (["a", "--draft-model", "nothing.gguf"], "", "no such file: nothing.gguf"),
    ],
)
def test_what_does_not_work_is_a_sentence(run, arguments, stdin, message):
    done = run(*arguments, stdin=stdin)
    assert done.returncode == 1 and message in done.stderr and done.stdout == ""


def test_a_model_that_is_not_there_is_said(command):
    done = command("run", "nothing", "hello")
    assert done.returncode == 1 and "no such model: nothing. Name a GGUF file" in done.stderr


def _take_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C then is a signal to it,
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # also where these tests run in the background, where shells ignore it


class Terminal:
    """A pseudo-terminal with the program in it."""

    def __init__(self, folder, *arguments, model="target.gguf"):
        self.ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "llama_dflash", "run", str(model), *FAST, *arguments]
        env = {**os.environ, "TERM": "xterm", "NO_COLOR": ""}
        self.process = subprocess.Popen(command, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True,
                                        preexec_fn=_take_terminal)
        os.close(theirs)
        self.seen = ""

    def type(self, text):
        os.write(self.ours, text.encode())

    def interrupt(self, pattern):
        """Ctrl-C at the prompt, as late as a person would: Python sees one that comes while it is shown only at the next key."""
        time.sleep(1)
        self.type("\x03")
        return self.wait_for(pattern)

    def wait_for(self, pattern, seconds=40):
        """What appears up to a pattern, which is then behind us."""
        end = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.seen)
            if found:
                before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
                return before
            assert time.monotonic() < end, f"no {pattern!r} in {self.seen!r}"
            if select.select([self.ours], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.ours, 4096).decode(errors="replace")
                except OSError:  # the program is gone
                    assert re.search(pattern, self.seen), self.seen
                    continue

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


@pytest.fixture
def terminal(files):
    made = []

    def start(*arguments, **settings):
        made.append(Terminal(files, *arguments, **settings))
        return made[-1]

    yield start
    for one in made:
        one.close()


def test_a_chat(terminal):
    chat = terminal("--draft-model", "drafter.gguf", "--max-tokens", "12", "--show-drafts")
    chat.wait_for(r"target.gguf.*/help for help")
    chat.wait_for("> ")
    chat.type("/tree\n")
    chat.wait_for("No draft tree yet")
    chat.type("0123\n")
    chat.wait_for("> ")
    chat.type("/stats\n")
    assert "tokens in" in chat.wait_for("acceptance length")
    chat.type('"""4\n5"""\n')
    chat.wait_for(r"\.\.\. ")
    chat.type("/again\n/help\n")
    chat.wait_for("Ctrl-C          stops an answer")
    for command, answer in [("/drafts", "not coloured now"), ("/system Be brief.", "with this system message"), ("/system", "Be brief."),
                            ("/clear", "a new conversation"), ("/again", "Nothing was asked yet"), ("/what", "There is no /what")]:  # fmt: skip
        chat.type(command + "\n")
        chat.wait_for(re.escape(answer))
    chat.type("/quit\n")
    assert chat.process.wait(20) == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal, tmp_path):
    endless = make_predictable(write_target(tmp_path / "endless.gguf", n_layer=4))
    chat = terminal("--draft-model", "ngram", "--ctx", "4096", model=endless)
    chat.wait_for("> ")
    chat.interrupt("Ctrl-D or /quit leaves")
    chat.type("0123\n")
    chat.wait_for(r"0123\r\n(.|\n){8}")
    chat.type("\x03")
    chat.wait_for(r"\(stopped\)")
    chat.type("/stats\n")
    chat.wait_for(r"tokens in(.|\n)*\n> ")
    time.sleep(1)
    chat.type("\x04")
    assert chat.process.wait(20) == 0
