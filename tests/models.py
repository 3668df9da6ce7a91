"""Writes small GGUF models with random weights, for tests that need a model but no text."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

N_VOCAB = 320  # 256 bytes, some merges, and the special tokens at the end
BOS, EOS, PAD, MASK = N_VOCAB - 1, N_VOCAB - 2, N_VOCAB - 3, N_VOCAB - 4
MARKER = N_VOCAB - 5


def _byte_symbols() -> list[str]:
    """The printable character that GPT-2's byte-level BPE writes for every byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = {b: chr(b) for b in printable}
    for n, b in enumerate(b for b in range(256) if b not in symbols):
        symbols[b] = chr(256 + n)
    return [symbols[b] for b in range(256)]


def add_vocab(writer: gguf.GGUFWriter, n_vocab: int = N_VOCAB, marker: str | None = None) -> None:
    """A byte-level BPE vocabulary: bytes, two-letter merges, four special tokens. `marker`: a text that is one token, MARKER."""
    tokens = _byte_symbols()
    letters = "etaoinsrhld"
    pairs = [a + b for a in letters for b in letters][: n_vocab - 260]
    if marker is not None:
        pairs.pop()
    tokens += pairs + ([] if marker is None else [marker]) + ["<mask>", "<pad>", "</s>", "<s>"]
    types = [gguf.TokenType.NORMAL] * (n_vocab - 4) + [gguf.TokenType.CONTROL] * 4
    if marker is not None:
        types[-5] = gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{p[0]} {p[1]}" for p in pairs])
    writer.add_bos_token_id(n_vocab - 1)
    writer.add_eos_token_id(n_vocab - 2)
    writer.add_pad_token_id(n_vocab - 3)
    writer.add_add_bos_token(False)


def write_file(w: gguf.GGUFWriter, path: Path) -> Path:
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def write_target(
    path: Path,
    arch: str = "llama",
    *,
    n_layer: int = 3,
    n_embd: int = 64,
    n_head: int = 4,
    n_head_kv: int = 2,
    head_dim: int = 32,
    n_ff: int = 128,
    window: int = 12,
    seed: int = 0,
    chat_template: str | None = None,
    marker: str | None = None,
) -> Path:
    """A random-weight target of architecture llama, qwen3 or gemma3 (every second layer has a sliding window)."""
    rng = np.random.default_rng(seed)
    w = gguf.GGUFWriter(str(path), arch)
    if chat_template is not None:
        w.add_chat_template(chat_template)
    w.add_context_length(4096)
    w.add_embedding_length(n_embd)
    w.add_block_count(n_layer)
    w.add_feed_forward_length(n_ff)
    w.add_head_count(n_head)
    w.add_head_count_kv(n_head_kv)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(N_VOCAB)
    if arch == "gemma3":
        w.add_sliding_window(window)
        w.add_sliding_window_pattern(2)
    add_vocab(w, marker=marker)

    def matrix(name: str, rows: int, cols: int, std: float | None = None) -> None:
        std = cols**-0.5 if std is None else std
        w.add_tensor(name, (rng.standard_normal((rows, cols)) * std).astype(np.float32))

    def norm(name: str, n: int) -> None:
        w.add_tensor(name, (1 + 0.1 * rng.standard_normal(n)).astype(np.float32))

    matrix("token_embd.weight", N_VOCAB, n_embd, 1.0)
    matrix("output.weight", N_VOCAB, n_embd, 3 * n_embd**-0.5)
    norm("output_norm.weight", n_embd)
    for i in range(n_layer):
        b = f"blk.{i}."
        norm(b + "attn_norm.weight", n_embd)
        norm(b + "ffn_norm.weight", n_embd)
        matrix(b + "attn_q.weight", n_head * head_dim, n_embd, 2 * n_embd**-0.5)
        matrix(b + "attn_k.weight", n_head_kv * head_dim, n_embd)
        matrix(b + "attn_v.weight", n_head_kv * head_dim, n_embd)
        matrix(b + "attn_output.weight", n_embd, n_head * head_dim)
        matrix(b + "ffn_gate.weight", n_ff, n_embd)
        matrix(b + "ffn_up.weight", n_ff, n_embd)
        matrix(b + "ffn_down.weight", n_embd, n_ff)
        if arch in ("qwen3", "gemma3"):
            norm(b + "attn_q_norm.weight", head_dim)
            norm(b + "attn_k_norm.weight", head_dim)
        if arch == "gemma3":
            norm(b + "post_attention_norm.weight", n_embd)
            norm(b + "post_ffw_norm.weight", n_embd)
    return write_file(w, path)


