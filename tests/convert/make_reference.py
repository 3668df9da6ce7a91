"""Runs llama.cpp's own converter over the checkpoints of checkpoints.py and writes what it wrote into reference/.

    python tests/convert/make_reference.py LLAMA_CPP_DIR [OUT_DIR]

It needs torch, transformers, tokenizers and the packages of LLAMA_CPP_DIR/requirements; the tests need none of them.
reference/ (or OUT_DIR) then holds the targets' metadata (GGUF files without tensors), which the tests convert against, and for every
case and type the keys and tensors that were written, as JSON; long arrays and tensors as their SHA-256.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

LLAMA_CPP = Path(sys.argv[1]).resolve()
HERE = Path(__file__).resolve().parent
OUT = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE / "reference"
sys.path[:0] = [str(LLAMA_CPP / "gguf-py"), str(LLAMA_CPP), str(HERE)]
sys.dont_write_bytecode = True

import gguf  # noqa: E402
import torch  # noqa: E402
from checkpoints import CASES, HIDDEN, N_VOCAB, TYPES, write_case  # noqa: E402
from conversion import get_model_class  # noqa: E402
from conversion.base import TextModel  # noqa: E402
from description import described  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402

TARGETS = {
    "llama": dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=HIDDEN, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, intermediate_size=128, vocab_size=N_VOCAB, rms_norm_eps=1e-5, max_position_embeddings=4096,
        rope_theta=10000.0,
    ),
    "qwen35": dict(
        architectures=["Qwen3_5ForCausalLM"], hidden_size=HIDDEN, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=32, intermediate_size=128, vocab_size=N_VOCAB, rms_norm_eps=1e-6, max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5},
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=32, linear_value_head_dim=32, linear_conv_kernel_dim=4,
        full_attention_interval=4, mtp_num_hidden_layers=1,
    ),
}  # fmt: skip
FILE_TYPES = {"auto": "GUESSED", "f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}

TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"  # it knows no tokenizer as small as this one


def write_tokenizer(folder: Path) -> None:
    """A byte-level BPE vocabulary of N_VOCAB tokens with a chat template."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [a + b for a in "etaoinsr" for b in "etaoinsr"][: N_VOCAB - 260]
    tokens = symbols + pairs
    bpe = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, [(p[0], p[1]) for p in pairs]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = dict(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, **special, additional_special_tokens=["<mask>"])
    fast.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    fast.save_pretrained(folder)


def convert(
    arch: str, folder: Path, out: Path, file_type: str, target: Path | None = None, vocab_only: bool = False
) -> Path:
    model = get_model_class(arch)(folder, getattr(gguf.LlamaFileType, file_type), out, target_model_dir=target)
    model.write_vocab() if vocab_only else model.write()
    return out


def main() -> None:
    OUT.mkdir(exist_ok=True)
    result = {}
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        for target, config in TARGETS.items():
            (folder / target).mkdir()
            write_tokenizer(folder / target)
            (folder / target / "config.json").write_text(json.dumps(config))
            convert(config["architectures"][0], folder / target, OUT / f"{target}.gguf", "MOSTLY_BF16", vocab_only=True)
        for case, settings in CASES.items():
            checkpoint = write_case(folder, case)
            for file_type in TYPES:
                target = folder / settings.get("target", "llama")
                path = convert(
                    settings["config"]["architectures"][0],
                    checkpoint,
                    folder / "out.gguf",
                    FILE_TYPES[file_type],
                    target,
                )
                result[f"{case} {file_type}"] = described(path)
                path.unlink()
    lines = (f"{json.dumps(name)}: {json.dumps(result[name], sort_keys=True)}" for name in sorted(result))
    (OUT / "llama.cpp.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
