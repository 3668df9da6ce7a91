"""What is inside a target or a drafter, whether the two fit, and the memory that they will need.

All of it comes from the files' metadata: no weights are read. Whether two files fit is the engine's to say, which asks the
target's graph and memory. The sizes of caches are those that llama.cpp and the engine allocate (tests/cli/test_info.py
compares them with llama.cpp's log).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .drafts import CACHE_TYPES, Eagle3Draft, MTPDraft
from .gguf_file import GgufFile

CONTEXT = 8192
DRAFT_CONTEXT = 4096
KV_TYPE = "f16"
KV_TYPES = tuple(name.lower() for name in CACHE_TYPES.values())

_RECURRENT = ("ssm_", "shortconv.", "time_mix_")  # what names of a recurrent layer's tensors begin with
_CELLS = 256  # llama.cpp rounds a context up to a multiple
_NGRAM_BYTES = 170  # of a token: native/engine/ngram/suffix-index.h
_F32 = 4  # bytes; recurrent states are kept in it

_NOT_COUNTED = "llama.cpp's compute buffers, which it sizes when a model is loaded, by n_ubatch and the vocabulary above all"
_NOT_COUNTED_OF_DRAFTERS = "of a drafter on a GPU, the features that wait there (n_batch + 512 positions of every layer it reads)"
_NOT_COUNTED_OF_TIED_HEADS = (
    "on a CPU, a second copy of token embeddings that are the output head too, in the form that products read (none with"
    " GGML_CPU_ROWS=0)"
)
_NOT_COUNTED_OF_HYBRIDS = (
    "of a hybrid, what a verification keeps of its nodes, and checkpoints (host memory, up to checkpoint_bytes)"
)


def _engine() -> Any:
    """The engine's functions, which take llama.cpp's library to load: most of what is asked here is in the files."""
    from . import _engine as engine

    return engine


@dataclass(frozen=True)
class Settings:
    """What memory is asked for: `Llama(n_ctx=, type_k=, type_v=)` and `DFlashDraft(context=)`."""

    n_ctx: int = CONTEXT
    type_k: str = KV_TYPE
    type_v: str = KV_TYPE
    draft_context: int = DRAFT_CONTEXT


class Model:
    """A target's or drafter's GGUF file, and what follows from its metadata.

    Raises:
        ValueError: If the file is missing, damaged, truncated, or holds no language model.
    """

    def __init__(self, path: str) -> None:
        self.file = GgufFile(path)
        for key in ("block_count", "embedding_length"):
            value = self.file.of_arch(key)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{path} has {self.file.arch}.{key} = {value!r}, expected a positive number: it is no language"
                    " model, or damaged"
                )
        self.parts = self.file.parts()
        self.tensors = {tensor.name: tensor for part in self.parts for tensor in part.tensors}

    @property
    def is_drafter(self) -> bool:
        return self.file.arch in ("dflash", "eagle3") or self.is_mtp_alone

    @property
    def kind(self) -> str:
        if not self.is_drafter:
            return "target"
        if self.is_mtp_alone:
            return "MTP layer"
        if self.file.arch == "eagle3":
            return "EAGLE-3 head"
        if "selector_hidden.weight" in self.tensors:
            return "DFlash2 drafter"
        return "DSpark drafter" if "markov_w1.weight" in self.tensors else "DFlash drafter"

    @property
    def n_bytes(self) -> int:
        """Of the weights."""
        return sum(tensor.n_bytes for tensor in self.tensors.values())

    @property
    def n_parameters(self) -> int:
        return sum(_product(tensor.shape) for tensor in self.tensors.values())

    @property
    def quantisation(self) -> str:
        """As the file says, else the type that most of its bytes have."""
        from gguf.constants import LlamaFileType

        try:
            return LlamaFileType(self.file.get("general.file_type")).name.replace("MOSTLY_", "").replace("ALL_", "")
        except ValueError:
            sizes = self.bytes_by_type()
            return max(sizes, key=sizes.__getitem__) if sizes else "?"

    def bytes_by_type(self) -> Dict[str, int]:
        sizes: Dict[str, int] = {}
        for tensor in self.tensors.values():
            sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.n_bytes
        return sizes

    def number(self, key: str, default: int = 0) -> int:
        value = self.file.of_arch(key, default)
        return value if isinstance(value, int) else default

    def of_layer(self, key: str, layer: int, default: int = 0) -> int:
        """A number that a file may give for every layer, or once for all."""
        value = self.file.of_arch(key, default)
        if isinstance(value, list):
            value = value[layer] if layer < len(value) else default
        return value if isinstance(value, int) else default

    # ------------------------------------------------------------ layers

    def is_recurrent(self, layer: int) -> bool:
        return self._has_tensor(layer, _RECURRENT)

    def _has_tensor(self, layer: int, beginnings: Tuple[str, ...]) -> bool:
        return any(name.startswith(beginnings) for name in self._names_by_layer.get(layer, ()))

    @functools.cached_property
    def _names_by_layer(self) -> Dict[int, List[str]]:
        names: Dict[int, List[str]] = {}
        for name in self.tensors:
            block, _, rest = name.partition(".")
            number, _, rest = rest.partition(".")
            if block == "blk" and number.isdigit():
                names.setdefault(int(number), []).append(rest)
        return names

    def has_attention(self, layer: int) -> bool:
        shared = self.number("attention.shared_kv_layers")  # the last layers, which use the cache of others
        has_its_own = not self.is_recurrent(layer) or self._has_tensor(layer, ("attn_output",))  # falcon-h1 has both
        return self.n_heads_kv(layer) > 0 and has_its_own and layer < self.file.n_layers - shared

    def n_heads_kv(self, layer: int) -> int:
        return self.of_layer("attention.head_count_kv", layer, self.of_layer("attention.head_count", layer))

    def has_window(self, layer: int) -> bool:
        pattern = self.file.of_arch("attention.sliding_window_pattern")
        return isinstance(pattern, list) and layer < len(pattern) and bool(pattern[layer])

    def head_sizes(self, layer: int) -> Tuple[int, int]:
        """Of a key and of a value."""
        default = self.number("embedding_length") // max(self.of_layer("attention.head_count", layer, 1), 1)
        sizes = self.number("attention.key_length", default), self.number("attention.value_length", default)
        if self.has_window(layer):
            size_k, size_v = sizes
            sizes = (
                self.number("attention.key_length_swa", size_k),
                self.number("attention.value_length_swa", size_v),
            )
        if self.number("attention.key_length_mla"):  # latent attention keeps one row for both
            return sizes[0], 0
        return sizes

    def layers(self) -> range:
        return range(self.file.n_layers)

    # ------------------------------------------------------------ memory, in bytes

    def kv_bytes(self, layer: int, n_cells: int, type_k: str, type_v: str) -> int:
        n_heads = self.n_heads_kv(layer)
        size_k, size_v = self.head_sizes(layer)
        return n_cells * (_row_bytes(n_heads * size_k, type_k) + _row_bytes(n_heads * size_v, type_v))

    def recurrent_bytes(self) -> int:
        """Of the states of one sequence."""
        per_layer = self._conv_state() + self._recurrent_state()
        return _F32 * per_layer * sum(self.is_recurrent(layer) for layer in self.layers())

    def _conv_state(self) -> int:
        n_embd = self.number("embedding_length")
        if self.number("wkv.head_size"):
            return self.number("token_shift_count", 2) * n_embd
        if self.number("shortconv.l_cache"):
            return n_embd * (self.number("shortconv.l_cache") - 1)
        taps = max(self.number("ssm.conv_kernel") - 1, 0)
        return taps * (
            self.number("ssm.inner_size") + 2 * self.number("ssm.group_count") * self.number("ssm.state_size")
        )

    def _recurrent_state(self) -> int:
        if self.number("wkv.head_size"):
            return self.number("embedding_length") * self.number("wkv.head_size")
        return self.number("ssm.state_size") * self.number("ssm.inner_size")

    def memory(self, settings: Settings) -> List[Tuple[str, int]]:
        """What it takes: (what, bytes), without llama.cpp's compute buffers."""
        return self._drafter_memory(settings) if self.is_drafter else self._target_memory(settings)

    def _target_memory(self, settings: Settings) -> List[Tuple[str, int]]:
        n_cells = _padded(settings.n_ctx)
        cached = sum(
            self.kv_bytes(layer, n_cells, settings.type_k, settings.type_v)
            for layer in self.layers()
            if self.has_attention(layer)
        )
        parts = [
            ("target: weights", self.n_bytes),
            ("target: KV cache", cached),
            ("target: recurrent state", self.recurrent_bytes()),
        ]
        return [(what, size) for what, size in parts if size]

    @property
    def n_mtp_layers(self) -> int:
        return self.number("nextn_predict_layers")

    @property
    def is_mtp_alone(self) -> bool:
        """MTP layers in a file of their own: their target's architecture, without its layers."""
        return self.n_mtp_layers > 0 and 0 not in self._names_by_layer

    def mtp_cache_bytes(self, settings: Settings) -> int:
        """Of an MTP layer with a beam of the default size."""
        n_text = min(settings.draft_context, _padded(settings.n_ctx))
        n_cells = _padded(n_text + 1 + MTPDraft.depth * MTPDraft.width)
        return self.kv_bytes(self.file.n_layers, n_cells, KV_TYPE, KV_TYPE)

    def _drafter_memory(self, settings: Settings) -> List[Tuple[str, int]]:
        if self.is_mtp_alone:
            return [("drafter: weights", self.n_bytes), ("drafter: KV cache", self.mtp_cache_bytes(settings))]
        if self.file.arch == "eagle3":
            return self._head_memory(settings)
        block = self.number("block_size", 16)
        n_cells = _padded(settings.draft_context + block)
        window = self.number("attention.sliding_window")
        n_window = _padded(min(n_cells, window + max(_engine().injected_at_once(), block)))
        ring = sum(
            self.kv_bytes(layer, n_window if window and self.has_window(layer) else n_cells, KV_TYPE, KV_TYPE)
            for layer in self.layers()
        )
        return [("drafter: weights", self.n_bytes), ("drafter: ring", ring)]

    def _head_memory(self, settings: Settings) -> List[Tuple[str, int]]:
        """Of an EAGLE-3 head with a beam of the default size."""
        nodes = Eagle3Draft.depth * Eagle3Draft.width
        n_cells = _padded(settings.draft_context + 1 + nodes)
        cached = sum(self.kv_bytes(layer, n_cells, KV_TYPE, KV_TYPE) for layer in self.layers())
        states = settings.draft_context * self.number("embedding_length") * _F32
        return [("drafter: weights", self.n_bytes), ("drafter: KV cache", cached), ("drafter: states (host)", states)]

    # ------------------------------------------------------------ for people and machines

    def as_dict(self, settings: Settings) -> Dict[str, Any]:
        file = self.file
        facts: Dict[str, Any] = {
            "path": str(file.path),
            "kind": self.kind,
            "architecture": file.arch,
            "name": file.get("general.name"),
            "quantisation": self.quantisation,
            "parameters": self.n_parameters,
            "bytes": self.n_bytes,
            "bytes_by_type": self.bytes_by_type(),
            "layers": self.n_mtp_layers if self.is_mtp_alone else file.n_layers,
            "recurrent_layers": sum(self.is_recurrent(layer) for layer in self.layers()),
            "hidden_size": self.number("embedding_length"),
            "heads": self.of_layer("attention.head_count", 0),
            "kv_heads": max((self.n_heads_kv(layer) for layer in self.layers()), default=0),
            "head_size": self.head_sizes(0)[0],
            "vocabulary": file.n_vocab,
            "trained_context": file.of_arch("context_length"),
            "memory": [{"what": what, "bytes": size} for what, size in self.memory(settings)],
        }
        if self.is_drafter:
            if file.arch == "dflash":
                facts["block_size"] = file.of_arch("block_size")
                facts["mask_token"] = file.get("tokenizer.ggml.mask_token_id")
            if not self.is_mtp_alone:
                facts["target_layers"] = file.of_arch("target_layers", [])
            facts["doubts"] = doubts(self)
        return facts


