"""Train the tiny target from the corpus, on one GPU; stops by the clock.

usage (from training/): python -m tiny_qwen35.train_target --corpus corpus.jsonl --tokenizer tokenizer.json --seconds 560 --out DIR
Writes DIR/target.pt (float16, tensors named as in the GGUF) and DIR/log.json (loss over steps, held-out loss by stream).
"""
import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from qwen35 import Shape, over_rows, rms_norm, run_layers
from tiny_qwen35.export_target import names

SHARES = {"code": .34, "docs": .08, "gsm8k": .20, "tasks": .24, "drills": .12, "talk": .02}   # of the rows
HELD_OUT = 150   # every so-manieth document of a stream
MATRICES = ("attn_qkv", "attn_gate", "ssm_out", "attn_q.", "attn_k.", "attn_v.", "attn_output", "ffn_")


def read_streams(path, tokenizer):
    """{stream: (training tokens, their documents' starts, held-out tokens)}; a document ends with <|endoftext|>"""
    from tokenizers import Tokenizer
    tok, texts = Tokenizer.from_file(tokenizer), {}
    with open(path) as f:
        for row in map(json.loads, f):
            texts.setdefault(row["stream"], []).append(row["text"])
    out = {}
    for stream, docs in texts.items():
        ids = [np.array([*e.ids, 0], np.uint16) for at in range(0, len(docs), 4096) for e in tok.encode_batch(docs[at:at + 4096])]
        train = [d for i, d in enumerate(ids) if i % HELD_OUT or len(ids) < HELD_OUT]
        starts = np.cumsum([0] + [len(d) for d in train])
        out[stream] = np.concatenate(train), starts[:-1], np.concatenate(ids[::HELD_OUT])
    return out


class Rows:
    """random rows of S + 1 tokens: half of them begin with a document, the others anywhere"""

    def __init__(self, streams, S, device, seed=0):
        self.S, self.device, self.rng = S, device, np.random.default_rng(seed)
        self.names = [s for s in SHARES if s in streams]
        self.share = np.array([SHARES[s] for s in self.names]) / sum(SHARES[s] for s in self.names)
        put = lambda x: torch.from_numpy(x.astype(np.int32)).to(device)
        wrap = lambda x: np.resize(x, max(len(x), 4 * S)) if len(x) < 4 * S else x   # a short stream repeats itself
        self.tokens = {s: put(wrap(streams[s][0])) for s in self.names}
        self.starts = {s: streams[s][1] for s in self.names}
        self.held_out = {s: put(wrap(streams[s][2])) for s in self.names}

    def cut(self, tokens, starts):
        index = torch.as_tensor(starts, device=self.device)[:, None] + torch.arange(self.S + 1, device=self.device)
        return tokens[index.clamp_max(len(tokens) - 1)].long()

    def batch(self, B):
        parts = []
        for stream, n in zip(self.names, self.rng.multinomial(B, self.share)):
            tokens, docs = self.tokens[stream], self.starts[stream]
            anywhere = self.rng.integers(0, len(tokens) - self.S, n)
            starts = np.where(self.rng.random(n) < .5, self.rng.choice(docs, n), anywhere)
            parts.append(self.cut(tokens, np.minimum(starts, len(tokens) - self.S - 1)))
        return torch.cat(parts)


