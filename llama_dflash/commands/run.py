"""`llama-dflash run`: a chat in the terminal, or one answer."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from typing import Any, Callable, Iterator, List, Optional, TextIO

from ..cli import add_command, positive
from . import models

EPILOG = """\
examples:
  llama-dflash run qwen3.5-27b
  llama-dflash run model.gguf "Why is the sky blue?"
  git diff | llama-dflash run unsloth/Qwen3.5-27B-GGUF:Q4_K_M "Write a commit message for this diff:"
  llama-dflash run model.gguf --draft-model drafter.gguf,ngram --show-drafts
  llama-dflash run model.gguf --raw "def fibonacci(n):" --temperature 0 --max-tokens 200

A text on stdin is put behind the prompt. In a chat, /help lists what can be typed; Ctrl-C stops an answer, Ctrl-D ends the chat.
With the same seed or at temperature 0 the text is what the model writes without a drafter."""

PATIENCE = 3.0  # seconds after which a second Ctrl-C does not wait for the next token
CHAT_HELP = '''\
/stats          what speculation did for the last answer, and why
/tree           the draft tree of the last round
/drafts         colour tokens that were drafted green, on and off
/system TEXT    set the system message (alone: show it), and begin anew
/again          take the last answer back, and ask again
/clear          begin anew
/help           this
/quit           leave (or Ctrl-D)
"""             begins and ends a text of several lines; \\ at a line's end goes on in the next
Ctrl-C          stops an answer'''


def add(commands: Any, name: str, help: str) -> None:
    parser = add_command(commands, name, help, _run, EPILOG)
    parser.add_argument("model", metavar="MODEL", help="a GGUF file, a model on the Hub, or a short name")
    parser.add_argument("prompt", metavar="PROMPT", nargs="*", help="a question to answer (default: chat)")
    parser.set_defaults(takes_words="prompt")
    models.add_model_arguments(parser)
    parser.add_argument("--system", metavar="TEXT", help="a system message")
    parser.add_argument("--max-tokens", type=positive, metavar="N", help="of an answer (default: what fits)")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="X", help="0: always the most probable token (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=0.95, metavar="X", help="default: %(default)s")
    parser.add_argument("--top-k", type=int, default=40, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=-1, metavar="N", help="default: another one every time")
    parser.add_argument("--raw", action="store_true", help="go on with the text, without a chat template")
    parser.add_argument("--show-drafts", action="store_true", help="colour tokens that were drafted")
    parser.add_argument("--stats", action="store_true", help="print a line of numbers on stderr after every answer")
    parser.add_argument("--json", action="store_true", help="print one answer and its numbers as JSON")


def _run(args: argparse.Namespace) -> int:
    prompt = _prompt(args.prompt)
    if prompt is None and args.json:
        raise ValueError("--json is for one prompt, and there is none: give one, or a text on stdin")
    is_chat = prompt is None
    said: List[str] = []
    chosen = models.find(args.model, args.draft_model)
    with _waiting(f"loading {os.path.basename(chosen.file)}", is_chat):
        llm = models.load(args, chosen, models.drafters_for(chosen, said.append), seed=args.seed)
    try:
        chat = _chat(args, llm)
        if prompt is not None:
            return _answer_one(args, chat, prompt, said)
        return Terminal(chat, os.path.basename(chosen.file), said, args.show_drafts, args.stats).talk()
    finally:
        llm.close()


def _prompt(words: List[str]) -> Optional[str]:
    """The words, and what stands on stdin behind them; None to chat."""
    text = " ".join(words)
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read()
    if not text and not piped.strip():
        if sys.stdin is not None and sys.stdin.isatty():
            return None
        raise ValueError("there is no prompt: give one, or a text on stdin; a chat needs a terminal")
    return "\n\n".join(part for part in (text, piped.rstrip("\n")) if part)


def _chat(args: argparse.Namespace, llm: Any) -> Any:
    from ..chat import Chat, Sampling

    sampling = Sampling(args.temperature, args.top_p, args.top_k)
    chat = Chat(llm, args.system, args.max_tokens, sampling)
    if args.raw:
        chat._template = None
    return chat


# ---------------------------------------------------------------- one answer


def _answer_one(args: argparse.Namespace, chat: Any, prompt: str, said: List[str]) -> int:
    started = time.perf_counter()
    pieces = []
    printer = Printer(args.show_drafts)
    with stoppable() as stopped, contextlib.closing(chat.ask(prompt)) as answer:
        for piece in answer:
            pieces.append(piece)
            if not args.json:
                printer.show(piece)
            if stopped():
                break
    if args.json:
        print(json.dumps(_facts(chat.llm, pieces, time.perf_counter() - started, said), ensure_ascii=False, indent=2))
    else:
        printer.end()
    if args.stats:
        print(_numbers(chat.llm), file=sys.stderr)
    return 130 if stopped() else 0


def _facts(llm: Any, pieces: List[Any], seconds: float, said: List[str]) -> Any:
    stats = llm.speculative_stats
    numbers = None if stats is None else {key: value for key, value in dataclasses.asdict(stats).items() if key != "why"}
    return {
        "text": "".join(piece.text for piece in pieces),
        "tokens": len(pieces),
        "drafted_tokens": sum(piece.drafted for piece in pieces),
        "seconds": round(seconds, 3),
        "speculation": numbers,
        "notes": said,
    }


def _numbers(llm: Any) -> str:
    return "without a drafter" if llm.speculative_stats is None else str(llm.speculative_stats)


class Printer:
    """Writes pieces as they come; drafted ones are green if `colours` and the terminal can."""

    def __init__(self, colours: bool, stream: Optional[TextIO] = None) -> None:
        self.stream = stream or sys.stdout
        self.colours = colours and can_colour(self.stream)
        self.last = "\n"

    def show(self, piece: Any) -> None:
        text = f"\x1b[32m{piece.text}\x1b[0m" if self.colours and piece.drafted and piece.text else piece.text
        print(text, end="", file=self.stream, flush=True)
        self.last = piece.text or self.last

    def end(self) -> None:
        if not self.last.endswith("\n"):
            print(file=self.stream, flush=True)


def can_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@contextlib.contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Here Ctrl-C only says so, to the one who asks after every token. One that comes much later, when a long prompt is still
    being read, is a KeyboardInterrupt."""
    happened = 0.0

    def on_signal(number: int, frame: Any) -> None:
        nonlocal happened
        if happened and time.monotonic() - happened > PATIENCE:
            raise KeyboardInterrupt
        happened = happened or time.monotonic()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: happened > 0
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _waiting(what: str, is_shown: bool) -> Iterator[None]:
    """A word about what takes so long, on a terminal, which goes away."""
    shown = is_shown and sys.stderr.isatty()
    if shown:
        print(f"{what} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the chat


class Terminal:
    """Somebody who types, and the model's answers."""

    def __init__(self, chat: Any, name: str, said: List[str], shows_drafts: bool, shows_stats: bool) -> None:
        self.chat = chat
        self.name = name
        self.said = said
        self.shows_drafts = shows_drafts
        self.shows_stats = shows_stats
        self.tree: Any = None

    def talk(self) -> int:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (input() then has a history and can be edited)
        print(f"{self.name}{''.join(f', {sentence}' for sentence in self.said)}. /help for help.")
        if not self.chat.has_template:
            print("This model has no chat template: it goes on with what you type.")
        while True:
            try:
                text = self._read()
            except EOFError:
                print()
                return 0
            except KeyboardInterrupt:
                print("\n(Ctrl-D or /quit leaves)")
                continue
            if text.strip().startswith("/"):
                if self._command(*text.strip().partition(" ")[::2]):
                    return 0
            elif text.strip():
                self._answer(text)

    def _read(self) -> str:
        """A text: a line, lines that end with a backslash, or lines between triple quotes."""
        line = input("> ")
        if line.strip().startswith('"""'):
            lines = [line.strip()[3:]]
            while not lines[-1].rstrip().endswith('"""'):
                lines.append(input("... "))
            lines[-1] = lines[-1].rstrip()[:-3]
            return "\n".join(lines).strip("\n")
        while line.endswith("\\"):
            line = line[:-1] + "\n" + input("... ")
        return line

    def _answer(self, text: str) -> None:
        printer = Printer(self.shows_drafts)
        try:
            with stoppable() as stopped, contextlib.closing(self.chat.ask(text)) as answer:
                for piece in answer:
                    printer.show(piece)
                    tree = self.chat.llm.last_tree
                    self.tree = tree if tree is not None and len(tree.tokens) > 1 else self.tree
                    if stopped():
                        break
        except KeyboardInterrupt:
            self.chat.llm.reset()  # wherever it was, what is in memory is not known
        except ValueError as error:
            print(error)
            return
        printer.end()
        if stopped():
            print("(stopped)")
        if self.shows_stats:
            print(_numbers(self.chat.llm))

    def _command(self, name: str, rest: str) -> bool:
        """True to leave."""
        if name in ("/quit", "/exit", "/bye"):
            return True
        if name == "/help":
            print(CHAT_HELP)
        elif name == "/stats":
            self._stats()
        elif name == "/tree":
            print(self.tree if self.tree is not None else "No draft tree yet: nothing was drafted.")
        elif name == "/drafts":
            self.shows_drafts = not self.shows_drafts
            print(f"Drafted tokens are {'green' if self.shows_drafts else 'not coloured'} now.")
        elif name == "/system":
            self._system(rest.strip())
        elif name == "/clear":
            self.chat.history.clear()
            print("(a new conversation)")
        elif name == "/again":
            self._again()
        else:
            print(f"There is no {name}. /help lists what there is.")
        return False

    def _stats(self) -> None:
        stats = self.chat.llm.speculative_stats
        if stats is None:
            print("There is no drafter.")
        else:
            print(stats if not stats.explain() else f"{stats}\n{stats.explain()}")

    def _system(self, text: str) -> None:
        if text:
            self.chat.system = text
            self.chat.history.clear()
            print("(a new conversation with this system message)")
        else:
            print(self.chat.system or "There is no system message.")

    def _again(self) -> None:
        if not self.chat.history:
            print("Nothing was asked yet.")
            return
        question = self.chat.history[-2]["content"]
        self.chat.take_back()
        self._answer(question)