def problems(target: Model, drafter: Optional[Model] = None) -> List[str]:
    """Why a drafter, or one without a file, can't draft for a target: sentences, none if the two fit. They are the engine's own."""
    return _engine().misfits(target.file.path, drafter.file.path if drafter else "")


def _mtp_problems(target: Model) -> List[str]:
    if target.n_mtp_layers == 1:
        return []
    return [
        f"it has {target.n_mtp_layers} MTP layers ({target.file.arch}.nextn_predict_layers), expected 1: use a file that was converted with"
        " its layer, or another drafter"
    ]


def doubts(drafter: Model) -> List[str]:
    """What makes a converted drafter draft something else than its authors' class, as far as the file shows it: sentences,
    none if all is well. Converters other than `llama-dflash convert` write such files (docs/drafters.md)."""
    if drafter.file.arch != "dflash":
        return []
    found = []
    kind, again = drafter.kind, "convert the published checkpoint with `llama-dflash convert`"
    key = "attention.sliding_window_causal"
    if any(drafter.has_window(layer) for layer in drafter.layers()) and drafter.file.of_arch(key) is None:
        found.append(
            f"it does not say whether its sliding layers are causal (dflash.{key}); they are taken to be, as in z-lab's"
            f" drafters. If it is of another publisher, {again}"
        )
    n_rotated = drafter.number("rope.dimension_count")
    if n_rotated and n_rotated < drafter.head_sizes(0)[0]:
        found.append(
            f"it rotates {n_rotated} of {drafter.head_sizes(0)[0]} dimensions of a head (dflash.rope.dimension_count), where"
            f" the classes of all published drafters rotate them all: {again}"
        )
    if drafter.file.of_arch("rope.scaling.type") == "yarn":
        found.append(
            "its yarn scaling is left to llama.cpp (dflash.rope.scaling.type), which takes attention factors twice and"
            f" knows no truncate: {again}"
        )
    scaled = [key for key in ("logit_scale", "final_logit_softcapping") if drafter.file.of_arch(key)]
    if kind == "DSpark drafter" and scaled and drafter.file.of_arch("attention.scale") is None:
        found.append(
            f"it has dflash.{scaled[0]}, left from the target's config, which the classes of DSpark drafters do not apply:"
            f" {again}"
        )
    return found


