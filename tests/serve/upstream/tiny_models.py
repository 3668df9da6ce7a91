"""Small models with random weights in place of those that the tests of llama.cpp's server download.

    python tiny_models.py FOLDER LLAMA_CPP      writes FOLDER/OWNER/NAME/FILE, as `hub.py` serves them

Each has the architecture, the special tokens and the abilities of the model in whose place it is. Words are another matter:
theirs were trained, ours are random, so what a test expects a model to say is left out (`expectations.py`). Counts of tokens
stay: the vocabulary of stories260K is replaced by one that splits the prompts of the tests into as many tokens.
"""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path

import gguf
import numpy as np

# Merges, the first ones first. Found by a search: upstream's prompts have with these the numbers of tokens that upstream's tests
# expect of stories260K (test_upstream.py has them again).
MERGES = (
    "<| m_ <|i |> e▁ at t▁ ▁i ll or s▁ it th ▁a ▁c ni at▁i the▁ li hat▁i on ol hat▁is▁ ▁e qu nc ell ▁H olor dolor di ur ou "
    "m▁ ng d▁ t▁a no ab ci t▁i om ▁f ▁con ve is▁ liqu a▁c rit rom ate wi hi ▁b ev ng▁ AI whi AI▁f ▁wi eli you ow eve▁ ▁beli "
    "▁li e▁you ow▁a ny any ▁the▁ ▁the▁qu ▁the▁qui ck"
).split()
WORDS = "▁day ▁little ▁girl ▁dog ▁said ▁big ▁happy ▁play ▁mom ▁friend ▁park ▁tree ▁ball ▁sun ▁red".split()
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
N_SPECIAL = 3 + 256  # <unk>, <s>, </s> and the bytes
STRUCTURE = "{[<`"  # what JSON, tool calls and code begin with
SMALL_WORDS = set("i the to a an be is was but and so you he she we they it his her".split())  # a test forbids them by other tokens


def story_vocabulary(extra: tuple[str, ...] = ()) -> tuple[list[str], list[float], list[int]]:
    """Tokens, scores and types of a SentencePiece vocabulary: specials, bytes, characters, `MERGES`, `extra` tokens."""
    tokens, types = ["<unk>", "<s>", "</s>"], [UNKNOWN, CONTROL, CONTROL]
    tokens += [f"<0x{b:02X}>" for b in range(256)]
    types += [BYTE] * 256
    letters = ["▁", *(chr(c) for c in range(33, 127))]
    # the pieces of WORDS are never merged to: no pair of them is a token. They are there for the model to write
    pieces = [*letters, *MERGES, *WORDS]
    tokens += pieces
    types += [NORMAL] * len(pieces)
    tokens += extra
    types += [USER_DEFINED if token.startswith(" ") else CONTROL for token in extra]
    scores = [0.0] * N_SPECIAL + [-float(i) for i in range(len(tokens) - N_SPECIAL)]
    return tokens, scores, types


def add_story_vocabulary(w: gguf.GGUFWriter, extra: tuple[str, ...] = ()) -> list[str]:
    tokens, scores, types = story_vocabulary(extra)
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores(scores)
    w.add_token_types(types)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    return tokens


def copy_vocabulary(w: gguf.GGUFWriter, source: Path) -> list[str]:
    """Adds the `tokenizer.*` keys of a vocabulary file of llama.cpp's `models/`; returns its tokens."""
    reader = gguf.GGUFReader(str(source))
    tokens = []
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            w.add_key_value(name, field.contents(), field.types[0], sub_type=sub)
            if name == "tokenizer.ggml.tokens":
                tokens = field.contents()
    return tokens


def finish(w: gguf.GGUFWriter) -> None:
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


class Weights:
    """Adds random tensors to a writer."""

    def __init__(self, w: gguf.GGUFWriter, seed: int, dtype=np.float32) -> None:
        self.w, self.rng, self.dtype = w, np.random.default_rng(seed), dtype

    def matrix(self, name: str, *shape: int, std: float | None = None) -> None:
        std = shape[-1] ** -0.5 if std is None else std
        self.w.add_tensor(name, (self.rng.standard_normal(shape) * std).astype(self.dtype))

    def vector(self, name: str, n: int, mean: float = 1.0, std: float = 0.1) -> None:
        self.w.add_tensor(name, (mean + std * self.rng.standard_normal(n)).astype(np.float32))


