"""Several texts for one request: `n` choices, several prompts. The model writes one after the other."""

from __future__ import annotations

import copy
from typing import Any, Dict, List, Sequence

Request = Dict[str, Any]
Answer = Dict[str, Any]


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
    """One answer with the choices of all, n_choices of each prompt. A prompt's tokens are counted once, as OpenAI does."""
    choices = [{**answer["choices"][0], "index": i} for i, answer in enumerate(answers)]
    n_prompt = sum(answer["usage"]["prompt_tokens"] for answer in answers[::n_choices])
    n_completion = sum(answer["usage"]["completion_tokens"] for answer in answers)
    return {**answers[0], "choices": choices, "usage": usage_of(n_prompt, n_completion)}


def usage_of(n_prompt: int, n_completion: int) -> Dict[str, int]:
    return {"prompt_tokens": n_prompt, "completion_tokens": n_completion, "total_tokens": n_prompt + n_completion}
