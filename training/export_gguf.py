"""Write a trained drafter as a GGUF of architecture dflash that unpatched llama.cpp loads.

usage: export_gguf.py --checkpoint l4.pt --target T.gguf -o drafter.gguf [--vocab N] [--gguf-py DIR]
The vocabulary is the target's (llama.cpp compares them); merges are left out, since a drafter tokenises nothing.
A head over the target's whole vocabulary needs no list of its tokens (d2t).
"""
import argparse

import numpy as np
import torch

from drafter import Config
from target import read_gguf


def quantised(weight, kind):
    """(raw data, GGML type) of a float matrix"""
    import gguf
    qtype = gguf.GGMLQuantizationType[kind]
    return gguf.quants.quantize(weight.float().numpy(), qtype), qtype


def write_gguf(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def add_shape(w, c, n_ctx, n_rot, sections=None):
    """what a target and a drafter say alike; sections: M-RoPE's, of the n_rot / 2 rotated pairs"""
    w.add_block_count(c.n_layer)
    w.add_context_length(n_ctx)
    w.add_embedding_length(c.n_embd)
    w.add_feed_forward_length(c.ffn)
    w.add_head_count(c.heads)
    w.add_head_count_kv(c.kv_heads)
    w.add_key_length(c.head_dim)
    w.add_value_length(c.head_dim)
    w.add_rope_dimension_count(n_rot)
    if sections:
        w.add_rope_dimension_sections(sections)
    w.add_rope_freq_base(c.rope_base)
    w.add_layer_norm_rms_eps(c.eps)


def add_metadata(w, c, args, target_arch):
    w.add_name(f"{args.name} DFlash drafter")
    w.add_description(f"DFlash block-diffusion drafter for {args.name}, trained on text written by the target")
    w.add_license(args.license)
    w.add_base_model_count(1)
    w.add_base_model_name(0, args.name)
    w.add_base_model_organization(0, args.organization)
    # a target with M-RoPE has positions in sections; all of them are the drafter's one position
    add_shape(w, c, 8192, c.head_dim, [c.head_dim // 2, 0, 0, 0] if target_arch == "qwen35" else None)
    w.add_block_size(c.block_size)
    w.add_target_layers(list(c.taps))


def add_vocabulary(w, reader, mask_token):
    field = lambda name: reader.fields["tokenizer.ggml." + name].contents()
    given = lambda name: "tokenizer.ggml." + name in reader.fields
    tokens = field("tokens")
    w.add_vocab_size(len(tokens))
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(field("pre"))
    w.add_token_list(tokens)
    w.add_token_types(field("token_type"))
    w.add_token_merges(field("merges")[:1])
    w.add_bos_token_id(field("bos_token_id"))
    w.add_eos_token_id(field("eos_token_id"))
    if given("unknown_token_id"):
        w.add_unk_token_id(field("unknown_token_id"))
    w.add_pad_token_id(field("padding_token_id"))
    w.add_add_bos_token(False)
    w.add_mask_token_id(mask_token)


def add_tensors(w, c, state, n_vocab, n_target):
    def put(name, weight, kind):
        if kind == "F32":
            return w.add_tensor(name, weight.float().numpy())
        raw, qtype = quantised(weight, kind)
        w.add_tensor(name, raw, raw_dtype=qtype)
    put("fc.weight", state["fc"].float() / state["feature_scale"].float(), c.fc_type)
    put("enc.output_norm.weight", state["enc_norm"], "F32")
    put("output_norm.weight", state["out_norm"], "F32")
    put("output.weight", state["head"][:n_vocab], c.head_type)
    d2t = state["d2t"][:n_vocab].numpy().astype(np.int64)
    if len(d2t) < n_target:
        w.add_tensor("d2t", d2t)
    for i in range(c.n_layer):
        for name, weight in ((k.split(".")[-1], v) for k, v in state.items() if k.startswith(f"layers.{i}.")):
            put(f"blk.{i}.{name}.weight", weight, "F32" if weight.dim() == 1 else c.layer_type)


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--checkpoint", required=True)
    ap.add_argument("--target", required=True)
    ap.add_argument("--gguf-py")
    ap.add_argument("--vocab", type=int)
    ap.add_argument("--name", default="SmolLM2-135M-Instruct", help="the target's")
    ap.add_argument("--organization", default="HuggingFaceTB")
    ap.add_argument("--license", default="apache-2.0")
    ap.add_argument("-o", "--out", required=True)
    args = ap.parse_args()
    reader = read_gguf(args.target, args.gguf_py)
    import gguf
    saved = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    c = Config(**saved["config"])
    w = gguf.GGUFWriter(args.out, "dflash")
    add_metadata(w, c, args, reader.fields["general.architecture"].contents())
    add_vocabulary(w, reader, c.mask_token)
    add_tensors(w, c, saved["state"], args.vocab or c.n_vocab, len(reader.fields["tokenizer.ggml.tokens"].contents()))
    write_gguf(w)


if __name__ == "__main__":
    main()
