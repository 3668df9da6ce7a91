"""Write reference drafts of a drafter GGUF, for testing another implementation of it.

usage: make_fixture.py --target T.gguf --drafter D.gguf -o drafter_reference.npz [--gguf-py DIR]
For every case: the context's token ids (the last one is the root, which the target has not seen), the block
length, and per drafted position the 32 most likely target ids with their log-probabilities over the draft
vocabulary. Everything in float32 from the dequantised weights; activations are not rounded. Where the context
is short the target's features of all tokens before the root are stored too.
"""
import argparse

import numpy as np
import torch
import torch.nn.functional as F

from drafter import drafter_from_gguf, encode
from prompts import chat
from target import causal, load_target, rms_norm


def cases(system):
    """(text, tokens of the text before the root, block length, keep the features)"""
    pencils = chat(["A box holds 12 pencils. How many pencils are in 7 boxes?"], system) + "To find the total number of pencils, we need to multiply"
    return [
        ("def square_sum(numbers):\n    total = 0\n    for x in numbers:\n        total += x * x\n", 14, 16, True),
        ("The three primary colours are red, blue and yellow.", 8, 8, True),
        ("from typing import List\n\n\ndef running_max(values: List[int]) -> List[int]:\n    \"\"\"Return the running maximum.\n    >>> running_max([1, 3, 2])\n    [1, 3, 3]\n    \"\"\"\n    result = []\n    for v in values:\n", 64, 16, False),
        (pencils, 66, 16, False),
        (pencils, 66, 4, False),
        (chat(["Name three fruits."], system) + "1. Apple\n2. Banana", 45, 12, False),
    ]


def exact_encode(features, fc, enc_norm, mix, c):
    """drafter.encode without the rounding of its input"""
    return rms_norm(F.linear(features, fc), enc_norm, c.eps)


@torch.no_grad()
def draft(target, drafter, ids, block, encoder):
    """ids: context with the root last -> (log-probs [block-1, draft vocabulary], features [len(ids)-1, taps*E])"""
    n, c = len(ids) - 1, drafter.config
    before = torch.tensor([ids[:-1]])
    _, features = target.forward(before, torch.arange(n)[None], lambda i: causal, c.taps)
    row = torch.tensor([[ids[-1]] + [c.mask_token] * (block - 1)])
    full = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    hidden = drafter(features, torch.arange(n)[None], row, torch.arange(n, n + block)[None], full, encode=encoder)
    return drafter.logits(hidden[0, 1:]).log_softmax(-1), features[0]


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--target", required=True)
    ap.add_argument("--drafter", required=True)
    ap.add_argument("--gguf-py")
    ap.add_argument("-o", "--out", required=True)
    args = ap.parse_args()
    target = load_target(args.target, gguf_py=args.gguf_py)
    drafter, tok, out = drafter_from_gguf(args.drafter, target.embd), target.tokenizer(), {}
    made = cases(target.system)
    for number, (text, before, block, keep) in enumerate(made):
        ids = tok.encode(text).ids[:before + 1]
        logp, features = draft(target, drafter, ids, block, exact_encode)
        rounded, _ = draft(target, drafter, ids, block, encode)
        top, draft_ids = logp.topk(32, -1)
        case = dict(context=np.array(ids, np.int32), block=np.int32(block), ids=drafter.d2t[draft_ids].numpy().astype(np.int32),
                    logprobs=top.numpy(), logprobs_rounded_features=rounded.gather(1, draft_ids).numpy())
        if keep:
            case["features"] = features.numpy()
        out.update({f"case{number}_{k}": v for k, v in case.items()})
        print(number, len(ids), "context;", "draft:", repr(tok.decode(drafter.d2t[logp.argmax(-1)].tolist())),
              "largest change by rounding the features: %.4f" % (rounded.gather(1, draft_ids) - top).abs().max())
    np.savez_compressed(args.out, cases=np.int32(len(made)), taps=np.array(drafter.config.taps, np.int32), mask_token=np.int32(drafter.config.mask_token), **out)


if __name__ == "__main__":
    main()
