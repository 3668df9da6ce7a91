"""`llama-dflash convert`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..cli import add_command

EPILOG = """\
examples:
  llama-dflash convert ./Qwen3.5-27B-DFlash --target Qwen3.5-27B-Q4_K_M.gguf -o drafter.gguf
  llama-dflash convert ./Qwen3.5-27B-DFlash --target Qwen3.5-27B-Q4_K_M.gguf -o drafter-q8_0.gguf --type q8_0

DFlash, DFlash2 and DSpark drafters and EAGLE-3 heads convert. The target's GGUF file, in any quantisation, gives the tokenizer.
`run`, `pull` and Llama(draft_model=) convert by themselves."""


def add(commands: Any, name: str, help: str) -> None:
    from ..convert import AUTO, TYPES

    parser = add_command(commands, name, help, _run, EPILOG)
    parser.add_argument("checkpoint", metavar="DIR", help="folder with config.json and *.safetensors, or pytorch_model.bin")
    parser.add_argument(
        "--target", required=True, metavar="TARGET.gguf", help="the model that the drafter was made for"
    )
    parser.add_argument(
        "-o", "--out", required=True, metavar="OUT.gguf", help="where to write; an existing file is replaced"
    )
    parser.add_argument(
        "--type",
        default=AUTO,
        choices=(AUTO, *TYPES),
        help="of the matrices; auto (default): bf16 if the checkpoint is, else f16",
    )


def _run(args: argparse.Namespace) -> int:
    from ..convert import convert
    from ..info import size_text
    from ..progress import Progress

    progress = Progress(f"converting {Path(args.checkpoint).name}")
    try:
        out = convert(args.checkpoint, args.target, args.out, args.type, progress)
    finally:
        progress.close()
    print(f"wrote {out} ({size_text(out.stat().st_size)})")
    return 0
