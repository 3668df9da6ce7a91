"""A conversation with a model: messages in, tokens out as they are written, each with what the drafter had to do with it."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from .llama import Llama

Message = Dict[str, str]


class Piece(NamedTuple):
    """Text of a token; empty while a character is not complete. drafted: An accepted node of a draft tree."""

    text: str
    drafted: bool


@dataclass(frozen=True)
class Sampling:
    """As of Llama.create_completion. temperature 0: always the most probable token."""

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 40
    min_p: float = 0.05
    repeat_penalty: float = 1.0


def template_of(llm: Llama) -> Optional[Callable[[List[Message]], List[int]]]:
    """What makes of messages the tokens that an answer follows, by the template in the model's file; None without one."""
    template = llm.metadata.get("tokenizer.chat_template")
    if template is None:
        return None
    eos, bos = (llm._model.token_get_text(token) if token != -1 else "" for token in (llm.token_eos(), llm.token_bos()))
    chat = Jinja2ChatFormatter(template=template, eos_token=eos, bos_token=bos)

    def tokens(messages: List[Message]) -> List[int]:
        text = chat(messages=messages)  # type: ignore[arg-type]
        return llm.tokenize(text.prompt.encode(), add_bos=not text.added_special, special=True)

    return tokens


def tokens_of_answer(llm: Llama, prompt: List[int], max_tokens: int, sampling: Sampling) -> Iterator[Piece]:
    """Writes until the model ends its turn, max_tokens are there, or the context is full."""
    vocab = llama_cpp.llama_model_get_vocab(llm.model)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a character may be several tokens
    tree: Any = None
    i = 0  # tokens seen of the round that `tree` is from
    written: List[int] = []
    tokens = llm.generate(
        prompt, temp=sampling.temperature, top_p=sampling.top_p, top_k=sampling.top_k, min_p=sampling.min_p,
        repeat_penalty=sampling.repeat_penalty,
    )  # fmt: skip
    try:
        for token in tokens:
            if llm.last_tree is not tree:
                tree, i = llm.last_tree, 0
            drafted = tree is not None and tree.drafted(i)
            i += 1
            if llama_cpp.llama_vocab_is_eog(vocab, token):
                break
            text = decoder.decode(llm.detokenize([token], prev_tokens=[*prompt[-1:], *written[-1:]]))
            written.append(token)
            yield Piece(text, drafted)
            if len(written) >= max_tokens or len(prompt) + len(written) >= llm.n_ctx():
                break
    finally:
        tokens.close()
    rest = decoder.decode(b"", final=True)
    if rest:
        yield Piece(rest, False)


@dataclass
class Chat:
    """A conversation and its history.

    Args:
        llm: The model.
        system: What the system message says; None: there is none.
        max_tokens: Of an answer; None: what fits.
    """

    llm: Llama
    system: Optional[str] = None
    max_tokens: Optional[int] = None
    sampling: Sampling = field(default_factory=Sampling)
    history: List[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._template = template_of(self.llm)

    @property
    def has_template(self) -> bool:
        return self._template is not None

    def ask(self, question: str) -> Iterator[Piece]:
        """The answer, which is part of the history when it was read to its end or closed. The oldest turns are forgotten where
        the context is too small for all.

        Raises:
            ValueError: If the question alone is too long.
        """
        self.history.append({"role": "user", "content": question})
        try:
            prompt = self._fitting_prompt()
        except BaseException:
            self.history.pop()
            raise
        answer: List[str] = []
        try:
            n_left = self.llm.n_ctx() - len(prompt)
            for piece in tokens_of_answer(self.llm, prompt, min(self.max_tokens or n_left, n_left), self.sampling):
                answer.append(piece.text)
                yield piece
        finally:
            self.history.append({"role": "assistant", "content": "".join(answer)})

    def take_back(self) -> None:
        """Forgets the last question and its answer."""
        del self.history[-2:]

    def _fitting_prompt(self) -> List[int]:
        while True:
            prompt = self._tokens()
            room = self.llm.n_ctx() - len(prompt)
            if room >= min(self.max_tokens or 64, self.llm.n_ctx() // 4):
                return prompt
            if len(self.history) < 3:
                raise ValueError(f"the text has {len(prompt)} tokens, and the context {self.llm.n_ctx()}: shorten it, or give a larger --ctx")
            del self.history[:2]

    def _tokens(self) -> List[int]:
        messages = [{"role": "system", "content": self.system}, *self.history] if self.system else self.history
        if self._template is not None:
            return self._template(messages)
        text = "\n".join(message["content"] for message in messages)
        return self.llm.tokenize(text.encode(), special=False)
