"""Rotary embeddings of a drafter: from the config's settings to the frequencies that transformers' classes compute, and
from those to what a GGUF file can say.

Every kind of scaling that does not change with the length of the text comes down to one frequency per pair of dimensions
and one factor for all cosines and sines. ggml takes both: divisors of the plain frequencies (the tensor rope_freqs) and
rope.scaling.attn_factor. So the formulas stand here, once, and the file holds their result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, Optional

import numpy as np
import numpy.typing as npt

DEFAULT_THETA = 10000.0  # transformers' RotaryEmbeddingConfigMixin.default_theta
NOT_ROTATED = 1e30  # divides a frequency until nothing is left of it


@dataclass(frozen=True)
class Rotary:
    """What a layer's rotary embedding computes.

    theta: The base of the plain frequencies, theta ** (-2 i / head_dim).
    divisors: What they are divided by, [head_dim / 2] float32, or None where they stay as they are.
    attention_factor: What cosines and sines are multiplied by.
    """

    theta: float
    divisors: Optional[npt.NDArray[np.float32]]
    attention_factor: float


def rotary(rope: Dict[str, Any], head_dim: int, max_positions: Optional[int]) -> Rotary:
    """Reads rotary settings ("rope_parameters" of one layer type, as transformers standardizes them).

    Args:
        head_dim: All dimensions of a head are rotated, except with rope_type "proportional".
        max_positions: The config's max_position_embeddings.

    Raises:
        ValueError: If a setting is missing or has a wrong value, or the kind can't be expressed.
    """
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = _number(rope, "rope_theta", DEFAULT_THETA, least=1e-3)
    if kind not in _KINDS:
        raise ValueError(
            f"config.json has rope_type = {kind!r}, expected one of {', '.join(_KINDS)}: the frequencies of others"
            " change with the length of the text, which a GGUF file can't say"
        )
    if kind not in ("default", "proportional") and rope.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise ValueError(
            f"config.json has partial_rotary_factor = {rope['partial_rotary_factor']!r} with rope_type = {kind!r}, which"
            " the reference class can't compute: drafters rotate whole heads"
        )
    plain = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    frequencies, factor = _KINDS[kind](_Settings(rope, theta, head_dim, max_positions), plain)
    with np.errstate(divide="ignore"):
        divisors = np.minimum(plain / frequencies, NOT_ROTATED).astype(np.float32)
    return Rotary(theta, None if (divisors == 1).all() else divisors, float(factor))


@dataclass(frozen=True)
class _Settings:
    values: Dict[str, Any]
    theta: float
    head_dim: int
    max_positions: Optional[int]

    def number(self, name: str, otherwise: Optional[float] = None, least: float = 0.0) -> float:
        return _number(self.values, name, otherwise, least)

    def original_positions(self) -> float:
        """Positions before the scaling: transformers takes max_position_embeddings where they are not given."""
        return self.number("original_max_position_embeddings", self.max_positions, least=1)


def _number(values: Dict[str, Any], name: str, otherwise: Optional[float] = None, least: float = 0.0) -> float:
    value = values.get(name)
    value = otherwise if value is None else value
    if value is None:
        raise ValueError(
            f"config.json scales positions by {values.get('rope_type', values.get('type'))} without {name}: fetch the"
            " original config"
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < 1e18:
        raise ValueError(f"config.json has {name} = {value!r}, expected a number of at least {least:g}")
    return float(value)


# Each takes the plain frequencies [head_dim / 2] and returns the scaled ones and the attention factor, as the function of
# that name in transformers 5's modeling_rope_utils.py.


def _default(settings: _Settings, plain: npt.NDArray[Any]) -> Any:
    return plain, 1.0


def _linear(settings: _Settings, plain: npt.NDArray[Any]) -> Any:
    return plain / settings.number("factor", least=1e-6), 1.0


def _proportional(settings: _Settings, plain: npt.NDArray[Any]) -> Any:
    """Gemma 4: the first part of the frequencies rotates, the rest does not. As upstream's converter, no odd parts."""
    part = settings.number("partial_rotary_factor", 1.0)
    n_rotated = int(settings.head_dim * part / 2)
    if not 0 < n_rotated <= plain.size or settings.head_dim * part != 2 * n_rotated:
        raise ValueError(
            f"config.json has partial_rotary_factor = {part!r}, expected a part of {settings.head_dim} that is an even"
            " number"
        )
    rotates = np.arange(plain.size) < n_rotated
    return np.where(rotates, plain, 0.0) / settings.number("factor", 1.0, least=1e-6), 1.0


def _llama3(settings: _Settings, plain: npt.NDArray[Any]) -> Any:
    factor = settings.number("factor", least=1e-6)
    low, high = settings.number("low_freq_factor", least=1e-6), settings.number("high_freq_factor", least=1e-6)
    if high <= low:
        raise ValueError(f"config.json has high_freq_factor = {high}, expected more than low_freq_factor = {low}")
    turns = settings.original_positions() * plain / (2 * math.pi)  # over the original context
    smooth = np.clip((turns - low) / (high - low), 0, 1)  # 0: scaled, 1: as it is
    return plain * (smooth + (1 - smooth) / factor), 1.0


def _yarn(settings: _Settings, plain: npt.NDArray[Any]) -> Any:
    original = settings.original_positions()
    implied = settings.max_positions / original if settings.max_positions and "factor" in settings.values else None
    factor = settings.number("factor", implied, least=1e-6)

    low = _dimension_of(settings, settings.number("beta_fast", 32) or 32, original)
    high = _dimension_of(settings, settings.number("beta_slow", 1) or 1, original)
    if settings.values.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, settings.head_dim - 1)
    ramp = np.clip((np.arange(plain.size) - low) / ((high - low) or 0.001), 0, 1)
    return plain * (1 - ramp + ramp / factor), _yarn_attention(settings, factor)


def _dimension_of(settings: _Settings, turns: float, positions: float) -> float:
    """The pair of dimensions that turns so often over so many positions."""
    if settings.theta <= 1:
        raise ValueError(f"config.json has rope_theta = {settings.theta}, expected more than 1")
    return settings.head_dim * math.log(positions / (turns * 2 * math.pi)) / (2 * math.log(settings.theta))


def _yarn_attention(settings: _Settings, factor: float) -> float:
    if settings.values.get("attention_factor") is not None:
        return settings.number("attention_factor")

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if settings.values.get("mscale") and settings.values.get("mscale_all_dim"):
        return mscale(settings.number("mscale")) / mscale(settings.number("mscale_all_dim"))
    return mscale(1.0)


_KINDS: Dict[str, Callable[[_Settings, npt.NDArray[Any]], Any]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "proportional": _proportional,
}