def write_story_model(
    path: Path,
    *,
    arch: str = "llama",
    vocabulary: Path | None = None,
    extra: tuple[str, ...] = (),
    n_layer: int = 2,
    n_embd: int = 64,
    n_ff: int = 96,
    n_expert: int = 0,
    n_context: int = 2048,
    sharpness: float = 1.7,
    chat_template: str | None = None,
    dtype=np.float32,
    seed: int = 0,
    tensors_per_file: int = 0,
    keys=lambda w, ids: None,
) -> None:
    """A text model (llama or gemma3) that writes printable pieces without end. Specials, bytes, `SMALL_WORDS` and what begins
    some structure (`STRUCTURE`) it writes only where a grammar leaves nothing else.

    `sharpness` is the standard deviation of its logits; `keys` adds metadata, given the writer and the ids of `extra`.
    """
    n_head, n_head_kv, head_dim = 4, 2, 32
    path.parent.mkdir(parents=True, exist_ok=True)
    w = gguf.GGUFWriter(str(path), arch, split_max_tensors=tensors_per_file)
    w.add_context_length(n_context)
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
    if n_expert:
        w.add_expert_count(n_expert)
        w.add_expert_used_count(2)
    if arch == "gemma3":
        w.add_sliding_window(512)
    if chat_template is not None:
        w.add_chat_template(chat_template)
    tokens = copy_vocabulary(w, vocabulary) if vocabulary else add_story_vocabulary(w, extra)
    n_vocab = len(tokens)
    keys(w, {token: n_vocab - len(extra) + i for i, token in enumerate(extra)})

    t = Weights(w, seed, dtype)
    # One entry of the hidden state is the same for every token and no layer writes to it: through it rows of the output
    # matrix can say that a token is never written.
    embeddings = t.rng.standard_normal((n_vocab, n_embd))
    embeddings[:, 0] = 2.0
    output = t.rng.standard_normal((n_vocab, n_embd)) * sharpness * n_embd**-0.5
    output[:, 0] = 0
    quiet = [
        i
        for i, token in enumerate(tokens)
        if i < N_SPECIAL or i >= n_vocab - len(extra) or any(c in token for c in STRUCTURE) or SMALL_WORDS & set(token.split("▁"))
    ]
    output[quiet] = 0
    output[quiet, 0] = -20.0
    w.add_tensor("token_embd.weight", embeddings.astype(dtype))
    w.add_tensor("output.weight", output.astype(dtype))
    t.vector("output_norm.weight", n_embd)

    def onto_state(name: str, *shape: int, std: float) -> None:
        m = t.rng.standard_normal(shape) * std
        m[..., 0, :] = 0
        w.add_tensor(name, m.astype(dtype))

    for i in range(n_layer):
        b = f"blk.{i}."
        t.vector(b + "attn_norm.weight", n_embd)
        t.vector(b + "ffn_norm.weight", n_embd)
        t.matrix(b + "attn_q.weight", n_head * head_dim, n_embd, std=2 * n_embd**-0.5)
        t.matrix(b + "attn_k.weight", n_head_kv * head_dim, n_embd)
        t.matrix(b + "attn_v.weight", n_head_kv * head_dim, n_embd)
        onto_state(b + "attn_output.weight", n_embd, n_head * head_dim, std=(n_head * head_dim) ** -0.5)
        if arch == "gemma3":
            for name, n in (("attn_q_norm", head_dim), ("attn_k_norm", head_dim)):
                t.vector(b + name + ".weight", n)
            for name in ("post_attention_norm", "post_ffw_norm"):
                t.vector(b + name + ".weight", n_embd)
        if n_expert:
            t.matrix(b + "ffn_gate_inp.weight", n_expert, n_embd)
            t.matrix(b + "ffn_gate_exps.weight", n_expert, n_ff, n_embd, std=n_embd**-0.5)
            t.matrix(b + "ffn_up_exps.weight", n_expert, n_ff, n_embd, std=n_embd**-0.5)
            onto_state(b + "ffn_down_exps.weight", n_expert, n_embd, n_ff, std=n_ff**-0.5)
        else:
            t.matrix(b + "ffn_gate.weight", n_ff, n_embd)
            t.matrix(b + "ffn_up.weight", n_ff, n_embd)
            onto_state(b + "ffn_down.weight", n_embd, n_ff, std=n_ff**-0.5)
    finish(w)


