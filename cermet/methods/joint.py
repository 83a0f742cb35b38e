"""One basis for the deltas of all models: KnOTS and Decom-Renorm-Merge decompose them side by side.

A matrix is a block [models, rows, columns]; any other block is taken for a diagonal matrix, whose
basis is that of its entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cermet.core.registry import Kth, PerModel, Sum
from cermet.core.types import Grain, Place
from cermet.maths.lowrank import column_space
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import random_mask, trim
from cermet.methods.matrices import averaged, covered, oriented, tables

__all__ = [
    "Side",
    "aligned",
    "grain",
    "in_basis",
    "keep_apart",
    "knots_rounds",
    "shared_side",
    "tables_averaged",
    "trimmed",
]

Side = Literal["outputs", "inputs"]
"""Which space the basis is of: deltas stand side by side, or one below the other."""


def grain(*, place: Place | None = None, vocabulary: str = "mean") -> Grain:
    """Whole matrices; elements of everything else."""
    return "matrix" if place is None or covered(place, vocabulary) else "element"


def tables_averaged(
    *, place: Place, count: int, lambda_: float, vocabulary: str
) -> PerModel | None:
    """As `averaged`, for the vocabulary alone."""
    if not tables(place):
        return None
    return averaged(place=place, count=count, lambda_=lambda_, vocabulary=vocabulary)


def shared_side(deltas: Tensor, place: Place, side: str) -> Tensor:
    """A view in which the rows are the outputs, or with `side` inputs the inputs."""
    models = oriented(deltas, place)
    return models if side == "outputs" else models.transpose(-1, -2)


def in_basis(models: Tensor, basis: Tensor) -> Tensor:
    """Each model in a basis of its rows: [models, rows, columns] -> [models, rank, columns]."""
    return torch.stack([(basis.t() @ model.double()).float() for model in models])


def _padded(deltas: Tensor, place: Place, shared: str, floor: float) -> tuple[Tensor, Tensor]:
    """What each model does in the common basis, as a block like the given one; the basis."""
    if deltas.ndim < 3:
        sizes = torch.linalg.vector_norm(deltas, dim=0)
        kept = torch.gt(sizes, floor, out=torch.empty_like(sizes))
        return deltas * kept, kept
    models = shared_side(deltas, place, shared)
    basis = column_space(models, floor, 0.0)
    found = torch.zeros_like(deltas)
    shared_side(found, place, shared)[:, : basis.shape[1]] = in_basis(models, basis)
    return found, basis


def aligned(
    deltas: Tensor,
    place: Place,
    shared: str,
    floor: float,
    fuse: Callable[[Tensor], Tensor],
) -> Tensor:
    """The deltas in their common basis, fused there to one, and back: [*block]."""
    values, basis = _padded(deltas, place, shared, floor)
    fused = fuse(values)
    if deltas.ndim < 3:
        return fused
    inside = shared_side(fused, place, shared)[: basis.shape[1]]
    back = torch.empty_like(fused)
    shared_side(back, place, shared).copy_(basis @ inside.double())
    return back


# -- the rounds of KnOTS ------------------------------------------------------


def _trims(*, density: PerModel) -> bool:
    return min(density) < 1


def _entries(
    deltas: Float[Tensor, "models *block"], *, place: Place, shared: str, floor: float
) -> Float[Tensor, "1 *block"]:
    """How many entries the models have in the basis, counted at its vectors; float64."""
    found = torch.zeros(deltas.shape[1:], dtype=torch.float64, device=deltas.device)
    if deltas.ndim < 3:
        kept = _padded(deltas, place, shared, floor)[1]
        return (kept.double() * float(torch.Size(place.shape).numel()))[None]
    models = shared_side(deltas, place, shared)
    rank = column_space(models, floor, 0.0).shape[1]
    shared_side(found, place, shared)[:rank, 0] = float(models.shape[2])
    return found[None]


def _sizes(
    deltas: Float[Tensor, "models *block"],
    *,
    place: Place,
    shared: str,
    floor: float,
) -> Float[Tensor, "models *block"]:
    return _padded(deltas, place, shared, floor)[0].abs_()


def _thinned(
    deltas: Float[Tensor, "models *block"],
    *,
    mask: Float[Tensor, "models *block"],
    place: Place,
    shared: str,
    floor: float,
) -> Float[Tensor, "models *block"]:
    return _sizes(deltas, place=place, shared=shared, floor=floor).mul_(mask)


def _kept(*, density: PerModel, entries: Tensor, numel: int) -> list[list[int]]:
    """The k-th smallest value from below is kept too, so one more than the share."""
    return [[min(numel, int(float(entries) * d) + 1)] for d in density]


def keep_apart(
    deltas: Float[Tensor, "models *block"],
    *,
    noise: Float[Tensor, "models *block"],
    keep: PerModel,
) -> Float[Tensor, "models *block"]:
    """1.0 for each entry with the probability of its model, else 0.0."""
    return random_mask(noise, keep)


def knots_rounds(*, drops: bool) -> tuple[Sum, Kth]:
    """Entries in the bases of all tensors, and the size from which on those of a model are kept."""
    of = _thinned if drops else _sizes
    return (
        Sum("entries", of=_entries, when=_trims, scope="model"),
        Kth("cutoff", of=of, rank=_kept, when=_trims, scope="model"),
    )


def trimmed(values: Tensor, cutoff: Cutoff | None) -> Tensor:
    """What reaches the size of its model, with all that equals it."""
    return values if cutoff is None else trim(values, cutoff.with_ties())
