"""What may be called between two tokens of a generation. Every call returns what two models are compared by."""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llama_cpp import LlamaGrammar, LlamaState, LogitsProcessorList, StoppingCriteriaList

SAMPLERS = ("top_k", "top_p", "min_p", "typical_p", "temp", "mirostat_mode", "mirostat_tau", "mirostat_eta")
PENALTIES = ("repeat_penalty", "frequency_penalty", "presence_penalty")


@dataclass
class Session:
    """One model and what a user of it holds."""

    llm: Any
    states: list[LlamaState] = field(default_factory=list)
    bias: list[float] = field(default_factory=lambda: [0.0])  # read by the processor "listens"
    last: int = 0  # the token that was handed out last
    stream: Any = None
    n_accepted: int = 0  # draft nodes, in the last generation

    def position(self) -> tuple[int, list[int]]:
        return self.llm.n_tokens, self.llm._input_ids[-4:].tolist()

    # -------------------------------------------------------------- settings

    def generate(self, prompt: list[int], settings: dict[str, Any], reset: bool = True):
        kwargs = {name: settings[name] for name in (*SAMPLERS, *PENALTIES) if name in settings}
        if settings.get("grammar"):
            kwargs["grammar"] = LlamaGrammar.from_string(settings["grammar"], verbose=False)
        if settings.get("processor"):
            kwargs["logits_processor"] = LogitsProcessorList([self.processor(settings["processor"])])
        if settings.get("stop_after"):
            kwargs["stopping_criteria"] = StoppingCriteriaList([self.criterion(settings["stop_after"])])
        self.llm.set_seed(settings.get("seed", 1))
        return self.llm.generate(prompt, reset=reset, **kwargs)

    def processor(self, kind: str):
        calls = itertools.count()

        def counts(input_ids, scores):  # has a state of its own, and changes in place
            scores[48 + next(calls) % 5] += 4.0
            return scores

        def listens(input_ids, scores):  # to what the user says between two tokens
            scores = scores.copy()
            scores[49] += self.bias[0]
            return scores

        def avoids(input_ids, scores):  # what was written last
            scores = scores.copy()
            scores[input_ids[-2:]] -= 3.0
            return scores

        def fails(input_ids, scores):
            if next(calls) == 9:
                raise LookupError("the ninth call")
            return scores

        return {"counts": counts, "listens": listens, "avoids": avoids, "fails": fails}[kind]

    @staticmethod
    def criterion(n: int):
        def stop(input_ids, logits):
            return int(input_ids.sum()) % n == 0

        return stop

    # -------------------------------------------------------------- calls

    def save(self) -> Any:
        self.states.append(self.llm.save_state())
        return self.position()

    def load(self, which: int) -> Any:
        if self.states:
            self.llm.load_state(self.states[which % len(self.states)])
        return self.position()

    def save_and_load(self) -> Any:
        self.llm.load_state(self.llm.save_state())
        return self.position()

    def evaluate(self, tokens: list[int]) -> Any:
        self.llm.eval(tokens)
        return self.position()

    def evaluate_last(self, tokens: list[int]) -> Any:
        return self.evaluate([self.last, *tokens])

    def sample(self) -> Any:
        return self.llm.sample(temp=0.0)

    def cut(self, n: int) -> Any:
        self.llm.n_tokens = max(1, self.llm.n_tokens - n)
        return self.position()

    def reset(self) -> Any:
        self.llm.reset()
        return self.position()

    def tokenize(self, text: str) -> Any:
        tokens = self.llm.tokenize(text.encode())
        return tokens, self.llm.detokenize(tokens)

    def low_level(self) -> Any:
        import llama_cpp

        return llama_cpp.llama_memory_seq_pos_max(llama_cpp.llama_get_memory(self.llm.ctx), 0)

    def say(self, bias: float) -> Any:
        self.bias[0] = bias

    def another(self, prompt: list[int], settings: dict[str, Any], n: int, closed: bool, reset: bool) -> Any:
        stream = self.generate(prompt, settings, reset)
        tokens = list(itertools.islice(stream, n))
        if closed:
            stream.close()
        else:
            self.stream = stream  # the one before is closed with it, in the middle of a round or not
        return tokens, self.position()

    def complete(self, prompt: str, n: int, stop: list[str]) -> Any:
        answer = self.llm.create_completion(prompt, max_tokens=n, temperature=0.7, seed=3, stop=stop)
        return answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]

    def elsewhere(self, prompt: str, n: int) -> Any:
        """Another thread's completion, which takes the turn of the generation."""
        return self._in_thread(lambda: self.complete(prompt, n, []))

    def read_elsewhere(self, stream: Any) -> Any:
        return self._in_thread(lambda: next(stream, None))

    def close(self) -> Any:
        self.llm.close()
        outcomes = []
        for call in (
            lambda: self.llm.eval([1]),
            lambda: self.llm.tokenize(b"1"),
            lambda: self.llm.save_state(),
            lambda: self.llm.create_completion("1"),
        ):
            try:
                call()
                outcomes.append(None)
            except RuntimeError as error:
                outcomes.append("closed" in str(error))
        return outcomes

    @staticmethod
    def _in_thread(function) -> Any:
        result: list[Any] = []

        def run():
            try:
                result.append(function())
            except Exception as error:
                result.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(60)
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]


def comparable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value
