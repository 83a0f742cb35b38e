"""Averages on the sphere, worked out from inner products alone.

A point of the span of the models is a vector of coefficients, and every norm and angle
follows from their Gram matrix G[i, j] = <x_i, x_j> (float64). So these averages need one
pass for G and one to form the weighted sum, whatever the size of the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["arc", "cosines", "directional_mean", "karcher_mean", "stock_ratio"]


def cosines(gram: Tensor, floor: float) -> Tensor:
    """Cosines between the models [models, models]; a norm below the floor counts as the floor."""
    norms = gram.diagonal().clamp_min(0.0).sqrt().clamp_min(floor)
    return (gram / norms[:, None] / norms[None, :]).clamp(-1.0, 1.0)


def arc(cosine: float, t: float, *, linear: bool) -> tuple[float, float]:
    """Coefficients of the two ends at share `t` of the arc between them (or of the chord)."""
    if linear:
        return 1.0 - t, t
    angle = math.acos(cosine)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def directional_mean(
    gram: Tensor, weights: Sequence[float], eps: float
) -> tuple[float, ...] | None:
    """(Σ wᵢ‖xᵢ‖) · normalise(Σ wᵢuᵢ) as coefficients of the xᵢ; None where Σ wᵢuᵢ vanishes."""
    norms = gram.diagonal().clamp_min(0.0).sqrt()
    weight = torch.tensor(weights, dtype=torch.float64)
    sizes = norms + eps
    shares = torch.where(sizes > 0, weight / sizes, 0.0)  # nothing has no direction
    length = float((shares @ gram @ shares).clamp_min(0.0).sqrt())
    if length <= eps:
        return None
    scale = float(weight @ norms) / length
    return tuple((shares * scale).tolist())


def karcher_mean(gram: Tensor, max_iter: int, tol: float) -> tuple[float, ...]:
    """Centre of mass of the directions on the sphere, times the mean norm, as coefficients.

    Tensors whose norm is at most `tol` have no direction; they count in the mean norm.
    """
    count = gram.shape[0]
    norms = gram.diagonal().clamp_min(0.0).sqrt()
    valid = [i for i in range(count) if norms[i] > tol]
    if not valid:
        return (0.0,) * count
    units = torch.zeros(len(valid), count, dtype=torch.float64)
    for row, i in enumerate(valid):
        units[row, i] = 1.0 / norms[i]
    mean = units.mean(dim=0)
    length = _norm(mean, gram)
    mean = units[0].clone() if length <= tol else mean / length
    for _ in range(max_iter):
        tangent = torch.zeros(count, dtype=torch.float64)
        for unit in units:
            cosine = float((mean @ gram @ unit).clamp(-1.0, 1.0))
            angle = math.acos(cosine)
            if angle > tol:
                tangent += angle / math.sin(angle) * (unit - cosine * mean) / len(valid)
        step = _norm(tangent, gram)
        if step <= tol:
            break
        mean = math.cos(step) * mean + math.sin(step) / step * tangent
        length = _norm(mean, gram)
        mean = mean / length if length > tol else mean
    return tuple((mean * norms.mean()).tolist())


def stock_ratio(gram: Tensor) -> float:
    """Model Stock's share t = N·c / (1 + (N-1)·c) of the mean; c: mean cosine of the pairs.

    Tensors without a direction (a delta of exactly zero) have cosine 0 to every other.
    """
    count = gram.shape[0]
    norms = gram.diagonal().clamp_min(0.0).sqrt()
    product = norms[:, None] * norms[None, :]
    safe = torch.where(product > 0, product, torch.ones_like(product))
    pairs = torch.triu_indices(count, count, offset=1)
    cosine = float((gram / safe).clamp(-1.0, 1.0)[pairs[0], pairs[1]].mean())
    denominator = 1.0 + (count - 1) * cosine
    return count * cosine / denominator if abs(denominator) >= 1e-6 else 0.0


def _norm(coefficients: Tensor, gram: Tensor) -> float:
    return float((coefficients @ gram @ coefficients).clamp_min(0.0).sqrt())
