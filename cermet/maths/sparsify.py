"""Sparse deltas: by magnitude, at random, by rank; and restoring their size afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cermet.core.types import Doubles
from cermet.maths import native
from cermet.maths.lowered import Ordered, lowered
from cermet.maths.select import Cutoff

__all__ = [
    "at_place",
    "kept_of",
    "magnitudes",
    "native_cuts",
    "random_mask",
    "rank_mask",
    "ranks",
    "rescale_factors",
    "row_top",
    "sizes",
    "trim",
    "trim_both",
]

_FLOOR = 1e-7  # an L1 norm below this is taken for zero and not matched


@lowered(Ordered("magnitude"))
def magnitudes(deltas: torch.Tensor) -> torch.Tensor:
    """|δ|: what trimming selects by."""
    return deltas.abs()


def _shrink(block: torch.Tensor, threshold: float, end: int, out: torch.Tensor) -> None:
    """Entries of a flat block whose magnitude passes the threshold; the others are zero."""
    if threshold == float("inf"):
        out.zero_()
    elif threshold == -float("inf"):
        out.copy_(block)
    else:
        split = min(max(end, 0), block.numel())
        inclusive = float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))
        torch.ops.aten.hardshrink.out(block[:split], inclusive, out=out[:split])
        torch.ops.aten.hardshrink.out(block[split:], threshold, out=out[split:])


def trim(
    deltas: torch.Tensor, cutoff: Cutoff, cut: int = 0, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Keep of each model's delta what its cutoff keeps: [models, *block] -> the same.

    `out`: where to write it, contiguous; new memory by default.
    """
    kept = torch.empty_like(deltas) if out is None else out
    for i, (delta, row) in enumerate(zip(deltas, kept, strict=True)):
        _shrink(delta.reshape(-1), cutoff.value[i][cut], cutoff.end[i][cut], row.view(-1))
    return kept


def rescale_factors(
    before: torch.Tensor | Doubles, after: torch.Tensor | Doubles
) -> tuple[float, ...]:
    """Factor for each model that restores the L1 norm `before` of a delta that has `after`."""
    return tuple(
        b / a if b >= _FLOOR and a >= _FLOOR else 1.0
        for b, a in zip(before.tolist(), after.tolist(), strict=True)
    )


