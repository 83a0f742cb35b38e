"""A merge whose delta is as long as those of its experts are in the mean, and that can go on."""

from __future__ import annotations

import torch

__all__ = ["factor", "state"]


def _mean(energy: torch.Tensor, merged: int, length: float | None) -> float:
    """The mean length of the experts' deltas; the first model stands for as many as it merges."""
    first, *others = map(float, energy[:-1].sqrt())
    each = [merged * (first if length is None else length), *others]
    return sum(each) / (merged + len(others))


def factor(*, energy: torch.Tensor, merged: int, length: float | None) -> dict[str, float]:
    """The mean length of the deltas over the length of the merged one, whose energy is the last."""
    total = float(energy[-1].sqrt())
    return {"factor": _mean(energy, merged, length) / total if total else 1.0}


def state(
    *, energy: torch.Tensor, factor: float, merged: int, length: float | None, count: int
) -> dict[str, float]:
    """What one more expert needs to know of a merge, beside the merged model."""
    mean = _mean(energy, merged, length)
    return {"merged": merged + count - 1, "length": mean, "shrunk": factor}
