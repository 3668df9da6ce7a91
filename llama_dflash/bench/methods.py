"""The ways of decoding that are compared. Each takes a prompt's tokens and returns what it wrote and how long that took."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import llama_cpp
import numpy as np

from ..drafts import DFlashDraft, Draft, MTPDraft, NGramDraft
from ..llama import Llama

Budget = Union[int, str, None]  # nodes beside the root; "auto"; None where nothing is drafted

KINDS = {
    "plain": "plain decoding",
    "chain": "our chain",
    "tree": "our tree",
    "server-plain": "llama-server, plain decoding",
    "server-chain": "llama-server, its chain",
}


@dataclass(frozen=True)
class Method:
    """A way of decoding: which program, and how much it drafts."""

    kind: str  # a key of KINDS
    budget: Budget = None

    @property
    def name(self) -> str:
        return self.kind if self.budget is None else f"{self.kind} {self.budget}"

    @property
    def baseline(self) -> str:
        """The method that this one's speed is divided by: plain decoding by the same program."""
        return "server-plain" if self.kind.startswith("server") else "plain"


@dataclass
class Generation:
    """What a method wrote after one prompt.

    seconds: From the first token, which the prompt's evaluation gives, to the last: the time of len(tokens) - 1 tokens.
    rounds, nodes, accepted, round_tokens, phases: As in llama_dflash.SpeculativeStats. None where nobody counted.
    """

    tokens: List[int]
    seconds: float
    rounds: Optional[int] = None
    nodes: Optional[int] = None
    accepted: Optional[int] = None
    round_tokens: Optional[int] = None
    phases: Optional[Dict[str, float]] = None


@dataclass(frozen=True)
class Models:
    """What every method loads, and how.

    drafts: The drafters, whose files are there and fit the target.
    server_ngram, server_match: llama.cpp's own method where the drafter is an n-gram one, and the tokens that it looks for.
    """

    target: Path
    drafts: Tuple[Draft, ...]
    threads: int
    n_ctx: int
    llama_server: Optional[Path] = None
    n_gpu_layers: int = 0  # -1 for all
    server_ngram: str = "ngram-simple"
    server_match: int = 3

    def drafts_for(self, method: Method) -> Optional[List[Draft]]:
        """The drafters as a method of ours wants them; None for plain decoding."""
        if method.budget is None:
            return None
        return [dataclasses.replace(draft, budget=method.budget, mode=method.kind) for draft in self.drafts]  # type: ignore[type-var]

    def server_options(self, budget: int) -> List[str]:
        """What llama-server is to be told to draft with the same, as far as it can: chains of one drafter."""
        (draft,) = self.drafts
        if isinstance(draft, NGramDraft):
            sizes = ("n-match", "n-max") if self.server_ngram == "ngram-mod" else ("size-n", "size-m")
            options = ["--spec-type", self.server_ngram]
            for size, value in zip(sizes, (self.server_match, budget)):
                options += [f"--spec-{self.server_ngram}-{size}", str(value)]
            return options
        assert isinstance(draft, (DFlashDraft, MTPDraft))
        options = ["--spec-type", f"draft-{draft.kind}", "--spec-draft-n-max", str(budget)]
        return [*options, "--spec-draft-model", draft.path] if draft.path else options

    def server_can(self) -> bool:
        return len(self.drafts) == 1 and isinstance(self.drafts[0], (DFlashDraft, MTPDraft, NGramDraft))

    @property
    def drafter_bytes(self) -> int:
        return sum(Path(draft.file).stat().st_size for draft in self.drafts if draft.file)


