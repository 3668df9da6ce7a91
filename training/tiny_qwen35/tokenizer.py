"""Train the byte-level BPE vocabulary of the tiny target, and read it back.

usage (from training/): python -m tiny_qwen35.tokenizer --corpus corpus.jsonl -o tokenizer.json
The pre-tokenizer is Qwen3.5's pattern (llama.cpp's pre type `qwen35`): letters with marks, single digits.
"""
import argparse
import json
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# <|mask|> is the drafter's; the target never writes it. The reserved ones fill up to a round number.
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"] + [f"<|reserved_{i}|>" for i in range(4)]
PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
           r"\s*[\r\n]+|\s+(?!\S)|\s+")
SHARES = {"code": 0.3, "docs": 0.4, "gsm8k": 1.0, "tasks": 0.6, "drills": 0.3, "talk": 1.0}   # of each stream's documents


def qwen35_bpe(vocab=None, merges=None):
    """a byte-level BPE with Qwen3.5's pre-tokenizer; empty, or with this vocabulary"""
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges) if vocab else models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), "isolated"),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    return tok


def sample(path, rng):
    for row in map(json.loads, open(path)):
        if rng.random() < SHARES[row["stream"]]:
            yield row["text"]


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--corpus", required=True)
    ap.add_argument("--size", type=int, default=8192)
    ap.add_argument("-o", "--out", required=True)
    args = ap.parse_args()
    tok = qwen35_bpe()
    special = [AddedToken(t, special=True, normalized=False) for t in SPECIAL]
    tok.train_from_iterator(sample(args.corpus, random.Random(0)), trainers.BpeTrainer(
        vocab_size=args.size, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.save(args.out)
    print(tok.get_vocab_size(), tok.encode("def f(x: int) -> int:\n    return 12 * x\n<|im_end|>").tokens)


if __name__ == "__main__":
    main()
