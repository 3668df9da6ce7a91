"""Pictures for the report: loss over steps, acceptance per depth, AL per budget.

usage: plot.py --log run1/log.json run2/log.json --eval eval.json --key "l4 vocab=12288 block=16" --out DIR
The key is one of the keys of eval.json: checkpoint name, draft vocabulary, block length.
--target-log draws the loss of a target that was trained here (tiny_qwen35/train_target.py's log.json) too.
"""
import argparse
import json
from pathlib import Path

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt


def loss_curve(logs, out):
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for path in logs:
        for name, points in json.loads(Path(path).read_text())["log"].items():
            label, x = f"{Path(path).parent.name} {name}", [p["step"] for p in points]
            left.plot(x, [p["loss"] for p in points], label=label, lw=1)
            right.plot(x, [p["accuracy"][0] for p in points], label=f"{label}, depth 1", lw=1)
            right.plot(x, [p["accuracy"][3] for p in points], label=f"{label}, depth 4", lw=1, ls="--")
    left.set(xlabel="step", ylabel="weighted cross-entropy", ylim=(0, 6))
    right.set(xlabel="step", ylabel="best guess is right (training batch)", ylim=(0, 1))
    for axis in (left, right):
        axis.grid(alpha=.3)
        axis.legend(fontsize=7)
    fig.tight_layout()
    fig.savefig(out / "loss.png", dpi=110)


def target_loss(path, out):
    log = json.loads(Path(path).read_text())["log"]
    fig, axis = plt.subplots(figsize=(7, 3.6))
    axis.plot(*zip(*((p["step"], p["loss"]) for p in log if "loss" in p)), label="training batch", lw=1, color="grey")
    held = [p for p in log if "held_out" in p]
    for stream in held[0]["held_out"]:
        axis.plot([p["step"] for p in held], [p["held_out"][stream] for p in held], label=f"held out, {stream}", marker=".", lw=1)
    axis.set(xlabel="step", ylabel="cross-entropy per token", ylim=(0, 5))
    axis.grid(alpha=.3)
    axis.legend(fontsize=7)
    fig.tight_layout()
    fig.savefig(out / "target_loss.png", dpi=110)


def acceptance(result, out):
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    for name, r in result.items():
        left.plot(range(1, len(r["accuracy"]) + 1), r["accuracy"], marker=".", label=name, lw=1)
        budgets = [int(b) for b in r["al"] if b != "chain"]
        line, = right.plot(budgets, [r["al"][str(b)] for b in budgets], marker="o", label=name, lw=1)
        right.axhline(r["al"]["chain"], color=line.get_color(), ls=":", lw=1)
    left.set(xlabel="depth in the block", ylabel="best guess is right", ylim=(0, 1))
    right.set(xlabel="tree budget (dotted: chain of 15)", ylabel="tokens per round (AL)")
    left.legend(fontsize=7)
    for axis in (left, right):
        axis.grid(alpha=.3)
    fig.tight_layout()
    fig.savefig(out / "acceptance.png", dpi=110)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--log", nargs="+", required=True)
    ap.add_argument("--eval", required=True)
    ap.add_argument("--key", required=True)
    ap.add_argument("--target-log")
    ap.add_argument("--out", required=True)
    args = ap.parse_args()
    loss_curve(args.log, Path(args.out))
    if args.target_log:
        target_loss(args.target_log, Path(args.out))
    acceptance(json.loads(Path(args.eval).read_text())[args.key], Path(args.out))


if __name__ == "__main__":
    main()
