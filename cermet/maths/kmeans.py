"""Clusters of points by k-means, with the random numbers given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int

__all__ = ["clusters"]

_MOST = 100  # rounds of Lloyd's algorithm; it stops earlier once nothing moves


def clusters(
    points: Float[torch.Tensor, "points size"], draws: Sequence[float]
) -> Int[torch.Tensor, "points"]:
    """For each point the number of its cluster, of as many as there are draws.

    Lloyd's algorithm in float64, from centres that are drawn as in k-means++: each with a chance
    that grows with the square of its distance to those before it. draws: uniform in [0, 1).
    Points that are equal share a cluster unless there are as many clusters as points; a cluster
    may be empty where there are fewer different points than clusters.
    """
    count, size = points.shape[0], len(draws)
    if size >= count:
        return torch.arange(count, device=points.device)
    # distances need inner products alone: points in as many dimensions as there are points
    gram = points.double() @ points.double().t()
    lengths = gram.diagonal()
    chosen = _seeds(gram, draws)
    members = torch.zeros(size, count, dtype=torch.float64, device=points.device)
    members[torch.arange(size), chosen] = 1.0
    labels = torch.full((count,), -1, device=points.device)
    for _ in range(_MOST):
        crossed = members @ gram
        far = lengths[None] - 2 * crossed + (crossed * members).sum(dim=1, keepdim=True)
        found = far.argmin(dim=0)
        if torch.equal(found, labels):
            break
        labels = found
        held = torch.nn.functional.one_hot(labels, size).t().double()
        filled = held.sum(dim=1, keepdim=True)
        members = torch.where(filled > 0, held / filled.clamp_min(1.0), members)
    return labels


def _seeds(gram: Float[torch.Tensor, "points points"], draws: Sequence[float]) -> list[int]:
    """The first centres: points, drawn one after another."""
    lengths = gram.diagonal()
    scale = float(lengths.max()) * gram.shape[0] * torch.finfo(torch.float64).eps
    chosen: list[int] = []
    near = torch.ones_like(lengths)
    for draw in draws:
        mass = near.cumsum(dim=0)
        place = int(torch.searchsorted(mass, draw * mass[-1], right=True))
        chosen.append(min(place, len(lengths) - 1))
        last = chosen[-1]
        far = (lengths - 2 * gram[last] + lengths[last]).clamp_min(0.0)
        far[far <= 4 * scale] = 0.0  # a point's own distance, and that of its copies, is zero
        near = far if len(chosen) == 1 else torch.minimum(near, far)
    return chosen