def write_lora(path: Path, *, n_layer: int, n_embd: int, rank: int = 4, seed: int = 1) -> None:
    """An adapter that changes what `write_story_model` writes: queries and attention output of every layer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    w = gguf.GGUFWriter(str(path), "llama")
    w.add_string("general.type", "adapter")
    w.add_string("adapter.type", "lora")
    w.add_float32("adapter.lora.alpha", float(rank))
    t = Weights(w, seed)
    for i in range(n_layer):
        for name, rows, cols in (("attn_q", 128, n_embd), ("attn_output", n_embd, 128)):
            t.matrix(f"blk.{i}.{name}.weight.lora_a", rank, cols)
            t.matrix(f"blk.{i}.{name}.weight.lora_b", rows, rank, std=1.0)
    finish(w)


def write_bert(path: Path, vocabulary: Path, *, rank: bool = False, seed: int = 2) -> None:
    """An embedding model (bert), or with `rank` a reranker (jina-bert-v2) that likes some words and dislikes others."""
    n_embd, n_head, n_ff, n_layer = (64, 8, 64, 1) if rank else (64, 2, 96, 2)
    arch = "jina-bert-v2" if rank else "bert"
    path.parent.mkdir(parents=True, exist_ok=True)
    w = gguf.GGUFWriter(str(path), arch)
    w.add_context_length(8192 if rank else 512)
    w.add_embedding_length(n_embd)
    w.add_block_count(n_layer)
    w.add_feed_forward_length(n_ff)
    w.add_head_count(n_head)
    w.add_layer_norm_eps(1e-12)
    w.add_causal_attention(False)
    w.add_pooling_type(gguf.PoolingType.RANK if rank else gguf.PoolingType.CLS)
    tokens = copy_vocabulary(w, vocabulary)
    n_vocab = len(tokens)
    t = Weights(w, seed)
    embeddings = t.rng.standard_normal((n_vocab, n_embd)) * 0.1
    if rank:
        for words, value in (("field study artificial intelligence statistical algorithms data", 2), ("paris capital la france de et", -2)):
            for word in words.split():
                if "▁" + word in tokens:
                    embeddings[tokens.index("▁" + word), 0] = value
    w.add_tensor("token_embd.weight", embeddings.astype(np.float32))
    w.add_tensor("token_types.weight", np.zeros((2, n_embd), np.float32))
    if not rank:
        t.matrix("position_embd.weight", 512, n_embd, std=0.1)

    def norm(name: str) -> None:
        w.add_tensor(name + ".weight", np.ones(n_embd, np.float32))
        w.add_tensor(name + ".bias", np.zeros(n_embd, np.float32))

    norm("token_embd_norm")
    for i in range(n_layer):
        b = f"blk.{i}."
        for name, rows, cols in (
            ("attn_q", n_embd, n_embd), ("attn_k", n_embd, n_embd), ("attn_v", n_embd, n_embd), ("attn_output", n_embd, n_embd),
            ("ffn_up", n_ff, n_embd), ("ffn_down", n_embd, n_ff),
        ):  # fmt: skip
            if rank and name in ("attn_v", "attn_output"):  # all heads carry the words' values
                m = np.zeros((rows, cols))
                m[:: n_embd // n_head, 0] = 1
                w.add_tensor(b + name + ".weight", (m if name == "attn_v" else m.T * 4).astype(np.float32))
            elif rank:  # attention to all words alike
                w.add_tensor(b + name + ".weight", np.zeros((rows, cols), np.float32))
            else:
                t.matrix(b + name + ".weight", rows, cols)
            w.add_tensor(b + name + ".bias", np.zeros(rows, np.float32))
        if rank:
            w.add_tensor(b + "ffn_gate.weight", np.zeros((n_ff, n_embd), np.float32))
        norm(b + "attn_output_norm")
        norm(b + "layer_output_norm")
    if rank:
        scores = np.zeros((1, n_embd), np.float32)
        scores[0, 0] = 0.2
        w.add_tensor("cls.weight", scores)
        w.add_tensor("cls.bias", np.zeros(1, np.float32))
    finish(w)


def write_mmproj(path: Path, *, n_text: int, seed: int = 3) -> None:
    """A vision encoder of the gemma3 kind: images of 128 x 128 in 8 x 8 patches, 64 tokens an image."""
    n_embd, n_ff, n_layer, size, patch = 64, 96, 1, 128, 8
    path.parent.mkdir(parents=True, exist_ok=True)
    w = gguf.GGUFWriter(str(path), "clip")
    w.add_bool("clip.has_vision_encoder", True)
    w.add_string("clip.projector_type", "gemma3")
    w.add_uint32("clip.vision.projection_dim", n_text)
    w.add_uint32("clip.vision.image_size", size)
    w.add_uint32("clip.vision.patch_size", patch)
    w.add_uint32("clip.vision.embedding_length", n_embd)
    w.add_uint32("clip.vision.feed_forward_length", n_ff)
    w.add_uint32("clip.vision.block_count", n_layer)
    w.add_uint32("clip.vision.attention.head_count", 2)
    w.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    w.add_uint32("clip.vision.projector.scale_factor", 2)
    w.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    w.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    w.add_bool("clip.use_gelu", True)
    t = Weights(w, seed)
    t.matrix("v.patch_embd.weight", n_embd, 3, patch, patch, std=(3 * patch * patch) ** -0.5)
    t.vector("v.patch_embd.bias", n_embd, mean=0)
    t.matrix("v.position_embd.weight", (size // patch) ** 2, n_embd, std=0.5)
    for name in ("ln1", "ln2"):
        t.vector(f"v.blk.0.{name}.weight", n_embd)
        t.vector(f"v.blk.0.{name}.bias", n_embd, mean=0)
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        t.matrix(f"v.blk.0.{name}.weight", n_embd, n_embd)
        t.vector(f"v.blk.0.{name}.bias", n_embd, mean=0)
    for name, rows, cols in (("ffn_up", n_ff, n_embd), ("ffn_down", n_embd, n_ff)):
        t.matrix(f"v.blk.0.{name}.weight", rows, cols)
        t.vector(f"v.blk.0.{name}.bias", rows, mean=0)
    t.vector("v.post_ln.weight", n_embd)
    t.vector("v.post_ln.bias", n_embd, mean=0)
    t.vector("mm.soft_emb_norm.weight", n_embd)
    t.matrix("mm.input_projection.weight", n_embd, n_text)
    finish(w)


def write_png(path: Path, *, seed: int, size: int = 32) -> None:
    """A picture of random colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def fill_in_middle(w: gguf.GGUFWriter, ids: dict[str, int]) -> None:
    for name in ("prefix", "suffix", "middle", "padding", "repo", "separator"):
        key = {"prefix": "fim_pre", "suffix": "fim_suf", "middle": "fim_mid", "padding": "fim_pad", "repo": "fim_rep", "separator": "fim_sep"}
        w.add_uint32(f"tokenizer.ggml.{key[name]}_token_id", ids[f"<{name}>"])


GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endif %}{{ '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)


PRESETS = """\
[tinygemma3-preset]
hf-repo = ggml-org/tinygemma3-GGUF:Q8_0

[stories260K-test]
hf-repo = ggml-org/test-model-stories260K
"""


def write_all(folder: Path, llama_cpp: Path) -> None:
    """Every model that upstream's tests name, in `folder`; `llama_cpp` is a source tree (for its vocabularies)."""
    vocabularies = llama_cpp / "models"
    org = folder / "ggml-org"
    write_story_model(org / "test-model-stories260K/stories260K-f32.gguf")
    write_story_model(org / "models/tinyllamas/stories260K.gguf")
    infill = ("<prefix>", "<suffix>", "<middle>", "<padding>", "<repo>", "<separator>")
    write_story_model(org / "test-model-stories260K-infill/stories260K-infill-f32.gguf", extra=infill, keys=fill_in_middle)
    spm = vocabularies / "ggml-vocab-llama-spm.gguf"
    write_story_model(
        org / "stories15M_MOE/stories15M_MOE-F16.gguf", vocabulary=spm, n_embd=32, n_expert=4, dtype=np.float16, sharpness=6
    )
    write_story_model(org / "models/tinyllamas/split/stories15M-q8_0.gguf", tensors_per_file=7)  # in three files
    write_lora(org / "stories15M_MOE/moe_shakespeare15M.gguf", n_layer=2, n_embd=32)
    write_story_model(org / "tiny-llamas/stories15M-q4_0.gguf", vocabulary=spm, n_embd=32, dtype=np.float16, sharpness=6, seed=4)
    bert = vocabularies / "ggml-vocab-bert-bge.gguf"
    write_bert(org / "models/bert-bge-small/ggml-model-f16.gguf", bert)
    write_bert(org / "models/jina-reranker-v1-tiny-en/ggml-model-f16.gguf", bert, rank=True)
    gemma = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", " hello")  # a word that is one token
    write_story_model(
        org / "tinygemma3-GGUF/tinygemma3-Q8_0.gguf", arch="gemma3", extra=gemma, chat_template=GEMMA_TEMPLATE,
        keys=lambda w, ids: w.add_eot_token_id(ids["<end_of_turn>"]),
    )  # fmt: skip
    write_mmproj(org / "tinygemma3-GGUF/mmproj-model-f16.gguf", n_text=64)
    for seed, name in enumerate(("11_truck", "91_cat")):
        write_png(org / f"tinygemma3-GGUF/test/{name}.png", seed=seed)
    write_story_model(org / "test-model-router-download/tiny-F16.gguf", dtype=np.float16)
    (org / "test-preset-ci").mkdir(parents=True)
    (org / "test-preset-ci/preset.ini").write_text(PRESETS)


if __name__ == "__main__":
    write_all(Path(sys.argv[1]), Path(sys.argv[2]))