def report(models: Sequence[Model], settings: Settings, words: Sequence[str] = ()) -> Dict[str, Any]:
    """What `llama-dflash info --json` prints: the files, which drafter fits which target, the sum of their memory.

    Args:
        models: Targets and drafters.
        settings: What memory is asked for.
        words: Drafters without a file: "mtp", "ngram".
    """
    files = [model.as_dict(settings) for model in models]
    fits = []
    for drafter in (m for m in models if m.is_drafter):
        for target in (m for m in models if not m.is_drafter):
            found = problems(target, drafter)
            fits.append(
                {
                    "target": str(target.file.path),
                    "drafter": str(drafter.file.path),
                    "fits": not found,
                    "problems": found,
                }
            )
    for word in words:
        for target in (m for m in models if not m.is_drafter):
            found = [*problems(target), *(_mtp_problems(target) if word == "mtp" else [])]
            fits.append({"target": str(target.file.path), "drafter": word, "fits": not found, "problems": found})
            if word == "ngram":
                part = {"what": "n-gram index", "bytes": _NGRAM_BYTES * settings.n_ctx}
            else:
                part = {"what": "MTP layer: KV cache", "bytes": target.mtp_cache_bytes(settings) if not found else 0}
            files[models.index(target)]["memory"].append(part)
    total = sum(part["bytes"] for file in files for part in file["memory"])
    asked = {
        "context": settings.n_ctx,
        "type_k": settings.type_k,
        "type_v": settings.type_v,
        "draft_context": settings.draft_context,
    }
    uncounted = [_NOT_COUNTED]
    if any("output.weight" not in model.tensors for model in models if not model.is_drafter):
        uncounted.append(_NOT_COUNTED_OF_TIED_HEADS)
    if any(model.is_drafter for model in models):
        uncounted.append(_NOT_COUNTED_OF_DRAFTERS)
    if any(model.recurrent_bytes() for model in models):
        uncounted.append(_NOT_COUNTED_OF_HYBRIDS)
    return {"files": files, "fits": fits, "settings": asked, "memory_bytes": total, "memory_not_counted": uncounted}