def trim_both(
    deltas: torch.Tensor, cutoff: Cutoff, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Keep what the first cut of each model's cutoff keeps, without what the second keeps.

    `out`: as in `trim`.
    """
    kept = trim(deltas, cutoff, 0, out)
    outliers = torch.empty_like(kept[0])
    for i, (delta, row) in enumerate(zip(deltas, kept, strict=True)):
        _shrink(delta.reshape(-1), cutoff.value[i][1], cutoff.end[i][1], outliers.view(-1))
        row.sub_(outliers)
    return kept


def kept_of(deltas: torch.Tensor, keep: Cutoff | torch.Tensor | None) -> torch.Tensor:
    """What of the deltas [models, *block] is kept, the rest 0.

    `keep`: a cutoff, whose second cut, if it has one, is of outliers; a mask of ones and zeros
    [models or 1, *block]; None keeps all, in the memory of `deltas`.
    """
    if keep is None:
        return deltas
    if isinstance(keep, torch.Tensor):
        return deltas * keep
    return trim_both(deltas, keep) if len(keep.value[0]) > 1 else trim(deltas, keep)


def native_cuts(cutoff: Cutoff) -> native.Cuts:
    """A cutoff in the words of the compiled kernels."""
    return tuple(
        list(zip(values, ends, strict=True))
        for values, ends in zip(cutoff.value, cutoff.end, strict=True)
    )


def sizes(deltas: torch.Tensor, keep: Cutoff | torch.Tensor) -> torch.Tensor:
    """|δ|, and behind it what is left of it: [models, *block] -> [2, models, *block]."""
    both = torch.empty(2, *deltas.shape, dtype=deltas.dtype, device=deltas.device)
    torch.abs(deltas, out=both[0])
    if isinstance(keep, torch.Tensor):
        torch.mul(both[0], keep, out=both[1])
    else:
        shrink = trim_both if len(keep.value[0]) > 1 else trim
        shrink(both[0], keep, out=both[1])
    return both


def at_place(values: torch.Tensor, place: int) -> torch.Tensor:
    """The value at a place, from 0, in the ascending order of each row: [..., n] -> [..., 1]."""
    if values.is_cuda:
        return values.kthvalue(place + 1, dim=-1, keepdim=True).values
    # several times faster than torch's selection on the CPU
    ordered = np.partition(values.numpy(), place, axis=-1)
    return torch.from_numpy(ordered[..., place, None].copy())


def row_top(sizes: torch.Tensor, count: int) -> torch.Tensor:
    """1.0 for the `count` largest of each row, the first of equal ones: [..., columns]."""
    columns = sizes.shape[-1]
    if count <= 0 or count >= columns:
        return torch.full_like(sizes, float(count > 0))
    threshold = at_place(sizes, columns - count)
    above, equal = sizes > threshold, sizes == threshold
    left = count - above.sum(dim=-1, keepdim=True)
    return (above | (equal & (equal.cumsum(dim=-1) <= left))).to(sizes.dtype)


def ranks(sizes: torch.Tensor) -> torch.Tensor:
    """Rank of each value in its row, 0 for the smallest, equal ones in order: [..., columns]."""
    order = sizes.argsort(dim=-1, stable=True)
    places = torch.arange(sizes.shape[-1], dtype=sizes.dtype, device=sizes.device)
    return torch.empty_like(sizes).scatter_(-1, order, places.expand_as(sizes))


def random_mask(noise: torch.Tensor, density: Sequence[float]) -> torch.Tensor:
    """1.0 for each entry with its model's probability, else 0.0: [models, *block]."""
    mask = torch.empty_like(noise)
    for out, draw, share in zip(mask, noise, density, strict=True):
        torch.lt(draw, share, out=out)
    return mask


def rank_mask(
    deltas: torch.Tensor, noise: torch.Tensor, density: Sequence[float], epsilon: Sequence[float]
) -> torch.Tensor:
    """1.0 for entries with a probability that grows with their rank in their row.

    deltas, noise: [models, rows, columns]. The probability runs linearly from density -
    epsilon for the smallest magnitude of a row to density + epsilon for the largest. Of
    equal magnitudes those in the first half of the row count as larger, so that the mean
    probability stays the density.
    """
    mask = torch.empty_like(deltas)
    for out, delta, draw, share, half in zip(mask, deltas, noise, density, epsilon, strict=True):
        columns = delta.shape[-1]
        if share >= 1 or share <= 0 or half == 0 or columns == 1:
            torch.lt(draw, share, out=out)
        else:
            _passing(delta, draw, share - half, 2 * half / (columns - 1), out)
    return mask


def _passing(
    delta: torch.Tensor, draw: torch.Tensor, lowest: float, step: float, out: torch.Tensor
) -> None:
    """1.0 where the draw is below the probability of the entry's rank, else 0.0.

    Instead of ranking every entry, each is compared with the order statistic at the rank
    from which on its own draw would pass, so only the values of a row are sorted. Bounds
    stand before and after them for draws that always or never pass.
    """
    rows, columns = delta.shape
    ordered = torch.empty(rows, columns + 2, dtype=delta.dtype, device=delta.device)
    ordered[:, 0], ordered[:, -1] = -1.0, float("inf")
    size = delta.abs()
    ordered[:, 1:-1] = size
    if ordered.is_cuda:
        ordered = ordered.sort().values
    else:
        ordered.numpy().sort()  # an order of magnitude faster than torch's on the CPU
    # The rank, counted from 0, from which on q > draw; one more for the bound in front.
    needed = draw.sub(lowest).div_(step).floor_().add_(2.0).clamp_(0.0, columns + 1.0)
    middle = columns // 2 + columns % 2
    index = needed.to(torch.int64)
    index[:, middle:].sub_(1).clamp_min_(0)
    bound = ordered.gather(-1, index)
    torch.ge(size[:, :middle], bound[:, :middle], out=out[:, :middle])
    torch.gt(size[:, middle:], bound[:, middle:], out=out[:, middle:])
