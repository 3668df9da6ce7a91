"""Compare training/qwen35.py with transformers' Qwen3.5 on the weights of a GGUF: the largest difference of two logits.

usage (from training/): python -m tiny_qwen35.check_target --target tiny-qwen35.gguf [--gguf-py DIR]
Needs transformers with Qwen3_5ForCausalLM. Its weights differ in three ways: norms hold their factor minus one, A_log
instead of -exp(A_log), and value heads lie grouped by key head.
"""
import argparse

import torch

from qwen35 import Qwen35Target
from target import causal
from tiny_qwen35.export_target import sections

PLAIN = {"ffn_gate": "mlp.gate_proj.weight", "ffn_up": "mlp.up_proj.weight", "ffn_down": "mlp.down_proj.weight", "attn_q": "self_attn.q_proj.weight",
         "attn_k": "self_attn.k_proj.weight", "attn_v": "self_attn.v_proj.weight", "attn_output": "self_attn.o_proj.weight"}
NORMS = {"attn_norm": "input_layernorm.weight", "post_attention_norm": "post_attention_layernorm.weight",
         "attn_q_norm": "self_attn.q_norm.weight", "attn_k_norm": "self_attn.k_norm.weight"}


def grouped(w, c, size, dim=0):
    """value heads of `size` entries along dim, from GGUF's order (head h with key head h % k_heads) to grouped by key head"""
    x = w.movedim(dim, 0)
    return x.unflatten(0, (c.v_heads // c.k_heads, c.k_heads, size)).transpose(0, 1).flatten(0, 2).movedim(0, dim)


def delta_state(w, c):
    """{name in transformers: tensor} of a Gated DeltaNet layer"""
    keys = 2 * c.k_heads * c.state
    values = lambda t: torch.cat([t[:keys], grouped(t[keys:], c, c.state)])
    return {"in_proj_qkv.weight": values(w["attn_qkv"]), "conv1d.weight": values(w["ssm_conv1d"])[:, None], "norm.weight": w["ssm_norm"],
            "in_proj_z.weight": grouped(w["attn_gate"], c, c.state), "out_proj.weight": grouped(w["ssm_out"], c, c.state, 1),
            "in_proj_b.weight": grouped(w["ssm_beta"], c, 1), "in_proj_a.weight": grouped(w["ssm_alpha"], c, 1),
            "A_log": grouped((-w["ssm_a"]).log(), c, 1), "dt_bias": grouped(w["ssm_dt"], c, 1)}


def transformers_model(target):
    from transformers.models.qwen3_5 import Qwen3_5ForCausalLM, Qwen3_5TextConfig
    c = target.shape
    config = Qwen3_5TextConfig(
        vocab_size=c.n_vocab, hidden_size=c.n_embd, intermediate_size=c.ffn, num_hidden_layers=c.n_layer, num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads, head_dim=c.head_dim, rms_norm_eps=c.eps, tie_word_embeddings=True, linear_conv_kernel_dim=c.conv,
        linear_key_head_dim=c.state, linear_value_head_dim=c.state, linear_num_key_heads=c.k_heads, linear_num_value_heads=c.v_heads,
        layer_types=["full_attention" if c.is_attention(i) else "linear_attention" for i in range(c.n_layer)], pad_token_id=0, bos_token_id=0, eos_token_id=2,
        rope_parameters=dict(rope_type="default", rope_theta=c.rope_base, partial_rotary_factor=c.n_rot / c.head_dim,
                             mrope_section=sections(c.n_rot // 2)[:3], mrope_interleaved=True))
    state = {"model.embed_tokens.weight": target.embd, "lm_head.weight": target.embd, "model.norm.weight": target.norm - 1}
    for i, w in enumerate(target.layers):
        layer = {PLAIN[k]: v for k, v in w.items() if k in PLAIN} | {NORMS[k]: v - 1 for k, v in w.items() if k in NORMS}
        if not c.is_attention(i):
            layer |= {"linear_attn." + k: v for k, v in delta_state(w, c).items()}
        state |= {f"model.layers.{i}.{k}": v for k, v in layer.items()}
    model = Qwen3_5ForCausalLM(config).eval()
    model.load_state_dict(state)
    return model


@torch.no_grad()
def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--target", required=True)
    ap.add_argument("--gguf-py")
    args = ap.parse_args()
    target = Qwen35Target(args.target, gguf_py=args.gguf_py)
    ids = torch.randint(8, target.n_vocab, (1, 150), generator=torch.Generator().manual_seed(0))
    hidden, _ = target.forward(ids, torch.arange(ids.shape[1])[None], lambda i: causal)
    ours, theirs = target.logits(hidden), transformers_model(target)(input_ids=ids).logits
    print(f"largest difference {float((ours - theirs).abs().max()):.1e}, standard deviation of the logits {float(ours.std()):.2f}")


if __name__ == "__main__":
    main()
