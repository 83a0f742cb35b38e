"""Elements on which a discontinuous method may go either way.

Where equal values stand at a threshold, which of them are kept is a matter of order; where
a sum of weighted deltas cancels, its sign is a matter of rounding. Both tools are right
there, so those elements are left out of the comparison. They are found from the inputs
alone, never from the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from parity.inputs import Array, Group

__all__ = ["Doubt", "find_doubt"]

_CLOSE = 2e-6  # relative: variances this close may come out in either order
_MOST_SHARE = 0.01  # of the energy of a tensor that may be unclear, for the rest to be compared
_KL_NOISE = 1e-7  # absolute rounding of a divergence computed in float32
_CANCEL = 3e-7  # of the sum of magnitudes: a sum of a few float32 this small has no sign


@dataclass(frozen=True, slots=True)
class Doubt:
    """Flat positions that are not compared, and how far they may move all the others.

    slack: taken off every difference, in the unit of the weights.
    """

    elements: np.ndarray[tuple[int], np.dtype[np.bool_]]
    slack: float = 0.0


def find_doubt(group: Group) -> Doubt:
    """The doubtful elements of one output tensor."""
    finder = {
        "ties": _trimmed,
        "breadcrumbs": _trimmed,
        "breadcrumbs_ties": _trimmed,
        "dare_ties": _trimmed,
        "della": _trimmed,
        "sce": _selected,
        "arcee_fusion": _important,
        "slerp": _bent,
    }.get(group.method)
    if finder is None or not group.experts:
        return Doubt(np.zeros(group.experts[0].numel() if group.experts else 0, bool))
    return finder(group)


def _window(method: str, density: float, gamma: float, count: int) -> tuple[int, int]:
    """Kept ranks, counted from the smallest: from the first up to the second, exclusive."""
    if density >= 1 or method in ("dare_ties", "della"):
        return 0, count
    kept = int(density * count)
    if method == "ties":
        return count - max(1, kept), count
    low = max(0, count - kept - int(gamma * count))
    return low, low + kept


def _edges(values: Array, window: tuple[int, int], close: float) -> tuple[Array, Array]:
    """1.0 for the values inside a window of ranks, and 1.0 for those at an unclear edge."""
    ordered = np.sort(values)
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    inside = ((rank >= window[0]) & (rank < window[1])).astype(float)
    unclear = np.zeros(values.size)
    for edge in window:
        if not 0 < edge < values.size:
            continue
        below, above = ordered[edge - 1], ordered[edge]
        if above - below <= close * abs(above):
            width = close * abs(above)
            unclear[(values >= below - width) & (values <= above + width)] = 1.0
    return inside, unclear


def _undecided(weighted: Array) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Where the sum of weighted deltas [experts, n] has a sign by rounding only."""
    size = np.abs(weighted).sum(axis=0)
    found: np.ndarray[tuple[int], np.dtype[np.bool_]] = (size > 0) & (
        np.abs(weighted.sum(axis=0)) <= _CANCEL * size
    )
    return found


def _trimmed(group: Group) -> Doubt:
    deltas = group.deltas.flatten(1).double().numpy()
    unclear = np.zeros(deltas.shape[1], bool)
    kept = np.empty_like(deltas)
    for row, delta in enumerate(deltas):
        settings = group.each[row]
        gamma = float(settings.get("gamma", 0.0))
        window = _window(group.method, float(settings["density"]), gamma, delta.size)
        inside, edge = _edges(np.abs(delta), window, 0.0)
        unclear |= edge > 0
        kept[row] = delta * inside * float(settings["weight"])
    if group.method != "breadcrumbs":
        unclear |= _undecided(kept)
    return Doubt(unclear)


def _selected(group: Group) -> Doubt:
    deltas = group.deltas.flatten(1).double().numpy()
    share = float(group.once["select_topk"])
    unclear = np.zeros(deltas.shape[1])
    inside = np.ones(deltas.shape[1])
    if share < 1:
        variance = deltas.var(axis=0)
        varied = int(np.count_nonzero(variance > 1e-12 * np.square(deltas).mean(axis=0)))
        window = (variance.size - int(varied * share), variance.size)
        inside, unclear = _edges(variance, window, _CLOSE)
    doubtful = (unclear > 0) | _undecided(deltas * inside)
    if not unclear.any():
        return Doubt(doubtful)
    # What is selected decides the weights of the models, and so moves every other element:
    # by the share of the energy that is unclear, at most twice the largest delta.
    share = float(np.square(deltas * unclear).sum() / np.square(deltas * inside).sum())
    if share > _MOST_SHARE:
        return Doubt(np.ones(deltas.shape[1], bool))
    return Doubt(doubtful, 2 * share * float(np.abs(deltas).max()))


def _important(group: Group) -> Doubt:
    assert group.base is not None
    weights = torch.stack((group.base, group.experts[0])).double()
    chance = torch.softmax(weights, dim=-1) + 1e-8
    kl = (chance[1] * torch.log(chance[1] / chance[0])).sum(dim=-1, keepdim=True)
    size = (weights[1] - weights[0]).abs()
    values = (size * kl).flatten().numpy()
    error = (size * (_KL_NOISE + 1e-5 * kl.abs())).flatten().numpy()
    ordered = np.sort(values)
    low, middle, high = (ordered[int(q * (values.size - 1))] for q in (0.25, 0.5, 0.75))
    threshold = middle + 1.5 * (high - low)
    spread = error[np.argsort(values)]
    shift = 4 * max(float(spread[int(q * (values.size - 1))]) for q in (0.25, 0.5, 0.75))
    return Doubt(np.abs(values - threshold) <= error + shift)


def _bent(group: Group) -> Doubt:
    """The whole tensor, where the angle is at the switch from arc to chord."""
    assert group.base is not None
    first, second = group.base.double().flatten(), group.experts[0].double().flatten()
    cosine = float(first @ second / (first.norm() * second.norm()).clamp_min(1e-30))
    return Doubt(np.full(first.numel(), abs(abs(cosine) - 0.9995) < 1e-6))
