"""The result file of a measurement: `results.schema.json` describes it."""

from __future__ import annotations

import argparse
import datetime
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from .methods import Models
from .prompts import PromptSet
from .summary import summarise
from .surroundings import command_line, machine, versions

SCHEMA = Path(__file__).with_name("results.schema.json")


class Results:
    """The result file, complete and valid at every save."""

    def __init__(
        self,
        args: argparse.Namespace,
        models: Models,
        prompts: List[PromptSet],
        program: Sequence[str],
        checkout: Optional[Path],
    ) -> None:
        self._path: Path = args.out
        self.content: Dict[str, Any] = {
            "schema": 1,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "complete": False,
            "command": command_line(program, args.arguments),
            "machine": machine(),
            "versions": versions(args.llama_server, checkout),
            "settings": {
                "max_tokens": args.max_tokens,
                "threads": args.threads,
                "repeats": args.repeats,
                "n_ctx": args.ctx,
                "n_gpu_layers": args.n_gpu_layers,
                "flash_attn": True,
                "temperature": 0.0,
                "batch_invariant": os.environ.get("GGML_CPU_BATCH_INVARIANT", "0") not in ("", "0"),
            },
            "drafter": {"name": " + ".join(map(_name, args.draft_model)), "bytes": models.drafter_bytes},
            "targets": [],
            "sets": [{"name": p.name, "style": p.style, "prompts": len(p.texts)} for p in prompts],
            "runs": [],
            "summary": [],
        }

    def add(self, run: Dict[str, Any]) -> None:
        self.content["runs"].append(run)

    def save(self) -> None:
        """Writes all or nothing: an interrupted run leaves the file of the last prompt."""
        self.content["summary"] = summarise(self.content["runs"])
        partial = self._path.with_name(self._path.name + ".partial")
        partial.write_text(to_json(self.content), encoding="utf-8")
        os.replace(partial, self._path)

    def validate(self) -> None:
        """Compares the content with its schema, if jsonschema is installed."""
        try:
            import jsonschema
        except ImportError:
            return
        schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(schema).validate(json.loads(json.dumps(self.content)))


def _name(drafter: str) -> str:
    path = Path(drafter)
    return path.resolve().name if path.is_dir() else path.stem


def to_json(content: Dict[str, Any]) -> str:
    """JSON with a line for every run, so that it can be read and compared."""

    def value(v: Any) -> str:
        if isinstance(v, list) and v and isinstance(v[0], dict):
            return "[\n  " + ",\n  ".join(map(json.dumps, v)) + "\n ]"
        return json.dumps(v)

    return "{\n " + ",\n ".join(f"{json.dumps(k)}: {value(v)}" for k, v in content.items()) + "\n}\n"
