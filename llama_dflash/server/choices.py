"""Several texts for one request: `n` choices, several prompts. The model writes one after the other."""

from __future__ import annotations

import copy
from typing import Any, Dict, Iterable, Iterator, List, Sequence

from ..chunks import Chunk

Request = Dict[str, Any]
Answer = Dict[str, Any]
Usage = Dict[str, int]


def one_each(request: Request, n_choices: int) -> List[Request]:
    """Requests for one text each. The first is `request`; the others' seeds follow its seed, if it has one."""
    return [_with_seed_after(request, i) for i in range(n_choices)]


def _with_seed_after(request: Request, i: int) -> Request:
    seed = request.get("seed")
    return {
        **request,
        "seed": None if seed is None else (seed + i) % 2**32,
        "logits_processor": copy.deepcopy(request.get("logits_processor")),  # upstream's count the tokens of one text
    }


def joined(answers: Sequence[Answer], n_choices: int) -> Answer:
    """One answer with the choices of all, n_choices of each prompt."""
    choices = [{**answer["choices"][0], "index": i} for i, answer in enumerate(answers)]
    return {**answers[0], "choices": choices, "usage": sum_of([answer["usage"] for answer in answers], n_choices)}


def one_stream(streams: Iterable[Iterable[Chunk]]) -> Iterator[Chunk]:
    """One stream with the choices of all, one after the other."""
    first = None
    for i, chunks in enumerate(streams):
        for chunk in chunks:
            first = first or chunk
            yield {**chunk, "id": first["id"], "created": first["created"], "choices": [{**chunk["choices"][0], "index": i}]}


def sum_of(usages: Sequence[Usage], n_choices: int) -> Usage:
    """The usage of all texts, n_choices of each prompt. A prompt's tokens are counted once, as OpenAI does."""
    n_prompt = sum(usage["prompt_tokens"] for usage in usages[::n_choices])
    n_completion = sum(usage["completion_tokens"] for usage in usages)
    return {"prompt_tokens": n_prompt, "completion_tokens": n_completion, "total_tokens": n_prompt + n_completion}
