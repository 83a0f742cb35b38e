"""Decom-Renorm-Merge: what its two directions share."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float

from cermet.core.registry import Kth, PerModel, method
from cermet.core.types import Grain, Place
from cermet.maths.combine import agreeing_mean, scaled_, weighted_sum
from cermet.maths.lowrank import column_space
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import at_place, magnitudes, trim
from cermet.methods.joint import in_basis
from cermet.methods.matrices import covered, oriented, room

__all__ = ["drm", "merged"]

_SHARE = 1e-2  # of the largest singular value: what lies below is discarded


def _grain(*, place: Place | None = None, vocabulary: str = "mean", density: float = 0.2) -> Grain:
    """Whole matrices where they are decomposed; elements of everything else."""
    matrix = place is None or covered(place, vocabulary)
    return "matrix" if matrix and density < 1 else "element"


def _others(*, place: Place, vocabulary: str) -> bool:
    return not covered(place, vocabulary)


def _trims(*, others_density: float) -> bool:
    return others_density < 1


def _kept(*, others_density: float, numel: int, count: int) -> list[list[int]]:
    return [[min(numel, round(numel * others_density) + 1)]] * count


_others_magnitudes = Kth(
    "cutoff", of=magnitudes, rank=_kept, when=_trims, scope="model", only=_others
)
"""The size from which on entries of a model are kept, over all tensors that are no matrices."""

drm = partial(
    method,
    on="deltas",
    source="arXiv:2505.23117",
    grain=_grain,
    rounds=[_others_magnitudes],
    limits={"weight": (0.0, None), "others_density": (0.0, 1.0)},
    workspace=room(each=6.0, copies=5.0, short=10.0),
    properties=("permutation", "odd"),
)
"""Declares a direction of Decom-Renorm-Merge."""


def _mean(
    values: torch.Tensor, weight: PerModel, sign: torch.Tensor | None, *, disjoint: bool
) -> torch.Tensor:
    """Mean of what has the sign, over the models or over those that have something there."""
    ones = [1.0] * len(values)
    scaled = scaled_(values, weight)
    if sign is not None:
        total = agreeing_mean(scaled, ones, sign, normalize=disjoint)
    else:
        total = weighted_sum(scaled, ones)
        if disjoint:
            count = weighted_sum(torch.ne(scaled, 0.0, out=scaled), ones)
            total.div_(count.clamp_min_(1.0))
    return total if disjoint else total.div_(float(len(values)))


def _sign(values: torch.Tensor) -> torch.Tensor:
    return weighted_sum(values, [1.0] * len(values)).sign_()


def _trimmed(values: torch.Tensor, density: float) -> torch.Tensor:
    """The largest entries of all models together, after each row of a model has length 1."""
    sizes = torch.linalg.vector_norm(values, dim=2, keepdim=True)
    shares = (values / torch.where(sizes > 0, sizes, 1.0)).abs_()
    dropped = shares.numel() - round(shares.numel() * density)
    if dropped > 0:
        least = at_place(shares.reshape(-1), dropped - 1)
        values.mul_(torch.ge(shares, least, out=shares))
    return values


def merged(
    deltas: Float[torch.Tensor, "models *block"],
    place: Place,
    cutoff: Cutoff | None,
    density: float,
    weight: PerModel,
    *,
    vertical: bool,
    disjoint: bool,
    elect: bool,
    vocabulary: str,
) -> Float[torch.Tensor, "*block"]:
    """The merged delta of a matrix, in the basis of its outputs or `vertical` of its inputs; of
    other tensors the mean of the largest entries that agree.
    """
    if not covered(place, vocabulary):
        kept = deltas if cutoff is None else trim(deltas, cutoff.with_ties())
        return _mean(kept, weight, _sign(kept) if elect else None, disjoint=disjoint)
    if deltas.ndim < 3:  # at density 1 nothing is decomposed
        return _mean(deltas, (1.0,) * len(deltas), None, disjoint=disjoint)
    models = oriented(deltas, place)
    models = models.transpose(-1, -2) if vertical else models
    basis = column_space(models, 0.0, _SHARE)
    values = _trimmed(in_basis(models, basis), density)
    mean = _mean(values, weight, _sign(values), disjoint=disjoint)
    found = (basis @ mean.double()).float()
    return oriented(found.t() if vertical else found, place)