def text(facts: Dict[str, Any]) -> str:
    """A report for people."""
    lines = []
    for file in facts["files"]:
        lines += [file["path"], *(f"  {line}" for line in _file_lines(file)), ""]
    for fit in facts["fits"]:
        if fit["fits"]:
            lines.append(f"{fit['drafter']} fits {fit['target']}.")
        else:
            lines += [
                f"{fit['drafter']} does not fit {fit['target']}:",
                *(f"  - {problem}" for problem in fit["problems"]),
            ]
    asked = facts["settings"]
    lines += [
        *([""] if facts["fits"] else []),
        (
            f"Memory for a context of {asked['context']} tokens (K {asked['type_k']}, V {asked['type_v']}"
            f"; the drafter remembers {asked['draft_context']}):"
        ),
    ]
    parts = [(part["what"], part["bytes"]) for file in facts["files"] for part in file["memory"]]
    if len(parts) > 1:
        parts.append(("sum", facts["memory_bytes"]))
    lines += [f"  {what:<24}{size_text(size):>12}" for what, size in parts]
    lines += [f"Not counted: {what}." for what in facts["memory_not_counted"]]
    return "\n".join(lines)


def _file_lines(file: Dict[str, Any]) -> List[str]:
    name = f' "{file["name"]}"' if file["name"] else ""
    layers = f"{file['layers']} layers"
    if file["recurrent_layers"]:
        layers += f" ({file['recurrent_layers']} of them recurrent)"
    lines = [
        f"{file['kind']}, architecture {file['architecture']}{name}",
        f"{_count(file['parameters'])} parameters, {file['quantisation']}, {size_text(file['bytes'])}",
        (
            f"{layers}, hidden size {file['hidden_size']}, {file['heads']} heads ({file['kv_heads']} for keys and"
            f" values) of {file['head_size']}"
        ),
        f"vocabulary of {file['vocabulary']} tokens, trained for {file['trained_context']} positions",
    ]
    if "target_layers" in file:
        block = f"drafts blocks of {file['block_size']}, mask token {file['mask_token']}, " if "block_size" in file else ""
        read = ", ".join(str(layer) for layer in file["target_layers"])
        lines.append(f"{block}reads the inputs of target layers {read}")
    return lines + [f"doubtful: {doubt}" for doubt in file.get("doubts", [])]


def size_text(n_bytes: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if n_bytes >= size:
            return f"{n_bytes / size:.2f} {unit}"
    return f"{n_bytes / 1024:.1f} KiB"


def _count(n: int) -> str:
    for unit, size in (("billion", 10**9), ("million", 10**6)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return str(n)


def _padded(n_cells: int) -> int:
    return -(-n_cells // _CELLS) * _CELLS


def _row_bytes(n_items: int, kind: str) -> int:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]]
    return n_items // block * size


def _product(shape: Tuple[int, ...]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n
