"""Averages on the sphere, worked out from inner products alone.

A point of the span of the models is a vector of coefficients, and every norm and angle
follows from their Gram matrix G[i, j] = <x_i, x_j> (float64). So these averages need one
pass for G and one to form the weighted sum, whatever the size of the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cermet.core.types import Doubles

__all__ = ["arc", "cosines", "directional_mean", "karcher_mean", "stock_ratio"]

_NOISE = 1.5e-8  # a length of unit vectors below it is rounding: its square is below float64's


def _norms(gram: Doubles) -> Doubles:
    found: Doubles = np.sqrt(np.maximum(gram.diagonal(), 0.0))
    return found


def cosines(gram: Doubles, floor: float) -> Doubles:
    """Cosines between the models [models, models]; a norm below the floor counts as the floor."""
    norms = np.maximum(_norms(gram), floor)
    found: Doubles = np.clip(gram / norms[:, None] / norms[None, :], -1.0, 1.0)
    return found


def arc(cosine: float, t: float, *, linear: bool) -> tuple[float, float]:
    """Coefficients of the two ends at share `t` of the arc between them (or of the chord)."""
    if linear:
        return 1.0 - t, t
    angle = math.acos(cosine)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def directional_mean(
    gram: Doubles, weights: Sequence[float], eps: float
) -> tuple[float, ...] | None:
    """(Σ wᵢ‖xᵢ‖) · normalise(Σ wᵢuᵢ) as coefficients of the xᵢ; None where Σ wᵢuᵢ vanishes."""
    norms, weight = _norms(gram), np.array(weights, np.float64)
    sizes = norms + eps
    shares = np.divide(weight, sizes, out=np.zeros_like(weight), where=sizes > 0)
    length = _length(shares, gram)  # where a size is 0: nothing has no direction
    if length <= eps:
        return None
    scale = float(weight @ norms) / length
    return tuple((shares * scale).tolist())


def karcher_mean(gram: Doubles, max_iter: int, tol: float) -> tuple[float, ...]:
    """Centre of mass of the directions on the sphere, times the mean norm, as coefficients.

    Tensors whose norm is at most `tol` have no direction; they count in the mean norm.
    """
    count = len(gram)
    norms = _norms(gram)
    valid = [i for i in range(count) if norms[i] > tol]
    if not valid:
        return (0.0,) * count
    units = np.zeros((len(valid), count))
    for row, i in enumerate(valid):
        units[row, i] = 1.0 / norms[i]
    mean = units.mean(axis=0)
    length = _length(mean, gram)
    mean = units[0].copy() if length <= max(tol, _NOISE) else mean / length
    for _ in range(max_iter):
        tangent = np.zeros(count)
        for unit in units:
            cosine = min(max(float(mean @ gram @ unit), -1.0), 1.0)
            angle = math.acos(cosine)
            if angle > tol and math.sin(angle) > _NOISE:  # else nothing tells which way to go
                tangent += angle / math.sin(angle) * (unit - cosine * mean) / len(valid)
        step = _length(tangent, gram)
        if step <= tol:
            break
        mean = math.cos(step) * mean + math.sin(step) / step * tangent
        length = _length(mean, gram)
        mean = mean / length if length > tol else mean
    return tuple((mean * norms.mean()).tolist())


def stock_ratio(gram: Doubles) -> float:
    """Model Stock's share t = N·c / (1 + (N-1)·c) of the mean; c: mean cosine of the pairs.

    Tensors without a direction (a delta of exactly zero) have cosine 0 to every other.
    """
    count = len(gram)
    norms = _norms(gram)
    product = norms[:, None] * norms[None, :]
    found = np.clip(gram / np.where(product > 0, product, 1.0), -1.0, 1.0)
    cosine = float(found[np.triu_indices(count, k=1)].mean())
    denominator = 1.0 + (count - 1) * cosine
    return count * cosine / denominator if abs(denominator) >= 1e-6 else 0.0


def _length(coefficients: Doubles, gram: Doubles) -> float:
    return math.sqrt(max(float(coefficients @ gram @ coefficients), 0.0))
