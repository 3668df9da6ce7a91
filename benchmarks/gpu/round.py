"""Measures a pair at one context: prefill, memory, whole rounds, and the target's forwards by their number of tokens.

    python benchmarks/gpu/round.py --target T.gguf --drafter D.gguf --context 512 --kv f16 --out results.json

Acceptance is made up (models of random weights accept nothing), so tokens per second are projections.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from llama_dflash import _library  # before llama_cpp

import results
from forwards import Plan, measure, measure_commit
from memory import Gpu, MemoryLog
from rounds import SAMPLERS, Draft, Speculation, summary
from target import Settings, Target, log_above_debug, saved_state

LONG = 8192  # tokens of a context to which a few hundred more make no difference


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def lengths(text: str) -> list[float | None]:
    return [None if part == "real" else float(part) for part in text.split(",")]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--target", type=Path, required=True)
    add("--drafter", type=Path, required=True)
    add("--context", type=int, default=512, help="tokens in memory before anything is timed (%(default)s)")
    add("--kv", default="f16", choices=["f16", "q8_0", "q4_0"])
    add("--budgets", type=integers, default=[22, 8, 16, 32], help="the first one is what memory is measured with")
    add("--lengths", type=lengths, default=[8.31, 7.67, 7.04, 6.14], help="tokens a round that are accepted: of every "
        'budget the first, of the first budget all; "real": what the target accepts')
    add("--samplers", action="store_true", help="also rounds of the first budget at temperature, with usual samplers")
    add("--sizes", type=integers, default=[1, 2, 4, 8, 9, 12, 16, 17, 20, 23, 28, 32, 33, 48, 64])
    add("--rounds", type=int, default=40, help="timed, per setting (%(default)s)")
    add("--turns", type=int, default=3, help="through all sizes (%(default)s)")
    add("--full-window", action="store_true", help="the context is the whole window: fill it but for what the rounds need")
    add("--ubatch", type=int, default=512)
    add("--threads", type=int, default=8)
    add("--n-gpu-layers", type=int, default=-1)
    add("--verbose", action="store_true", help="show what llama.cpp says")
    add("--prefill-without", action="store_true", help="also time the prompt without a drafter")
    add("--out", type=Path, required=True)
    return parser.parse_args()


def drafts(budgets: list[int], lengths: list[float | None]) -> list[Draft]:
    first = [Draft(budget, lengths[0]) for budget in budgets]
    return first + [Draft(budgets[0], length) for length in lengths[1:]]


def check_device(n_gpu_layers: int) -> None:
    if n_gpu_layers != 0 and not _library.has_gpu():
        raise SystemExit("the libraries have no GPU backend, or there is no GPU; --n-gpu-layers 0 measures the CPU")


def n_ctx(args: argparse.Namespace, room: int) -> int:
    return args.context if args.full_window else args.context + room


def measure_rounds(args: argparse.Namespace, found: dict[str, Any]) -> Speculation:
    """Fills the context and runs the rounds of every draft."""
    wanted = drafts(args.budgets, args.lengths)
    log = MemoryLog(Gpu())
    check_device(args.n_gpu_layers)
    room = (len(wanted) + (len(SAMPLERS) if args.samplers else 0)) * 16 * (args.rounds + 10)
    settings = Settings(n_ctx(args, room), args.kv, args.ubatch, args.threads, args.n_gpu_layers)
    speculation = Speculation(str(args.target), str(args.drafter), settings, wanted[0], verbose=args.verbose)
    log.mark("after loading")
    found["filled"] = args.context - room if args.full_window else args.context
    found["prefill_with_drafter_seconds"] = speculation.fill(found["filled"])
    log.mark("after the prompt")
    if args.context < LONG:  # elsewhere the rounds add next to nothing to it
        speculation.keep()
    found["rounds"] = [summary(wanted[0], speculation.rounds(args.rounds))]
    log.mark("after the rounds")
    found["memory_mib"] = log.close()
    print(f"budget {wanted[0].budget}: {found['rounds'][0]['ms']:.2f} ms a round", flush=True)
    for draft in wanted[1:]:
        speculation.use(draft)
        found["rounds"].append(summary(draft, speculation.rounds(args.rounds)))
    if args.samplers:
        speculation.use(wanted[0])
        found["sampled"] = [
            {"sampler": name, **summary(wanted[0], speculation.rounds(args.rounds, sampler))} for name, sampler in SAMPLERS.items()
        ]
    return speculation


def measure_forwards(args: argparse.Namespace, speculation: Speculation, found: dict[str, Any]) -> None:
    """In a context of its own, without a drafter, after a prompt of its own or the rounds' text: it shares the model."""
    plan = Plan(args.sizes, turns=args.turns, room=1024 if args.context < LONG else 8192)
    n_past = speculation.llm.n_tokens
    settings = Settings(n_past + plan.room + 64, args.kv, args.ubatch, args.threads, args.n_gpu_layers)
    target = Target(speculation.llm._model.model, settings)
    if args.prefill_without:
        found["prefill_without_drafter_seconds"] = target.fill(found["filled"])
    state = saved_state(target.ctx if args.prefill_without else speculation.llm.ctx)
    target.load(state)
    found["forwards"] = measure(target, plan, state)
    target.load(state)
    found["commit"] = measure_commit(target)
    target.close()


def main() -> None:
    args = parse_arguments()
    log_above_debug()
    found: dict[str, Any] = {"context": args.context, "kv": args.kv, "device": Gpu().name, "ubatch": args.ubatch}
    found["n_gpu_layers"] = args.n_gpu_layers
    speculation = measure_rounds(args, found)
    results.put(args.out, "contexts", str(args.context), found)
    measure_forwards(args, speculation, found)
    results.put(args.out, "contexts", str(args.context), found)
    speculation.close()


if __name__ == "__main__":
    main()