class Model(torch.nn.Module):
    """the trained weights under their GGUF names ('.' as '/'); ssm_a is trained as the logarithm of its negative"""

    def __init__(self, c):
        super().__init__()
        self.c, self.weights = c, torch.nn.ParameterDict()
        for name, shape in names(c):
            self.weights[name.replace(".", "/")] = torch.nn.Parameter(self.first(name, shape, c))

    @staticmethod
    def first(name, shape, c):
        if name.endswith("ssm_a"):
            return torch.empty(shape).uniform_(1, 16).log()
        if "ssm_dt" in name:   # softplus of it lies between 0.001 and 0.1
            dt = torch.exp(torch.rand(shape) * math.log(100) + math.log(1e-3))
            return dt + torch.log(-torch.expm1(-dt))
        if "ssm_conv1d" in name:
            return torch.empty(shape).uniform_(-1, 1) * shape[1] ** -0.5
        if len(shape) == 1:
            return torch.ones(shape)
        if name == "token_embd.weight":
            return torch.randn(shape) * 0.02
        out = any(part in name for part in ("ssm_out", "attn_output", "ffn_down"))
        return torch.randn(shape) * shape[1] ** -0.5 * (0.5 / math.sqrt(c.n_layer) if out else 1.0)

    def tensors(self):
        """{GGUF name: weight as the file holds it}"""
        return {k.replace("/", "."): -p.exp() if k.endswith("ssm_a") else p for k, p in self.weights.items()}

    def layers(self):
        t = self.tensors()
        split = [{k[len(f"blk.{i}."):].rsplit(".", 1)[0]: v for k, v in t.items() if k.startswith(f"blk.{i}.")} for i in range(self.c.n_layer)]
        return split, t["token_embd.weight"], t["output_norm.weight"]


def orthogonal(g, steps=5):
    """Newton-Schulz iteration of Muon on a stack of matrices [n, rows, columns]"""
    x = g.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).float()


class Optimizer:
    """Muon on the layers' matrices, all of one shape at a time; AdamW on the rest"""

    def __init__(self, model, lr, embd_lr, momentum=0.95, decay=0.05):
        self.lr, self.momentum, self.decay = lr, momentum, decay
        by_shape, small, embd = {}, [], []
        for name, p in model.weights.items():
            if any(part.replace(".", "/") in name for part in MATRICES):
                by_shape.setdefault(tuple(p.shape), []).append(p)
            else:
                (embd if "token_embd" in name else small).append(p)
        self.groups = [(ps, torch.zeros(len(ps), *shape, device=ps[0].device)) for shape, ps in by_shape.items()]
        self.adam = torch.optim.AdamW([dict(params=embd, lr=embd_lr), dict(params=small, lr=lr)], betas=(0.9, 0.95), weight_decay=0.0)
        self.rates = [g["lr"] for g in self.adam.param_groups]

    @torch.no_grad()
    def step(self, scale):
        for ps, velocity in self.groups:
            grad = torch.stack([p.grad for p in ps])
            velocity.lerp_(grad, 1 - self.momentum)
            update = orthogonal(grad.lerp(velocity, self.momentum)) * (0.2 * max(grad.shape[1:]) ** 0.5)
            torch._foreach_mul_(ps, 1 - self.lr * scale * self.decay)
            torch._foreach_add_(ps, list(update.unbind()), alpha=-self.lr * scale)
            for p in ps:
                p.grad = None
        for group, rate in zip(self.adam.param_groups, self.rates):
            group["lr"] = rate * scale
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)


def head_loss(hidden, head, target):
    return F.cross_entropy(F.linear(hidden, head).flatten(0, 1).float(), target.flatten())


