"""Train an MTP head for a qwen35 target on text that the target wrote, on its own rolled-out states.

usage: train_mtp.py --target T.gguf --data data.npz --seconds 120 --out DIR
Depth 1 starts from the target's hidden states, each further depth from the head's own output for the depth before,
with the true text as tokens: what it meets when its draft has been right so far. The target's hidden states are computed
once and kept on the GPU. Stops by the clock. Writes DIR/head.pt (weights named as in the GGUF) and DIR/log.json.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import data
from mtp import Head, roll_out, shift
from target import load_target
from train import dense, schedule


def head_loss(hidden, head, label):
    """(cross-entropy [B, S], is the best guess right [B, S]); label -100 where nothing is predicted"""
    logits = F.linear(hidden, head).flatten(0, 1).float()
    entropy = F.cross_entropy(logits, label.flatten(), reduction="none", ignore_index=-100)
    return entropy.view(label.shape), (logits.detach().argmax(-1) == label.flatten()).view(label.shape)


def labels(rows, depth):
    """[B, S]: the token after each position, where the root depth-1 places before is one that may be drafted from"""
    tokens, doc = rows["tokens"].long(), rows["doc"]
    after = lambda x, fill: torch.cat([x[:, 1:], torch.full_like(x[:, :1], fill)], 1)
    real = (after(doc, -2) == doc) & (doc >= 0) & (shift(doc + 1, depth - 1) == doc + 1) & shift(rows["anchor"], depth - 1)
    return torch.where(real, after(tokens, 0), -100)


class Optimizer:
    """Muon for the matrices, AdamW for the norms"""

    def __init__(self, head, lr, norm_lr):
        of = lambda dim: [p for p in head.parameters() if p.dim() == dim]
        self.parts = [torch.optim.Muon(of(2), lr=lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
                      torch.optim.AdamW(of(1), lr=norm_lr, betas=(0.9, 0.98), weight_decay=0.0)]
        self.rates = lr, norm_lr

    def step(self, scale):
        for optimizer, rate in zip(self.parts, self.rates):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


class Trainer:
    def __init__(self, args):
        self.args, self.began = args, time.time()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.target = load_target(args.target, self.device, torch.float16 if self.device == "cuda" else torch.float32, args.gguf_py)
        self.rng, self.log = np.random.default_rng(args.seed), []
        torch.manual_seed(args.seed)
        self.head = Head(self.target, args.type).to(self.device)
        self.optimizer = Optimizer(self.head, args.lr, args.norm_lr)
        self.embd = self.target.embd.float() if self.device == "cpu" else self.target.embd.bfloat16()
        wrap = (lambda f: torch.compile(f, dynamic=False)) if self.device == "cuda" and not args.eager else (lambda f: f)
        self.head_loss = wrap(head_loss)
        self._load_data()

    def _load_data(self):
        docs = [d for path in self.args.data for d in data.load_documents(path)]
        train, held_out = data.split(docs)
        greedy = [d for d in held_out if d["hot"] == 0]
        self.train, self.held_out = self._packed(train), self._packed(greedy)
        self.info = dict(documents=len(train), held_out=len(greedy), tokens=int(sum(len(d["tokens"]) for d in train)),
                         generated=int(sum(len(d["tokens"]) - d["start"] for d in train)), rows=len(self.train["tokens"]))
        print(f"{self.clock():.0f} s", self.info, flush=True)

    def _packed(self, docs):
        """rows of documents side by side, with the target's hidden state at every token"""
        packed = data.pack(docs, self.args.row, self.rng)
        rows = {k: torch.from_numpy(v).to(self.device) for k, v in packed.items()}
        parts = [self._hidden({k: v[at:at + 16] for k, v in rows.items()}) for at in range(0, len(rows["tokens"]), 16)]
        return {**rows, "hidden": torch.cat(parts)}

    @torch.no_grad()
    def _hidden(self, rows):
        doc, S = rows["doc"].long(), rows["doc"].shape[1]
        mask = (doc[:, :, None] == doc[:, None, :])[:, None] & torch.ones(S, S, dtype=torch.bool, device=doc.device).tril()
        tokens, pos = rows["tokens"].long(), rows["pos"].long()
        return self.target.forward(tokens, pos, lambda i: lambda q, k, v: dense(q, k, v, mask))[0]

    def clock(self):
        return time.time() - self.began

    def losses(self, rows, weights, head_loss):
        """per depth: (mean cross-entropy, right [B, S], label [B, S])"""
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            states = roll_out(F.embedding(rows["tokens"].long(), self.embd), rows["hidden"].to(self.embd.dtype), rows["pos"].long(), rows["doc"].long(),
                              weights, self.target.shape, self.args.depths)
            for depth, hidden in enumerate(states, 1):
                label = labels(rows, depth)
                entropy, right = head_loss(hidden, self.embd, label)
                yield entropy.sum() / (label >= 0).sum().clamp_min(1), right, label

    def batches(self):
        while True:
            order = torch.from_numpy(self.rng.permutation(len(self.train["tokens"]))).to(self.device)
            for at in range(0, len(order) - self.args.batch + 1, self.args.batch):
                yield {k: v[order[at:at + self.args.batch]] for k, v in self.train.items()}

    def step(self, rows, scale, mix):
        """one update -> per depth [cross-entropy, share of best guesses that are right]"""
        shown, total = [], 0
        for depth, (loss, right, label) in enumerate(self.losses(rows, self.head.tensors(mix), self.head_loss)):
            total = total + loss * self.args.depth_weight ** depth
            shown.append(torch.stack([loss.detach(), right[label >= 0].float().mean()]))
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        self.optimizer.step(scale)
        return torch.stack(shown)

    @torch.no_grad()
    def chain(self, mix=1.0):
        """held-out greedy text: per depth the share of roots at which the chain is right so far"""
        right_so_far, roots, kinds = torch.zeros(self.args.depths), 0, self.held_out
        for at in range(0, len(kinds["tokens"]), self.args.batch):
            rows = {k: v[at:at + self.args.batch] for k, v in kinds.items()}
            alive = None
            for depth, (_, right, label) in enumerate(self.losses(rows, self.head.tensors(mix), head_loss)):
                alive = right & (label >= 0) if alive is None else shift(alive, 1) & right & (label >= 0)
                right_so_far[depth] += float(alive.sum())
                roots += int((label >= 0).sum()) if depth == 0 else 0
        return (right_so_far / max(roots, 1)).tolist()

    def run(self):
        steps, first = 0, None
        for rows in self.batches():
            now = time.time()
            progress = 0.0 if first is None else min((now - first) / self.args.seconds, 1.0)
            mix = min(max((progress - self.args.quant_from) / 0.05, 0), 1)
            shown = self.step(rows, schedule(max(progress, 1e-4)), mix)
            steps += 1
            if steps == 3:   # compilation is over: the schedule's clock starts
                shown.tolist()
                first = time.time()
                print(f"first steps took {first - now:.0f} s, started after {first - self.began:.0f} s", flush=True)
            if steps % self.args.log_every == 0:
                entropy, accuracy = shown.T.tolist()
                self.log.append(dict(step=steps, seconds=self.clock(), entropy=entropy, accuracy=accuracy))
                print(f"{self.clock():.0f} s step {steps}: loss " + " ".join(f"{e:.3f}" for e in entropy) + " right " + " ".join(f"{a:.2f}" for a in accuracy), flush=True)
            if progress >= 1 or steps >= self.args.max_steps:
                break
        self.save(steps)

    def save(self, steps):
        out = Path(self.args.out)
        out.mkdir(parents=True, exist_ok=True)
        torch.save({k: v.detach().float().cpu() for k, v in self.head.tensors().items()}, out / "head.pt")
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else 0
        result = dict(info=self.info, args=vars(self.args), steps=steps, memory_gib=memory, chain_right_so_far=self.chain(), log=self.log)
        (out / "log.json").write_text(json.dumps(result))
        print(f"{self.clock():.0f} s, {steps} steps, {memory:.0f} GiB; held-out chain right so far", [round(x, 3) for x in result["chain_right_so_far"]], flush=True)


def arguments():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--target", required=True)
    ap.add_argument("--data", nargs="+", required=True)
    ap.add_argument("--gguf-py")
    ap.add_argument("--out", required=True)
    ap.add_argument("--seconds", type=float, default=120, help="of training, loading and compiling not included")
    ap.add_argument("--depths", type=int, default=6, help="steps a draft is rolled out")
    ap.add_argument("--depth-weight", type=float, default=0.8, help="weight of depth k is this to the power k-1")
    ap.add_argument("--type", default="Q4_0", choices=["Q4_0", "Q8_0", "F16", "F32"], help="of the matrices in the file")
    ap.add_argument("--batch", type=int, default=48, help="rows a step")
    ap.add_argument("--row", type=int, default=768, help="tokens a row")
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--norm-lr", type=float, default=1e-3)
    ap.add_argument("--quant-from", type=float, default=0.5, help="share of the run after which weights are seen as quantised")
    ap.add_argument("--log-every", type=int, default=50)
    ap.add_argument("--max-steps", type=int, default=10**9)
    ap.add_argument("--eager", action="store_true", help="compile nothing")
    ap.add_argument("--seed", type=int, default=0)
    return ap.parse_args()


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    Trainer(arguments()).run()
