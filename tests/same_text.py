"""Compares texts as DESIGN.md 4.4 says."""

from __future__ import annotations

import numpy as np

# Logits of the order of 10, F32 weights and F16 caches of the tiny models on a CPU: they differ by up to 2e-3 with flash
# attention, 4e-4 without, between draft trees and plain decoding token by token, and by as much between two plain
# decodings whose prompt is evaluated at once and token by token. test_lossless.py requires less than half of this.
TOLERANCE = 5e-3


def logits_after(plain, tokens) -> np.ndarray:
    """The logits [n_vocab] of plain decoding after `tokens`, evaluated one by one. `plain` keeps all logits."""
    plain.reset()
    for token in tokens:
        plain.eval([token])
    return plain.scores[plain.n_tokens - 1].copy()


def measured_tolerance(plain, tokens) -> float:
    """Twice what the five best tokens' logits differ by when plain decoding evaluates `tokens` at once and one by one:
    the rounding of batches, which is the backend's. `plain` keeps all logits."""
    plain.reset()
    plain.eval(tokens)
    at_once = plain._scores.copy()
    plain.reset()
    for token in tokens:
        plain.eval([token])
    best = np.argsort(at_once, axis=1)[:, -5:]
    return 2 * np.abs(np.take_along_axis(at_once - plain._scores, best, axis=1)).max()


def assert_same_text(plain, prompt, a, b, tolerance=TOLERANCE) -> None:
    """The texts a and b after `prompt` are equal, or part where plain decoding's two best tokens are as good as equal."""
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            logits = logits_after(plain, [*prompt, *a[:i]])
            best = np.argsort(logits)[::-1][:2]
            gap = logits[best[0]] - logits[best[1]]
            assert {x, y} == set(best.tolist()) and gap <= tolerance, (
                f"token {i} is {x} and {y}; the best two are {best.tolist()}, {gap} apart"
            )
            return
    assert len(a) == len(b), f"equal up to the shorter one's end, but {len(a)} and {len(b)} tokens long"