class Trainer:
    def __init__(self, args):
        self.args, self.began = args, time.time()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(args.seed)
        streams = read_streams(args.corpus, args.tokenizer)
        self.info = {s: dict(tokens=len(t), documents=len(d), held_out=len(h)) for s, (t, d, h) in streams.items()}
        print(f"{self.clock():.0f} s", self.info, flush=True)
        self.rows = Rows(streams, args.row, self.device, args.seed)
        self.c = Shape(**json.loads(args.shape))
        self.model = Model(self.c).to(self.device)
        print(f"{sum(p.numel() for p in self.model.parameters()) / 1e6:.2f}M parameters", flush=True)
        self.optimizer = Optimizer(self.model, args.lr, args.embd_lr)
        wrap = (lambda f: torch.compile(f, dynamic=False)) if self.device == "cuda" and not args.eager else (lambda f: f)
        attention = lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        self.layer, self.head_loss = over_rows(self.c, attention, wrap), wrap(head_loss)
        self.log = []

    def clock(self):
        return time.time() - self.began

    def loss(self, rows):
        tokens, c = rows[:, :-1], self.c
        layers, embd, norm = self.model.layers()
        pos = torch.arange(tokens.shape[1], device=self.device).expand_as(tokens)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            x, _ = run_layers(F.embedding(tokens, embd), pos, layers, c, lambda i: None if c.is_attention(i) else pos, layer=self.layer)
            return self.head_loss(rms_norm(x, norm, c.eps), embd, rows[:, 1:])

    def step(self, progress):
        for _ in range(self.args.parts):
            loss = self.loss(self.rows.batch(self.args.batch)) / self.args.parts
            loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step(schedule(progress))
        return loss.detach() * self.args.parts, norm

    @torch.no_grad()
    def held_out(self, batches=2):
        """mean held-out loss of every stream"""
        out = {}
        for stream, tokens in self.rows.held_out.items():
            starts = np.linspace(0, len(tokens) - self.args.row - 1, batches * self.args.batch).astype(int)
            out[stream] = round(float(np.mean([float(self.loss(self.rows.cut(tokens, s))) for s in np.split(starts, batches)])), 4)
        return out

    def run(self):
        steps, first = 0, None
        while True:
            progress = 0.0 if first is None else (time.time() - first) / (self.args.seconds - (first - self.began))
            if progress >= 1 or steps >= self.args.max_steps:
                break
            loss, norm = self.step(max(progress, 1e-3))
            steps += 1
            if steps == 3:   # compilation is over: the schedule's clock starts
                loss.item()
                first = time.time()
                print(f"started after {self.clock():.0f} s", flush=True)
            if steps % self.args.log_every == 0:
                entry = dict(step=steps, seconds=round(self.clock(), 1), loss=round(float(loss), 4), norm=round(float(norm), 3))
                if steps % (10 * self.args.log_every) == 0:
                    entry["held_out"] = self.held_out()
                self.log.append(entry)
                print(f"{progress:.2f}", entry, flush=True)
        self.log.append(dict(step=steps, seconds=round(self.clock(), 1), held_out=self.held_out()))
        print(self.log[-1], flush=True)
        self.save(steps)

    def save(self, steps):
        out = Path(self.args.out)
        out.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().half().cpu() if v.dim() > 1 else v.detach().float().cpu() for k, v in self.model.tensors().items()}
        torch.save(dict(shape=asdict(self.c), state=state), out / "target.pt")
        memory = torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else 0
        seen = steps * self.args.batch * self.args.row * self.args.parts
        (out / "log.json").write_text(json.dumps(dict(info=self.info, args=vars(self.args), tokens_seen=seen, memory_gib=memory, log=self.log)))
        print(f"{self.clock():.0f} s, {steps} steps, {seen / 1e6:.0f}M tokens, {memory:.0f} GiB", flush=True)


def schedule(progress, warmup=0.02, flat=0.45):
    """up, flat, then down to zero in a straight line"""
    return min(progress / warmup, 1.0) * min((1.0 - progress) / (1.0 - flat), 1.0)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--corpus", required=True)
    ap.add_argument("--tokenizer", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--shape", default="{}", help="JSON: what differs from qwen35.Shape")
    ap.add_argument("--seconds", type=float, default=560, help="of the whole run, reading and compiling included")
    ap.add_argument("--batch", type=int, default=32, help="rows in a part of a step")
    ap.add_argument("--parts", type=int, default=1, help="parts of a step")
    ap.add_argument("--row", type=int, default=2048, help="tokens a row")
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--embd-lr", type=float, default=3e-3)
    ap.add_argument("--log-every", type=int, default=50)
    ap.add_argument("--max-steps", type=int, default=10**9)
    ap.add_argument("--eager", action="store_true", help="compile nothing")
    ap.add_argument("--seed", type=int, default=0)
    Trainer(ap.parse_args()).run()


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    main()
