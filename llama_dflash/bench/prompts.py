"""What to go on after: prompts of a JSONL file, and their tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, List, Optional

from ..chat import template_of
from ..llama import Llama

# the sets that ship with the package, and where a checkout has them
SETS = (Path(__file__).parent / "prompt_sets", Path(__file__).parents[2] / "benchmarks" / "prompts")

STYLES = {"prompt": "raw", "question": "chat"}  # what is done with a row that has this


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one kind. style: "raw" goes on after a text, "chat" answers a question by the target's template."""

    name: str
    style: str
    texts: List[str]


def read_prompts(spec: str, style: Optional[str] = None, field: Optional[str] = None) -> PromptSet:
    """Reads FILE.jsonl or, for its first N rows, FILE.jsonl:N; or a set that ships with the package, by its NAME or NAME:N.

    Args:
        spec: FILE.jsonl, NAME, FILE.jsonl:N or NAME:N. A file goes before a set of the same name.
        style: "raw" or "chat"; None: chat for questions, raw for all else.
        field: Where a row has its text; None: `prompt` or `question`.

    Raises:
        ValueError: If the file is missing or a row has no such text.
    """
    file, _, n = spec.rpartition(":")
    if not (file and n.isdigit()):
        file, n = spec, ""
    try:
        path = _file_of(file)
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        known = ", ".join(sorted({path.stem for folder in SETS for path in folder.glob("*.jsonl")}))
        hint = f"; sets that ship with the package: {known}" if known else ""
        raise ValueError(f"--prompts {spec}: {error.strerror or error}{hint}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts {spec}: {error}") from None
    rows = []
    for number, line in enumerate(lines[: int(n) if n else None], 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"--prompts {spec}: row {number} is no JSON: {error}") from None
    if not rows:
        raise ValueError(f"--prompts {spec}: it has no rows")
    for key in [field] if field else STYLES:
        if all(isinstance(row, dict) and isinstance(row.get(key), str) for row in rows):
            return PromptSet(path.stem, style or STYLES.get(key, "raw"), [row[key] for row in rows])
    expected = f'each with a "{field}" (a text)' if field else 'each with a "prompt" or each with a "question"'
    raise ValueError(f"--prompts {spec}: expected rows of JSON, {expected}")


def _file_of(name: str) -> Path:
    file = Path(name)
    if not file.exists():
        for shipped in (folder / f"{name}.jsonl" for folder in SETS):
            if shipped.is_file():
                return shipped
    return file


def asker(llm: Llama) -> Optional[Callable[[str], List[int]]]:
    """What makes of a question the tokens of a chat that starts with it; None if the target has no chat template."""
    tokens = template_of(llm)
    return None if tokens is None else lambda question: tokens([{"role": "user", "content": question}])


def tokenize(prompts: PromptSet, llm: Llama) -> List[List[int]]:
    """The tokens of every prompt of a set; a question is asked by the target's chat template, if it has one."""
    ask = asker(llm) if prompts.style == "chat" else None
    if ask is None:
        return [llm.tokenize(text.encode(), add_bos=True, special=True) for text in prompts.texts]
    return [ask(text) for text in prompts.texts]
