"""Which tensors are matrices of linear maps, and what becomes of all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from cermet.core.registry import PerModel
from cermet.core.types import Place, Role

__all__ = [
    "Others",
    "Vocabulary",
    "averaged",
    "averaged_if_short",
    "covered",
    "kept_or_averaged",
    "oriented",
    "room",
    "sides",
    "tables",
]

Vocabulary = Literal["mean", "spectral"]
"""What becomes of embeddings and heads: their deltas are averaged, or they are matrices too."""

Others = Literal["mean", "base"]
"""What becomes of tensors that are no matrices: the deltas are averaged, or the base stays."""

_TABLES = frozenset({Role.EMBEDDING, Role.POSITION, Role.HEAD})
_NO_MAPS = frozenset({Role.NORM, Role.SCALE, Role.CONV, Role.SSM, Role.BUFFER})
_EXPERTS = frozenset({Role.GATE, Role.UP, Role.DOWN, Role.GATE_UP})


def tables(place: Place) -> bool:
    """Whether a tensor is an embedding or a head."""
    return place.role in _TABLES and not place.bias


def covered(place: Place, vocabulary: str) -> bool:
    """Whether a tensor is the matrix of a linear map, or a stack of them (fused experts)."""
    if place.bias or place.role in _NO_MAPS or len(place.shape) not in (2, 3):
        return False
    if place.role in _TABLES:
        return vocabulary == "spectral"
    return len(place.shape) == 2 or place.role in _EXPERTS


def averaged(*, place: Place, count: int, lambda_: float, vocabulary: str) -> PerModel | None:
    """λ/T for each model of a tensor that is no matrix: λ times the mean of its deltas."""
    return None if covered(place, vocabulary) else (lambda_ / count,) * count


def averaged_if_short(
    *, place: Place, count: int, lambda_: float, vocabulary: str
) -> PerModel | None:
    """As `averaged`; also of a matrix with fewer rows or columns than there are models."""
    if min(place.shape[-2:], default=0) < count:
        return (lambda_ / count,) * count
    return averaged(place=place, count=count, lambda_=lambda_, vocabulary=vocabulary)


def kept_or_averaged(
    *, place: Place, count: int, lambda_: float, vocabulary: str, others: str
) -> PerModel | None:
    """As `averaged`, or with `others` base nothing of any model."""
    scale = lambda_ if others == "mean" else 0.0
    return averaged(place=place, count=count, lambda_=scale, vocabulary=vocabulary)


def oriented(deltas: torch.Tensor, place: Place) -> torch.Tensor:
    """Matrices as [outputs, inputs]: a view, transposed where they are stored as [in, out]."""
    return deltas.transpose(-1, -2) if place.transposed else deltas


def sides(place: Place) -> tuple[int, int]:
    """Outputs and inputs of a matrix as the models hold it.

    A rank or a mean over directions counts by these: of adapters a method that is equivariant
    is given the cores of the deltas in their span (`cermet.maths.factors.spanned`), which are
    smaller, while what they lack is zero.
    """
    rows, columns = place.shape[-2:]
    return (columns, rows) if place.transposed else (rows, columns)


def room(
    *,
    each: float = 0.0,
    copies: float = 0.0,
    short: float = 0.0,
    inputs: float = 0.0,
    reach: int = 1,
) -> Callable[..., float]:
    """A workspace: float32 numbers beside the block, in matrices and in square matrices.

    each: matrices for each model. copies: matrices. short: squares of the shorter side. inputs:
    squares of the number of inputs; where that is more than `reach` times the outputs of all
    models, the deltas stand one below the other instead, in float64, with squares of their rows
    where the reach is 1 (see `interference`).
    """

    def workspace(*, place: Place | None = None, count: int = 2) -> float:
        if place is None:
            return each + (copies + short) / count + inputs * reach
        rows, columns = (1, 1, *place.shape)[-2:]
        if place.transposed:
            rows, columns = columns, rows
        size = max(1, rows * columns)
        dense = columns <= reach * count * rows
        below = 0.0 if dense or not inputs else 4.0
        side = columns if dense else count * rows if reach == 1 else 0
        squares = short * min(rows, columns) ** 2 + inputs * side**2
        return each + below + (copies * size + squares) / (size * count)

    return workspace
