"""KnOTS: what its three methods share, beside the basis that `joint` finds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float

from cermet.core.registry import Kth, PerModel, Sum, method
from cermet.core.types import Grain, Place
from cermet.maths.combine import agreeing_mean, elected, scaled_, weighted_sum
from cermet.maths.lowrank import column_space
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import random_mask, trim
from cermet.methods.joint import in_common, shared_side
from cermet.methods.matrices import averaged, covered, room, tables

__all__ = ["dared", "knots", "knots_dares", "ties_of", "trimmed"]


def _grain(*, place: Place | None = None, vocabulary: str = "mean") -> Grain:
    """Whole matrices; elements of everything else."""
    return "matrix" if place is None or covered(place, vocabulary) else "element"


def _tables_averaged(
    *, place: Place, count: int, lambda_: float, vocabulary: str
) -> PerModel | None:
    """As `averaged`, for the vocabulary alone."""
    if not tables(place):
        return None
    return averaged(place=place, count=count, lambda_=lambda_, vocabulary=vocabulary)


def _trims(*, density: PerModel) -> bool:
    return min(density) < 1


def _entries(
    deltas: Float[torch.Tensor, "models *block"], *, place: Place, shared: str, floor: float
) -> Float[torch.Tensor, "1 *block"]:
    """How many entries the models have in the basis, counted at its vectors; float64."""
    found = torch.zeros(deltas.shape[1:], dtype=torch.float64, device=deltas.device)
    if deltas.ndim < 3:
        kept = in_common(deltas, place, shared, floor)[1]
        return (kept.double() * float(torch.Size(place.shape).numel()))[None]
    models = shared_side(deltas, place, shared)
    rank = column_space(models, floor, 0.0).shape[1]
    shared_side(found, place, shared)[:rank, 0] = float(models.shape[2])
    return found[None]


def _sizes(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    place: Place,
    shared: str,
    floor: float,
) -> Float[torch.Tensor, "models *block"]:
    return in_common(deltas, place, shared, floor)[0].abs_()


def _thinned(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    mask: Float[torch.Tensor, "models *block"],
    place: Place,
    shared: str,
    floor: float,
) -> Float[torch.Tensor, "models *block"]:
    return _sizes(deltas, place=place, shared=shared, floor=floor).mul_(mask)


def _kept(*, density: PerModel, entries: torch.Tensor, numel: int) -> list[list[int]]:
    """The k-th smallest value from below is kept too, so one more than the share."""
    return [[min(numel, int(float(entries) * d) + 1)] for d in density]


def _keep_apart(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    noise: Float[torch.Tensor, "models *block"],
    keep: PerModel,
) -> Float[torch.Tensor, "models *block"]:
    """1.0 for each entry with the probability of its model, else 0.0."""
    return random_mask(noise, keep)


def _rounds(of: Callable[..., torch.Tensor]) -> tuple[Sum, Kth]:
    """Entries in the bases of all tensors, and the size from which on those of a model are kept."""
    return (
        Sum("entries", of=_entries, when=_trims, scope="model"),
        Kth("cutoff", of=of, rank=_kept, when=_trims, scope="model"),
    )


_declared = partial(
    method, on="deltas", source="arXiv:2410.19735", grain=_grain, otherwise=_tables_averaged
)

knots = partial(
    _declared,
    rounds=_rounds(_sizes),
    limits={"floor": (0.0, None)},
    workspace=room(each=6.0, copies=5.0, short=10.0),
)
"""Declares a method of KnOTS; its largest entries reach `cutoff`."""

knots_dares = partial(
    _declared,
    mask=_keep_apart,
    rounds=_rounds(_thinned),
    noise=True,
    limits={"floor": (0.0, None), "keep": (0.0, 1.0)},
    workspace=room(each=8.0, copies=5.0, short=10.0),
)
"""The same where entries are dropped at random first: it gets a `mask` too."""


def dared(values: torch.Tensor, mask: torch.Tensor, keep: PerModel) -> torch.Tensor:
    """Entries that are kept divided by the probability of that, the others 0; in place."""
    return scaled_(values.mul_(mask), [1.0 / k if k else 0.0 for k in keep])


def trimmed(values: torch.Tensor, cutoff: Cutoff | None) -> torch.Tensor:
    """What reaches the size of its model, with all that equals it."""
    return values if cutoff is None else trim(values, cutoff.with_ties())


def ties_of(kept: torch.Tensor, *, normalize: bool) -> torch.Tensor:
    """The mean or sum of the entries that agree with the sign of their sum; 0 counts as plus."""
    ones = [1.0] * len(kept)
    sign = elected(weighted_sum(kept, ones), 1.0)
    return agreeing_mean(kept, ones, sign, normalize=normalize)
