"""Sums over models, and the agreement of their signs.

Everything here is elementwise along a block, so a finer cut cannot change a bit, and
sums over models run in recipe order. Masks are float tensors of zeros and ones: on the
CPU they cost a quarter of what boolean masks do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cermet.maths import native
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import kept_of, native_cuts

__all__ = [
    "agreeing_mean",
    "at_least",
    "changed",
    "changed_mean",
    "consensus",
    "elected",
    "elected_sign",
    "largest_agreeing",
    "mean_coefficients",
    "needed_by",
    "needed_by_each",
    "scaled_",
    "weighted_sum",
]

_NO_SUM = 1e-8  # weights that sum to less than this are taken to cancel


def weighted_sum(
    blocks: torch.Tensor, weights: Sequence[float], keep: Cutoff | torch.Tensor | None = None
) -> torch.Tensor:
    """Σ wᵢ·xᵢ over the first axis: [models, *block] -> [*block], in order of the models.

    `keep`: what of the blocks counts, as in `sparsify.kept_of`; all by default.
    """
    rows = _natively(blocks, keep)
    if rows is not None:
        out = torch.empty(blocks.shape[1:])
        if rows.summed(out, weights, _kept(keep)) is not None:
            return out
    blocks = kept_of(blocks, keep)
    first, *others = blocks.unbind()
    if others and weights[0] == 1.0:
        total = torch.add(first, others[0], alpha=weights[1])
        rest = zip(others[1:], weights[2:], strict=True)
    else:
        total = first * weights[0]
        rest = zip(others, weights[1:], strict=True)
    for block, weight in rest:
        total.add_(block, alpha=weight)
    return total


def _natively(blocks: torch.Tensor, keep: Cutoff | torch.Tensor | None) -> native.Deltas | None:
    """The rows of a float32 block as the compiled kernels take them, where they do."""
    given = (blocks, keep) if isinstance(keep, torch.Tensor) else (blocks,)
    if not native.plain(*given):
        return None
    return native.stored(blocks.unbind())


def _kept(keep: Cutoff | torch.Tensor | None) -> native.Keep:
    return native_cuts(keep) if isinstance(keep, Cutoff) else keep


def at_least(values: torch.Tensor, threshold: float) -> torch.Tensor:
    """1.0 where values >= threshold, else 0.0; NaN gives 0.0."""
    return torch.ge(values, threshold, out=torch.empty_like(values))


def elected_sign(total: torch.Tensor) -> torch.Tensor:
    """+1 where the total is zero or more, -1 below."""
    return at_least(total, 0.0).mul_(2.0).sub_(1.0)


def scaled_(blocks: torch.Tensor, factors: Sequence[float]) -> torch.Tensor:
    """Each model's block [models, *block] times the model's factor, in place."""
    for block, factor in zip(blocks, factors, strict=True):
        block.mul_(factor)
    return blocks


def mean_coefficients(
    factors: Sequence[float], shares: Sequence[float], *, normalize: bool, scale: float = 1.0
) -> tuple[float, ...]:
    """Coefficients of scale · Σ fᵢδᵢ, over the sum of the shares with `normalize`.

    Shares that cancel are not divided by.
    """
    total = sum(shares)
    divide = normalize and abs(total) >= _NO_SUM
    return tuple(scale * (f / total if divide else f) for f in factors)


def consensus(
    deltas: torch.Tensor,
    factors: Sequence[float],
    shares: Sequence[float],
    *,
    normalize: bool,
    scale: float = 1.0,
    keep: Cutoff | torch.Tensor | None = None,
    equal_votes: bool = False,
) -> torch.Tensor:
    """`scale` times the sum (or mean, by shares) of the fᵢδᵢ with the sign of their total.

    `keep`: what of the deltas counts, as in `sparsify.kept_of`; all by default. With
    `equal_votes` the sign is that of the sum of the deltas, without the factors.
    """
    rows = _natively(deltas, keep)
    if rows is not None:
        out = torch.empty(deltas.shape[1:])
        most = rows.elected(
            out, factors, shares, _kept(keep),
            plain=equal_votes, normalize=normalize, scale=scale,
        )  # fmt: skip
        if most is not None:
            return out
    kept = deltas.clone() if keep is None else kept_of(deltas, keep)
    ones = [1.0] * len(factors)
    votes = weighted_sum(kept, ones) if equal_votes else None
    weighted = scaled_(kept, factors)
    sign = elected_sign(weighted_sum(weighted, ones) if votes is None else votes)
    return agreeing_mean(weighted, shares, sign, normalize=normalize).mul_(scale)


def elected(total: torch.Tensor, at_zero: float) -> torch.Tensor:
    """Sign of the total, `at_zero` (1 or -1) where it is 0."""
    sign = torch.sign(total)
    none = torch.eq(sign, 0.0, out=torch.empty_like(sign))
    return sign.add_(none, alpha=at_zero)


def largest_agreeing(deltas: torch.Tensor, sign: torch.Tensor) -> torch.Tensor:
    """The largest of the deltas that have the elected sign, 0 where none has: [*block].

    `deltas` [models, *block] are overwritten.
    """
    return deltas.mul_(sign).clamp_min_(0.0).amax(dim=0).mul_(sign)


def needed_by_each(
    deltas: torch.Tensor,
    total: torch.Tensor,
    thresholds: Sequence[float],
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """1.0 where a model needs an entry of the total: |δᵢ| > tᵢ|total − δᵢ| (TALL-masks).

    `out`: where to write it [models, *block]; new memory by default.
    """
    masks = torch.empty_like(deltas) if out is None else out
    for delta, threshold, mask in zip(deltas, thresholds, masks, strict=True):
        torch.sub(total, delta, out=mask).abs_().mul_(threshold)
        torch.gt(delta.abs(), mask, out=mask)
    return masks


def needed_by(
    deltas: torch.Tensor, total: torch.Tensor, thresholds: Sequence[float], least: int
) -> torch.Tensor:
    """1.0 where at least so many models need an entry, as in `needed_by_each`: [*block]."""
    count, room = torch.zeros_like(total), torch.empty_like(deltas[:1])
    for i, threshold in enumerate(thresholds):
        count.add_(needed_by_each(deltas[i : i + 1], total, [threshold], room)[0])
    return torch.ge(count, float(least), out=count)


def agreeing_mean(
    deltas: torch.Tensor,
    shares: Sequence[float],
    sign: torch.Tensor,
    *,
    normalize: bool,
) -> torch.Tensor:
    """Sum of the deltas that have the elected sign, divided by the sum of their shares.

    `deltas` are weighted already, and overwritten; where nothing agrees, or the shares of
    those that agree cancel, the divisor is 1. Without `normalize` it is the plain sum.
    """
    parts = deltas.mul_(sign).clamp_min_(0.0)
    merged = weighted_sum(parts, [1.0] * len(shares))
    if normalize:
        divisor = weighted_sum(parts.sign_(), shares)
        divisor += torch.eq(divisor, 0.0, out=torch.empty_like(divisor))
        merged /= divisor
    return merged.mul_(sign)


def changed(deltas: torch.Tensor, epsilon: float) -> torch.Tensor:
    """1.0 where |δ| > ε, else 0.0: [models, *block]."""
    size = deltas.abs()
    return torch.gt(size, epsilon, out=size)


def changed_mean(
    deltas: torch.Tensor, epsilon: float, boost: Sequence[float] | None
) -> torch.Tensor:
    """Mean of each element over the models that changed it by more than ε.

    With `boost`, an element that one model alone changed is multiplied by that model's boost.
    """
    own = changed(deltas, epsilon)
    ones = [1.0] * len(deltas)
    count = weighted_sum(own, ones)
    values = own.mul_(deltas)
    merged = weighted_sum(values, ones) / count.clamp_min(1.0)
    if boost is None:
        return merged
    alone = torch.le(count, 1.5, out=torch.empty_like(count))
    return merged + weighted_sum(values, [b - 1.0 for b in boost]) * alone
