"""Train DFlash drafters on text that the target wrote; several variants share one target forward.

usage: train.py --target T.gguf --data data.npz --seconds 500 --variant name:n_layer=4,ffn=1536 ... --out DIR
The run stops by the clock. It writes DIR/<name>.pt (checkpoint), DIR/log.json (loss and accuracy per depth).
--resume DIR starts from checkpoints of the same names, --resume FILE.gguf from an exported drafter.
"""
import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import data
from drafter import Config, Drafter, block_forward, dense_mask, drafter_from_gguf, encode, load_drafter, stored, visible
from target import load_target


def flex(q, k, v, mask):
    return flex_attention(q, k, v, block_mask=mask, enable_gqa=True)


def dense(q, k, v, mask):
    return F.scaled_dot_product_attention(q, *wide(q, k, v), attn_mask=mask)


def wide(q, k, v):
    """key/value heads repeated to the number of query heads"""
    n = q.shape[1] // k.shape[1]
    return k.repeat_interleave(n, 1), v.repeat_interleave(n, 1)


def drafter_block(attention):
    """drafter.block_forward whose last argument is the mask"""
    return lambda x, context, cos, sin, w, mix, c, mask: block_forward(x, context, cos, sin, w, mix, c, lambda q, k, v: attention(q, k, v, mask))


def head_loss(hidden, head, mix, kind, label, weight):
    """(mean weighted cross-entropy, cross-entropy [B*Q], is the best guess right [B*Q])"""
    logits = F.linear(hidden, stored(head, kind, mix)).flatten(0, 1).float()
    label, weight = label.flatten(), weight.flatten()
    entropy = F.cross_entropy(logits, label, reduction="none", ignore_index=-100)
    return (entropy * weight).sum() / weight.sum(), entropy.detach(), logits.detach().argmax(-1) == label


class Runner:
    """the pieces of a step: target features, a drafter's hidden states, its loss

    Compiled piece by piece (one layer, not the whole model), so that all layers and variants share a compilation.
    Not compiled: dense masks and float32, for evaluation and for the CPU.
    """

    def __init__(self, target, compiled):
        self.target, self.compiled = target, compiled
        wrap = (lambda f: torch.compile(f, dynamic=False)) if compiled else (lambda f: f)
        attention = flex if compiled else dense
        self.target_layer, self.block = target.over_rows(attention, wrap), wrap(drafter_block(attention))
        self.make_mask, self.encode, self.head_loss = wrap(create_block_mask), wrap(encode), wrap(head_loss)

    def mask(self, fn, B, Q, K, dense):
        if not self.compiled:
            return dense()
        return self.make_mask(fn, B, None, Q, K, device=self.target.device)

    @torch.no_grad()
    def features(self, rows, taps):
        """rows: tokens, doc, pos [B, S] -> target features [B, S, taps*E] and the last hidden state [B, S, E]"""
        doc, S = rows["doc"].long(), rows["doc"].shape[1]

        def same_doc(b, h, q, kv):
            return (doc[b, q] == doc[b, kv]) & (kv <= q)
        dense = lambda: (doc[:, :, None] == doc[:, None, :])[:, None] & torch.ones(S, S, dtype=torch.bool, device=doc.device).tril()
        mask = self.mask(same_doc, len(doc), S, S, dense)
        hidden, features = self.target.forward(rows["tokens"].long(), rows["pos"].long(), lambda i: mask, taps, self.target_layer)
        return features, hidden

    def block_mask(self, blocks):
        (B, S), Q = blocks["doc"].shape, blocks["row_doc"].shape[1]
        return self.mask(visible(blocks, S), B, Q, S + Q, lambda: dense_mask(blocks))

    def hidden(self, drafter, features, pos, blocks, mask):
        """hidden states [B, Q, E] of the blocks' rows"""
        with torch.autocast("cuda", torch.bfloat16, enabled=self.compiled):
            return drafter(features, pos.long(), blocks["row_token"], blocks["row_pos"], mask, self.block, self.encode)

    def loss(self, drafter, hidden, blocks):
        with torch.autocast("cuda", torch.bfloat16, enabled=self.compiled):
            return self.head_loss(hidden, drafter.head, drafter.quant_mix, drafter.config.head_type, blocks["label"], blocks["weight"])