class Ours:
    """llama_dflash.Llama in this process, with a drafter or without."""

    def __init__(self, models: Models, method: Method) -> None:
        self.llm = Llama(
            str(models.target),
            draft_model=models.drafts_for(method),
            n_ctx=models.n_ctx,
            n_threads=models.threads,
            n_threads_batch=models.threads,
            n_gpu_layers=models.n_gpu_layers,
            flash_attn=True,
            verbose=False,
        )
        self._vocab = self.llm._model.vocab

    def generate(self, prompt: List[int], max_tokens: int) -> Generation:
        llm, tokens = self.llm, []
        llm.reset()
        llm._conversation.max_tokens = max_tokens  # as create_completion tells it: the last round drafts no further
        stream = llm.generate(prompt, temp=0.0)
        for token in stream:
            last = time.perf_counter()
            first = last if not tokens else first
            tokens.append(token)
            if len(tokens) >= max_tokens or llama_cpp.llama_vocab_is_eog(self._vocab, token):
                break
        stream.close()
        generation = Generation(tokens, last - first)
        stats = llm.speculative_stats
        if stats is not None:
            generation.rounds, generation.nodes, generation.accepted = stats.rounds, stats.nodes, stats.accepted
            generation.round_tokens, generation.phases = stats.tokens, dict(stats.seconds)
        return generation

    def top_two(self, prompt: List[int], tokens: List[int]) -> "TopTwo":
        """The two best tokens of plain decoding at every position of a text, evaluated token by token. Not timed."""
        top = TopTwo()
        self.llm.reset()
        for batch in [prompt, *([t] for t in tokens[:-1])]:
            self.llm.eval(batch)
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.llm.ctx, -1), shape=(self.llm.n_vocab(),))
            second, first = np.argpartition(logits, -2)[-2:]
            if logits[second] > logits[first]:
                first, second = second, first
            top.gaps.append(float(logits[first] - logits[second]))
            top.seconds.append(int(second))
        return top

    def close(self) -> None:
        self.llm.close()


@dataclass
class TopTwo:
    """At every position of a text: how far the best logit is above the second best, and the second best token."""

    gaps: List[float] = field(default_factory=list)
    seconds: List[int] = field(default_factory=list)


class ServerError(ValueError):
    """What a llama-server said that ended or refused to answer."""


class LlamaServer:
    """An unpatched llama-server, asked over HTTP. Times and counts are its own.

    options: More of its command line.
    """

    def __init__(self, models: Models, method: Method, options: Sequence[str] = ()) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile()
        command = [str(models.llama_server), "--model", str(models.target), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--threads", str(models.threads), "--threads-batch", str(models.threads)]
        command += ["--ctx-size", str(models.n_ctx), "--flash-attn", "on", "--parallel", "1", "--cache-ram", "0"]
        if method.budget is not None:
            command += models.server_options(method.budget)
        if models.n_gpu_layers != 0:
            layers = "all" if models.n_gpu_layers < 0 else str(models.n_gpu_layers)
            command += ["--gpu-layers", layers]
            command += [] if method.budget is None or models.drafter_bytes == 0 else ["--spec-draft-ngl", layers]
        command += options
        folder = str(models.llama_server.resolve().parent)
        libraries = os.pathsep.join([folder, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=subprocess.STDOUT, env={**os.environ, "LD_LIBRARY_PATH": libraries}
        )
        try:
            self._wait_until_ready(seconds=300)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def _wait_until_ready(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(f"llama-server ended with {self._process.returncode}:\n{self._log_tail()}")
            try:
                with urllib.request.urlopen(f"{self._url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise ServerError(f"llama-server was not ready after {seconds:.0f} s:\n{self._log_tail()}")

    def _log_tail(self) -> str:
        self._log.seek(0)
        return "\n".join(self._log.read().decode(errors="replace").splitlines()[-15:])

    def generate(self, prompt: List[int], max_tokens: int) -> Generation:
        answer = self._post(
            "/completion",
            prompt=prompt,
            n_predict=max_tokens,
            temperature=0.0,
            samplers=["top_k"],  # an argmax, without the other samplers' work over the vocabulary
            top_k=1,
            cache_prompt=False,
            return_tokens=True,
        )
        tokens, timings = answer["tokens"], answer["timings"]
        seconds = timings["predicted_ms"] / 1000  # like ours from the end of the prompt's evaluation on
        if "draft_n" not in timings:
            return Generation(tokens, seconds)
        # It does not count rounds, but each of them samples one token more than it accepts.
        accepted, decoded = timings["draft_n_accepted"], len(tokens) - 1
        rounds = max(1, decoded - accepted)
        return Generation(
            tokens, seconds, rounds=rounds, nodes=timings["draft_n"], accepted=accepted, round_tokens=decoded
        )

    def _post(self, path: str, **body: Any) -> Dict[str, Any]:
        request = urllib.request.Request(
            self._url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise ServerError(f"llama-server: {error.read().decode(errors='replace')}") from None
        except OSError as error:
            raise ServerError(f"llama-server: {error}:\n{self._log_tail()}") from None

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def load(models: Models, method: Method) -> Union[Ours, LlamaServer]:
    return LlamaServer(models, method) if method.kind.startswith("server") else Ours(models, method)
