"""Write a trained target as a GGUF of architecture qwen35 that unpatched llama.cpp loads.

usage (from training/): python -m tiny_qwen35.export_target --checkpoint target.pt --tokenizer tokenizer.json -o tiny-qwen35.gguf [--type F32]
Matrices become Q8_0; vectors and the convolution stay F32, as llama.cpp's own converter and quantiser keep them.
"""
import argparse
import json

import torch

from export_gguf import add_shape, quantised, write_gguf
from qwen35 import Shape, tensor_name
from tiny_qwen35.tokenizer import SPECIAL

TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
KEPT_F32 = ("ssm_conv1d",)


def add_metadata(w, c, kind):
    import gguf
    w.add_name("tiny-qwen35")
    w.add_description("A very small demonstration model of the qwen35 architecture (Gated DeltaNet and attention, 3:1): short Python functions and word problems")
    w.add_license("mit")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if kind == "Q8_0" else gguf.LlamaFileType.ALL_F32)
    add_shape(w, c, c.n_ctx, c.n_rot, sections(c.n_rot // 2))
    w.add_ssm_conv_kernel(c.conv)
    w.add_ssm_state_size(c.state)
    w.add_ssm_group_count(c.k_heads)
    w.add_ssm_time_step_rank(c.v_heads)
    w.add_ssm_inner_size(c.v_heads * c.state)
    w.add_full_attention_interval(c.interval)


def sections(pairs):
    """M-RoPE's sections (time, height, width, none) of so many rotated pairs, in Qwen3.5's proportion 11 : 11 : 10"""
    width = pairs * 10 // 32
    height = (pairs - width) // 2
    return [pairs - width - height, height, width, 0]


def add_tokenizer(w, path):
    import gguf
    model = json.load(open(path))["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    special = [gguf.TokenType.CONTROL if t in SPECIAL else gguf.TokenType.NORMAL for t in tokens]
    w.add_vocab_size(len(tokens))
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen35")
    w.add_token_list(tokens)
    w.add_token_types(special)
    w.add_token_merges([" ".join(m) for m in model["merges"]])
    w.add_bos_token_id(SPECIAL.index("<|endoftext|>"))
    w.add_eos_token_id(SPECIAL.index("<|im_end|>"))
    w.add_eot_token_id(SPECIAL.index("<|im_end|>"))
    w.add_pad_token_id(SPECIAL.index("<|endoftext|>"))
    w.add_mask_token_id(SPECIAL.index("<|mask|>"))
    w.add_add_bos_token(False)
    w.add_chat_template(TEMPLATE)


def export(c, state, tokenizer, path, kind="Q8_0"):
    """state: {GGUF tensor name: float tensor}"""
    import gguf
    w = gguf.GGUFWriter(path, "qwen35")
    add_metadata(w, c, kind)
    add_tokenizer(w, tokenizer)
    for name, weight in state.items():
        if kind == "F32" or weight.dim() == 1 or any(part in name for part in KEPT_F32):
            w.add_tensor(name, weight.float().contiguous().numpy())
        else:
            raw, qtype = quantised(weight, kind)
            w.add_tensor(name, raw, raw_dtype=qtype)
    write_gguf(w)


def names(c):
    """every tensor of the model: (GGUF name, shape)"""
    layers = [(tensor_name(i, name), shape) for i in range(c.n_layer) for name, shape in c.tensors(i).items()]
    return [("token_embd.weight", (c.n_vocab, c.n_embd)), ("output_norm.weight", (c.n_embd,)), *layers]


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--checkpoint", required=True)
    ap.add_argument("--tokenizer", required=True)
    ap.add_argument("--type", default="Q8_0", choices=["Q8_0", "F32"])
    ap.add_argument("-o", "--out", required=True)
    args = ap.parse_args()
    saved = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    export(Shape(**saved["shape"]), saved["state"], args.tokenizer, args.out, args.type)


if __name__ == "__main__":
    main()
