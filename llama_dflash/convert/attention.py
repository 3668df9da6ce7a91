"""Who sees whom in a drafter: windows and causality, layer by layer, as the reference classes decide it.

- dflash (z-lab) and specforge: sliding layers are causal and full-attention layers see the whole block; `is_causal`, where
  the config has it, holds for all layers. A window is counted from each position.
- NVIDIA's checkpoints say it in dflash_config ("causal", "use_swa", "swa_window_size") and "dflash_query_causal".
- DeepSpec: every layer sees the whole context and the whole block, whatever "layer_types" says.
- speculators: full-attention layers see the whole block, sliding ones too if `sliding_window_non_causal`. The window is
  counted from the block's first position, for all of the block.

llama.cpp's own converter and graph have one flag for the whole drafter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, List, Optional, Tuple

if TYPE_CHECKING:
    from .config import DrafterConfig

FULL, SLIDING = "full_attention", "sliding_attention"
QWEN3_WINDOW = 4096  # Qwen3Config's default
LONGEST = 1 << 20  # the window of a sliding layer without one, where the config does not say how long texts are


@dataclass(frozen=True)
class Attention:
    """What the keys under "attention." say.

    causal: Whether no position sees later ones in any layer; None where the config has nothing for all layers.
    window: Positions that a sliding layer sees, the own one included (`from_anchor`: before the block); None if no layer
        slides.
    """

    causal: Optional[bool]
    window: Optional[int] = None
    is_sliding: Tuple[bool, ...] = ()
    sliding_causal: bool = False
    from_anchor: bool = False
    both_ways: bool = False  # the window hides later positions of the block, too


def attention(config: DrafterConfig) -> Attention:
    """Reads what a config says.

    Raises:
        ValueError: If settings contradict each other or can't be expressed.
    """
    causal = None if config.schema == "speculators" else _causal(config)
    types, window = layer_types(config), _window(config)
    if SLIDING not in types or (window is None and config.schema == "speculators"):
        return Attention(causal)
    if config.schema == "speculators":
        sliding_causal = not config.values.get("sliding_window_non_causal", config.kind == "DFlash2")
    else:
        sliding_causal = True if causal is None else causal
    window = window or config.max_positions or LONGEST  # causal layers all the same
    is_sliding = tuple(kind == SLIDING for kind in types)
    if config.schema == "speculators":
        return Attention(causal, window, is_sliding, sliding_causal, from_anchor=True)
    both_ways = not sliding_causal and window < config.block_size
    return Attention(causal, window, is_sliding, sliding_causal, both_ways=both_ways)


def layer_types(config: DrafterConfig) -> List[str]:
    """Of every layer: FULL or SLIDING."""
    if config.dflash.get("use_swa"):
        return [SLIDING] * config.n_layers
    types = config.values.get("layer_types")
    if config.schema == "flat":
        return [FULL] * config.n_layers
    if types is None:
        return _qwen3_types(config)
    if not isinstance(types, list) or len(types) < config.n_layers:
        raise ValueError(f"config.json has layer_types = {types!r}, expected one for each of {config.n_layers} layers")
    types = types[: config.n_layers]
    if unknown := [kind for kind in types if kind not in (FULL, SLIDING)]:
        raise ValueError(f"config.json has a layer of type {unknown[0]!r}, expected {FULL} or {SLIDING}")
    return types


def _qwen3_types(config: DrafterConfig) -> List[str]:
    """As Qwen3Config makes them: the layers from max_window_layers on slide, if any do."""
    first = config.values.get("max_window_layers", 28)
    if not config.values.get("use_sliding_window") or config.values.get("sliding_window") is None:
        return [FULL] * config.n_layers
    if isinstance(first, bool) or not isinstance(first, int):
        raise ValueError(f"config.json has max_window_layers = {first!r}, expected a number of layers")
    return [SLIDING if i >= first else FULL for i in range(config.n_layers)]


def _window(config: DrafterConfig) -> Optional[int]:
    """The window, or None. Only an outspoken `use_sliding_window: false` takes it away from sliding layers: Qwen3Config
    drops it too where the key is absent, but no such class wrote a config without it, and dflash's other implementation
    (model_mlx.py) has no such key."""
    window = config.dflash.get("swa_window_size") or config.values.get("sliding_window")
    if not config.dflash.get("use_swa") and config.values.get("use_sliding_window") is False:
        return None
    if window is None and config.values.get("use_sliding_window"):
        window = QWEN3_WINDOW
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or not 0 < window < 2**30):
        raise ValueError(f"config.json has a sliding window of {window!r}, expected a number of positions")
    return window


def _causal(config: DrafterConfig) -> Optional[bool]:
    said = {
        "is_causal": config.values.get("is_causal"),
        "dflash_config.causal": config.dflash.get("causal"),
        "dflash_query_causal": config.values.get("dflash_query_causal"),
    }
    said = {name: value for name, value in said.items() if value is not None}
    if wrong := [name for name, value in said.items() if not isinstance(value, bool)]:
        raise ValueError(f"config.json has {wrong[0]} = {said[wrong[0]]!r}, expected true or false")
    if len(set(said.values())) > 1:
        raise ValueError(f"config.json contradicts itself: {', '.join(f'{k} = {v}' for k, v in said.items())}")
    return next(iter(said.values()), None)