class Optimizer:
    """Muon for the matrices inside, AdamW for norms and the head"""

    def __init__(self, drafter, lr, head_lr):
        matrix = [p for n, p in drafter.named_parameters() if p.dim() == 2 and n != "head"]
        vector = [p for n, p in drafter.named_parameters() if p.dim() == 1]
        self.parts = [torch.optim.Muon(matrix, lr=lr, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
                      torch.optim.AdamW([dict(params=vector, lr=lr), dict(params=[drafter.head], lr=head_lr)], betas=(0.9, 0.98), weight_decay=0.0)]
        self.base = [[g["lr"] for g in o.param_groups] for o in self.parts]

    def step(self, scale):
        for o, rates in zip(self.parts, self.base):
            for group, rate in zip(o.param_groups, rates):
                group["lr"] = rate * scale
            o.step()
            o.zero_grad(set_to_none=True)


def feature_scale(runner, rows, taps):
    """mean magnitude of every feature [taps*E]; the first position of a text is an outlier and left out"""
    features, _ = runner.features(rows, taps)
    keep = (rows["pos"] > 0) & (rows["doc"] >= 0)
    return features[keep].float().abs().mean(0).clamp_min(1e-3) * 1.25


def parse_variant(text, target):
    """name:key=value,... -> (name, Config), for the target's shape where nothing else is said"""
    name, _, rest = text.partition(":")
    convert = lambda v: int(v) if v.isdigit() else v
    return name, Config(**{**target.draft, **{k: convert(v) for k, v in (kv.split("=") for kv in rest.split(",") if kv)}})


def schedule(progress, warmup=0.02):
    return min(progress / warmup, 1.0) * (0.5 + 0.5 * math.cos(math.pi * progress)) + 0.01


def by_depth(entropy, right, blocks):
    """accuracy and cross-entropy per depth 1..15; a token outside the draft vocabulary counts as wrong"""
    offset, real = blocks["row_offset"].flatten(), blocks["real"].flatten()
    label = blocks["label"].flatten()
    pick = [real & (offset == d) for d in range(1, 16)]
    accuracy = [float(right[p].float().mean()) for p in pick]
    return accuracy, [float(entropy[p & (label >= 0)].mean()) for p in pick]


class Trainer:
    def __init__(self, args):
        self.args, self.began = args, time.time()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.target = load_target(args.target, device, torch.float16 if device == "cuda" else torch.float32, args.gguf_py)
        self.runner = Runner(self.target, device == "cuda")
        self.rng = np.random.default_rng(args.seed)
        self._load_data(device)
        self._make_drafters(device)
        self.log = {n: [] for n in self.drafters}

    def _load_data(self, device):
        docs = [d for path in self.args.data for d in data.load_documents(path)]
        train, self.held_out = data.split(docs)
        packed = data.pack(train, self.args.row, self.rng)
        self.rows = {k: torch.from_numpy(v).to(device) for k, v in packed.items()}
        self.n_vocab = min(self.args.n_vocab, self.target.n_vocab)
        ids, covered, counts = data.draft_vocabulary(train, self.n_vocab, self.target.n_vocab, always=range(17))
        ids = ids if self.n_vocab < self.target.n_vocab else np.arange(self.n_vocab)   # the whole vocabulary keeps its order
        self.t2d = torch.full((self.target.n_vocab,), -100, device=device)
        self.ids = torch.from_numpy(ids).to(device)
        self.t2d[self.ids] = torch.arange(len(ids), device=device)
        shares = np.sort(counts)[::-1].cumsum() / counts.sum()
        self.info = dict(documents=len(train), held_out=len(self.held_out), tokens=int(sum(len(d["tokens"]) for d in train)),
                         generated=int(counts.sum()), rows=len(packed["tokens"]), fill=float((packed["doc"] >= 0).mean()),
                         coverage={str(n): float(shares[n - 1]) for n in (4096, 8192, 12288, 16384, 24576) if n <= len(shares)})
        print(self.info, flush=True)

    def _make_drafters(self, device):
        self.drafters, self.optimizers = {}, {}
        for text in self.args.variant:
            name, config = parse_variant(text, self.target)
            config.n_vocab = self.n_vocab
            scale = feature_scale(self.runner, self._rows(range(self.args.batch)), config.taps)
            if self.args.resume:
                drafter = self._resumed(name, scale, device)
            else:
                torch.manual_seed(0)
                drafter = Drafter(config, self.ids, self.target.embd, scale).to(device)
                drafter.out_norm.data.copy_(self.target.norm.float() * 0.2)   # starts near a flat distribution
            self.drafters[name], self.optimizers[name] = drafter, Optimizer(drafter, self.args.lr, self.args.head_lr)
        first = next(iter(self.drafters.values())).config
        self.taps, self.mask_token = first.taps, first.mask_token

    def _resumed(self, name, scale, device):
        """a drafter from a checkpoint folder or a GGUF (which holds fc for raw features), and its draft vocabulary"""
        if self.args.resume.endswith(".gguf"):
            drafter = drafter_from_gguf(self.args.resume, self.target.embd, device, self.args.gguf_py).train()
            drafter.fc.data *= scale
            drafter.feature_scale.copy_(scale)
        else:
            drafter = load_drafter(Path(self.args.resume) / f"{name}.pt", self.target.embd, device)
        self.t2d.fill_(-100)[drafter.d2t] = torch.arange(len(drafter.d2t), device=device)
        return drafter

    def _rows(self, index):
        index = torch.as_tensor(np.asarray(index), device=self.target.device)
        return {k: v[index] for k, v in self.rows.items()}

    def batches(self):
        while True:
            order = self.rng.permutation(len(self.rows["tokens"]))
            for at in range(0, len(order) - self.args.batch + 1, self.args.batch):
                yield self._rows(order[at:at + self.args.batch])

    def step(self, rows, scale, mix):
        """one update of every drafter; returns what the log needs"""
        blocks = data.sample_blocks(rows, self.args.slots, self.t2d, self.mask_token, self.args.depth_scale)
        features, _ = self.runner.features(rows, self.taps)
        mask, out = self.runner.block_mask(blocks), {}
        for name, drafter in self.drafters.items():
            drafter.quant_mix.fill_(mix)
            loss, entropy, right = self.runner.loss(drafter, self.runner.hidden(drafter, features, rows["pos"], blocks, mask), blocks)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(drafter.parameters(), 1.0)
            self.optimizers[name].step(scale)
            out[name] = (loss.detach(), entropy, right, blocks)
        return out

    def run(self):
        steps, first = 0, None
        for rows in self.batches():
            now = time.time()
            progress = 0.0 if first is None else min((now - first) / self.args.seconds, 1.0)
            mix = min(max((progress - self.args.quant_from) / 0.05, 0), 1)
            out = self.step(rows, schedule(max(progress, 1e-4)) * self.args.lr_scale, mix)
            steps += 1
            if steps == 3:   # compilation is over: the schedule's clock starts
                torch.cuda.synchronize() if torch.cuda.is_available() else None
                first = time.time()
                print(f"first steps took {first - now:.0f} s, started after {first - self.began:.0f} s", flush=True)
            if steps % self.args.log_every == 0 or progress >= 1:
                self._log(steps, out)
            if progress >= 1 or steps >= self.args.max_steps:
                break
            if self.args.save_every and steps % self.args.save_every == 0:
                self.save()
        self.save()

    def _log(self, steps, out):
        for name, (loss, entropy, right, blocks) in out.items():
            accuracy, depth_loss = by_depth(entropy, right, blocks)
            chain = float(np.cumprod(accuracy).sum())
            self.log[name].append(dict(step=steps, seconds=time.time() - self.began, loss=float(loss), accuracy=accuracy, entropy=depth_loss))
            print(f"{time.time() - self.began:.0f} s step {steps} {name}: loss {float(loss):.3f} acc " +
                  " ".join(f"{a:.2f}" for a in accuracy[:8]) + f" prod {chain:.2f}", flush=True)

    def save(self):
        out = Path(self.args.out)
        out.mkdir(parents=True, exist_ok=True)
        for name, drafter in self.drafters.items():
            torch.save(drafter.checkpoint(), out / f"{name}.pt")
        memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0
        (out / "log.json").write_text(json.dumps(dict(info=self.info, args=vars(self.args), memory_gib=memory, log=self.log)))


def arguments():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--target", required=True)
    ap.add_argument("--data", nargs="+", required=True)
    ap.add_argument("--gguf-py")
    ap.add_argument("--variant", nargs="+", default=["l4:n_layer=4"])
    ap.add_argument("--out", required=True)
    ap.add_argument("--resume")
    ap.add_argument("--seconds", type=float, default=500, help="of training, loading and compiling not included")
    ap.add_argument("--batch", type=int, default=32, help="rows a step")
    ap.add_argument("--row", type=int, default=1024, help="tokens a row")
    ap.add_argument("--slots", type=int, default=2048, help="block tokens a row")
    ap.add_argument("--n-vocab", type=int, default=12288, help="draft vocabulary; the whole one if the target has no more")
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--head-lr", type=float, default=5e-4)
    ap.add_argument("--lr-scale", type=float, default=1.0)
    ap.add_argument("--depth-scale", type=float, default=6.0, help="weight of depth k is exp(-(k-1)/this)")
    ap.add_argument("--quant-from", type=float, default=0.5, help="share of the run after which weights are seen as quantised")
    ap.add_argument("--log-every", type=int, default=50)
    ap.add_argument("--save-every", type=int, default=500)
    ap.add_argument("--max-steps", type=int, default=10**9)
    ap.add_argument("--seed", type=int, default=0)
    return ap.parse_args()


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    Trainer(arguments()).run()
