"""Tries damaged files. Run by test_fuzz.py in a process of its own.

usage: fuzz.py {drafter|target|checkpoint} FIRST END SECONDS TARGET OTHER WORK_FOLDER

OTHER: the drafter or the checkpoint's folder that is damaged. Prints every case before it is tried, so that after a crash the
last line names it; ends after SECONDS. Exit code 1 if a case raised something else than ValueError or RuntimeError, or if a
text changed.
"""

from __future__ import annotations

import itertools
import random
import shutil
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from damage import Gguf, damage_checkpoint

from llama_dflash import DFlashDraft, Llama
from llama_dflash._engine import Engine
from llama_dflash.convert import convert

PROMPT = list(b"the digits: 0123")
SETTINGS = dict(n_ctx=128, n_batch=64, n_ubatch=64, n_threads=1, n_threads_batch=1, verbose=False)


def text(llm: Llama, n: int = 8) -> list[int]:
    with_tokens = llm.generate(PROMPT, temp=0.0)
    tokens = list(itertools.islice(with_tokens, n))
    with_tokens.close()
    return tokens


class Fuzz:
    def __init__(self, target: Path, other: Path, work: Path):
        self.target, self.other, self.work = target, other, work

    def try_case(self, rng: random.Random) -> None:
        """Raises ValueError or RuntimeError if the file is refused."""
        raise NotImplementedError


class Drafters(Fuzz):
    def __init__(self, *paths: Path):
        super().__init__(*paths)
        self.llm = Llama(str(self.target), flash_attn=True, **SETTINGS)
        self.expected = text(self.llm)
        self.file = Gguf(self.other)

    def try_case(self, rng: random.Random) -> None:
        name, data = self.file.damaged(rng)
        print(f"  {name}", flush=True)
        path = self.work / "drafter.gguf"
        path.write_bytes(data)
        self.draft_with(path)

    def draft_with(self, path: Path) -> None:
        draft = DFlashDraft(path, budget=8, context=64)
        draft = draft.ready_for(str(self.target))
        self.llm.reset()
        self.llm._memory.engine = Engine(self.llm.ctx, [draft], n_gpu_layers=0)
        try:
            written = text(self.llm)
            assert written == self.expected, f"{written}, expected {self.expected}"
        finally:
            self.llm.reset()
            self.llm._engine.close()
            self.llm._memory.engine = None


class Targets(Fuzz):
    def __init__(self, *paths: Path):
        super().__init__(*paths)
        self.file = Gguf(self.target)

    def try_case(self, rng: random.Random) -> None:
        name, data = self.file.damaged(rng)
        print(f"  {name}", flush=True)
        path = self.work / "target.gguf"
        path.write_bytes(data)
        llm = Llama(str(path), **SETTINGS)
        llm.detokenize(llm.tokenize(b"the digits: 0123", special=True))
        text(llm, 3)
        llm.close()


class Checkpoints(Drafters):
    def __init__(self, target: Path, other: Path, work: Path):
        Fuzz.__init__(self, target, other, work)
        self.llm = Llama(str(self.target), flash_attn=True, **SETTINGS)
        self.expected = text(self.llm)

    def try_case(self, rng: random.Random) -> None:
        folder = self.work / "checkpoint"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.other, folder)
        print(f"  {damage_checkpoint(folder, rng)}", flush=True)
        self.draft_with(convert(folder, self.target, self.work / "converted.gguf"))


def main() -> None:
    kind, (first, end, seconds) = sys.argv[1], map(int, sys.argv[2:5])
    fuzz = {"drafter": Drafters, "target": Targets, "checkpoint": Checkpoints}[kind](*map(Path, sys.argv[5:8]))
    until = time.monotonic() + seconds
    refused = loaded = 0
    warnings.simplefilter("ignore", RuntimeWarning)  # a damaged drafter may fail: the text counts
    for seed in range(first, end):
        if time.monotonic() > until:
            break
        print(f"case {seed}", flush=True)
        try:
            fuzz.try_case(random.Random(f"{kind} {seed}"))
            loaded += 1
        except (ValueError, RuntimeError) as error:
            assert str(error), "an error without a word"
            refused += 1
    print(f"done: {refused} refused, {loaded} loaded")


if __name__ == "__main__":
    main()