HYBRIDS = ("qwen35", "qwen35moe", "qwen3next")
# head sizes for which GPU backends have kernels: with others, those of the CPU would be tested once more
GPU_SIZES = {"qwen35": dict(head_dim=128, state_size=128), **{arch: dict(head_dim=64, state_size=64) for arch in HYBRIDS[1:]}}


def write_hybrid(
    path: Path,
    arch: str = "qwen35",
    *,
    n_layer: int = 8,
    n_embd: int = 64,
    n_head: int = 4,
    n_head_kv: int = 2,
    head_dim: int = 32,
    n_ff: int = 128,
    state_size: int = 32,
    n_key_heads: int = 2,
    n_value_heads: int = 4,
    n_expert: int = 4,
    n_context: int = 8192,
    seed: int = 0,
) -> Path:
    """A random-weight hybrid of architecture qwen35, qwen35moe or qwen3next: every fourth layer has full attention,
    the others are Gated DeltaNet of which some heads forget within ten tokens and some within a few hundred."""
    rng = np.random.default_rng(seed)
    w = gguf.GGUFWriter(str(path), arch)
    w.add_context_length(n_context)
    w.add_embedding_length(n_embd)
    w.add_block_count(n_layer)
    w.add_feed_forward_length(n_ff)
    w.add_head_count(n_head)
    w.add_head_count_kv(n_head_kv)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(head_dim // 2)
    if arch != "qwen3next":  # M-RoPE
        third = head_dim // 12
        w.add_rope_dimension_sections([head_dim // 4 - 2 * third, third, third, 0])
    w.add_layer_norm_rms_eps(1e-6)
    w.add_ssm_conv_kernel(4)
    w.add_ssm_inner_size(state_size * n_value_heads)
    w.add_ssm_state_size(state_size)
    w.add_ssm_time_step_rank(n_value_heads)
    w.add_ssm_group_count(n_key_heads)
    w.add_full_attention_interval(4)
    w.add_vocab_size(N_VOCAB)
    if arch != "qwen35":
        w.add_expert_count(n_expert)
        w.add_expert_used_count(2)
        w.add_expert_feed_forward_length(n_ff // 2)
        w.add_expert_shared_feed_forward_length(n_ff // 2)
    add_vocab(w)

    def tensor(name: str, shape: tuple[int, ...], std: float) -> None:
        w.add_tensor(name, (rng.standard_normal(shape) * std).astype(np.float32))

    def matrix(name: str, rows: int, cols: int, gain: float = 1.0) -> None:
        tensor(name, (rows, cols), gain * cols**-0.5)

    def norm(name: str, n: int) -> None:
        w.add_tensor(name, (1 + 0.1 * rng.standard_normal(n)).astype(np.float32))

    n_key, n_value = state_size * n_key_heads, state_size * n_value_heads
    tensor("token_embd.weight", (N_VOCAB, n_embd), 1.0)
    matrix("output.weight", N_VOCAB, n_embd, 3.0)
    norm("output_norm.weight", n_embd)
    for i in range(n_layer):
        b = f"blk.{i}."
        norm(b + "attn_norm.weight", n_embd)
        norm(b + "post_attention_norm.weight", n_embd)
        if (i + 1) % 4 == 0:
            matrix(b + "attn_q.weight", 2 * n_head * head_dim, n_embd, 2.0)  # queries and the output's gates
            matrix(b + "attn_k.weight", n_head_kv * head_dim, n_embd)
            matrix(b + "attn_v.weight", n_head_kv * head_dim, n_embd)
            matrix(b + "attn_output.weight", n_embd, n_head * head_dim)
            norm(b + "attn_q_norm.weight", head_dim)
            norm(b + "attn_k_norm.weight", head_dim)
        else:
            matrix(b + "attn_qkv.weight", 2 * n_key + n_value, n_embd)
            matrix(b + "attn_gate.weight", n_value, n_embd)
            tensor(b + "ssm_conv1d.weight", (2 * n_key + n_value, 4), 0.5)
            tensor(b + "ssm_dt.bias", (n_value_heads,), 0.5)
            w.add_tensor(b + "ssm_a", -np.geomspace(0.004, 0.2, n_value_heads).astype(np.float32))
            if arch == "qwen3next":
                matrix(b + "ssm_ba.weight", 2 * n_value_heads, n_embd)
            else:
                matrix(b + "ssm_beta.weight", n_value_heads, n_embd)
                matrix(b + "ssm_alpha.weight", n_value_heads, n_embd)
            norm(b + "ssm_norm.weight", state_size)
            matrix(b + "ssm_out.weight", n_embd, n_value)
        if arch == "qwen35":
            matrix(b + "ffn_gate.weight", n_ff, n_embd)
            matrix(b + "ffn_up.weight", n_ff, n_embd)
            matrix(b + "ffn_down.weight", n_embd, n_ff)
        else:
            matrix(b + "ffn_gate_inp.weight", n_expert, n_embd)
            tensor(b + "ffn_gate_inp_shexp.weight", (n_embd,), n_embd**-0.5)
            for name, rows, cols in (("gate", n_ff // 2, n_embd), ("up", n_ff // 2, n_embd), ("down", n_embd, n_ff // 2)):
                tensor(b + f"ffn_{name}_exps.weight", (n_expert, rows, cols), cols**-0.5)
                matrix(b + f"ffn_{name}_shexp.weight", rows, cols)
    return write_file(w, path)


def write_recurrent(path: Path, *, n_layer: int = 3, n_embd: int = 64, n_state: int = 16, seed: int = 0) -> Path:
    """A random-weight Mamba model: no attention at all."""
    rng = np.random.default_rng(seed)
    n_inner, n_dt = 2 * n_embd, n_embd // 16
    w = gguf.GGUFWriter(str(path), "mamba")
    w.add_context_length(8192)
    w.add_embedding_length(n_embd)
    w.add_block_count(n_layer)
    w.add_feed_forward_length(0)
    w.add_head_count(0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_ssm_conv_kernel(4)
    w.add_ssm_inner_size(n_inner)
    w.add_ssm_state_size(n_state)
    w.add_ssm_time_step_rank(n_dt)
    w.add_vocab_size(N_VOCAB)
    add_vocab(w)

    def tensor(name: str, shape: tuple[int, ...], std: float = 1.0) -> None:
        w.add_tensor(name, (rng.standard_normal(shape) * std).astype(np.float32))

    tensor("token_embd.weight", (N_VOCAB, n_embd))
    tensor("output.weight", (N_VOCAB, n_embd), 3 * n_embd**-0.5)
    w.add_tensor("output_norm.weight", np.ones(n_embd, dtype=np.float32))
    for i in range(n_layer):
        b = f"blk.{i}."
        w.add_tensor(b + "attn_norm.weight", np.ones(n_embd, dtype=np.float32))
        tensor(b + "ssm_in.weight", (2 * n_inner, n_embd), n_embd**-0.5)
        tensor(b + "ssm_conv1d.weight", (n_inner, 4), 0.5)
        tensor(b + "ssm_conv1d.bias", (n_inner,), 0.1)
        tensor(b + "ssm_x.weight", (n_dt + 2 * n_state, n_inner), n_inner**-0.5)
        tensor(b + "ssm_dt.weight", (n_inner, n_dt), n_dt**-0.5)
        tensor(b + "ssm_dt.bias", (n_inner,), 0.5)
        w.add_tensor(b + "ssm_a", -np.geomspace(0.005, 0.5, n_inner * n_state, dtype=np.float32).reshape(n_inner, n_state))
        tensor(b + "ssm_d", (n_inner,))
        tensor(b + "ssm_out.weight", (n_embd, n_inner), n_inner**-0.5)
    return write_file(w, path)
