"""One basis for the deltas of all models: KnOTS and Decom-Renorm-Merge decompose them side by side.

A matrix is a block [models, rows, columns]; any other block is taken for a diagonal matrix, whose
basis is that of its entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from cermet.core.types import Place
from cermet.maths.lowrank import column_space
from cermet.methods.matrices import oriented

__all__ = ["Side", "aligned", "in_basis", "in_common", "shared_side"]

Side = Literal["outputs", "inputs"]
"""Which space the basis is of: deltas stand side by side, or one below the other."""


def shared_side(deltas: torch.Tensor, place: Place, side: str) -> torch.Tensor:
    """A view in which the rows are the outputs, or with `side` inputs the inputs."""
    models = oriented(deltas, place)
    return models if side == "outputs" else models.transpose(-1, -2)


def in_basis(models: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Each model in a basis of its rows: [models, rows, columns] -> [models, rank, columns]."""
    return torch.stack([(basis.t() @ model.double()).float() for model in models])


def in_common(
    deltas: torch.Tensor, place: Place, shared: str, floor: float
) -> tuple[torch.Tensor, torch.Tensor]:
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
    deltas: torch.Tensor,
    place: Place,
    shared: str,
    floor: float,
    fuse: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The deltas in their common basis, fused there to one, and back: [*block]."""
    values, basis = in_common(deltas, place, shared, floor)
    fused = fuse(values)
    if deltas.ndim < 3:
        return fused
    inside = shared_side(fused, place, shared)[: basis.shape[1]]
    back = torch.empty_like(fused)
    shared_side(back, place, shared).copy_(basis @ inside.double())
    return back
