"""Where the deltas of some matrices point: their leading singular subspaces, and their rank."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from cermet.analyse.walk import each, threads_within
from cermet.checkpoints.reader import Checkpoint
from cermet.core.types import Place, Role
from cermet.maths.subspace import leading, overlap

__all__ = ["MATRIX_ROLES", "Space", "chosen", "spaces_of"]

MATRIX_ROLES = frozenset(
    {Role.Q, Role.K, Role.V, Role.O, Role.QKV, Role.KV, Role.GATE, Role.UP, Role.DOWN}
    | {Role.GATE_UP, Role.SSM, Role.DENSE}
)
"""Roles of the matrices that training from another start makes entirely different."""

_DIRECTIONS = 8  # of a subspace
_LOOKED_AT = 32  # singular values, to tell a low rank
_ENERGY = 0.99  # share of a delta's square that its rank has to hold
_LEAST = 4  # rows and columns
_MOST = 1 << 26  # elements
_BYTES_EACH = 16.0  # of memory, for each element of a matrix


@dataclass(frozen=True)
class Space:
    """The deltas of one matrix.

    Attributes
    ----------
    tensor, role, layer, shape: which matrix.
    directions: dimension of the subspaces that are compared.
    energy: for each expert, the share of its delta's square that lies in these directions.
    rank: for each expert, how many directions hold 99% of it; None where 32 are too few.
        Both are None for an expert that did not change the matrix.
    left, right: for each pair of experts, in order, how much their leading subspaces of outputs
        and of inputs have in common, from 0 to 1; None where one has none.
    chance_left, chance_right: what two subspaces drawn at random have in common.
    """

    tensor: str
    role: str
    layer: int | None
    shape: tuple[int, ...]
    directions: int
    energy: tuple[float | None, ...]
    rank: tuple[int | None, ...]
    left: tuple[float | None, ...]
    right: tuple[float | None, ...]
    chance_left: float
    chance_right: float


def chosen(places: Mapping[str, Place], names: Sequence[str], count: int) -> list[str]:
    """At most `count` matrices of attention and MLP, over all roles and depths in turn."""
    shelves: dict[Role, list[str]] = {}
    for name in names:
        place = places[name]
        matrix = len(place.shape) == 2 and place.role in MATRIX_ROLES and not place.bias
        small = matrix and place.shape[0] * place.shape[1] <= _MOST
        if small and min(place.shape) >= _LEAST:
            shelves.setdefault(place.role, []).append(name)
    for shelf in shelves.values():
        shelf.sort(key=lambda name: (places[name].layer or 0, name))
    found: dict[str, None] = {}
    for i in range(count if shelves else 0):
        shelf = list(shelves.values())[i % len(shelves)]
        found.setdefault(shelf[int((i + 0.5) / count * len(shelf))])
    return list(found)


def spaces_of(
    checkpoints: Sequence[Checkpoint],
    twins: Mapping[str, tuple[str, ...]],
    places: Mapping[str, Place],
    names: Sequence[str],
    *,
    memory: int,
    threads: int | None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Space, ...]:
    """The subspaces of the deltas of the named matrices; each thread holds one matrix.

    Raises BudgetError where the memory does not hold the largest of them.
    """
    if not names:
        return ()
    sizes = {name: places[name].shape[0] * places[name].shape[1] for name in names}
    largest = max(sizes, key=lambda name: sizes[name])
    count = threads_within(
        threads, memory, sizes[largest] * _BYTES_EACH, f"The subspaces of '{largest}'"
    )

    def work(name: str) -> Space:
        space = _space(checkpoints, twins[name], places[name])
        if progress is not None:
            progress(name)
        return space

    return tuple(each(names, work, count).values())


@dataclass(frozen=True)
class _Leading:
    left: torch.Tensor
    right: torch.Tensor
    energy: float
    rank: int | None


def _space(checkpoints: Sequence[Checkpoint], names: Sequence[str], place: Place) -> Space:
    rows, columns = place.shape
    directions = max(1, min(_DIRECTIONS, min(rows, columns) // 4))
    base = checkpoints[0].block(names[0], 0, rows * columns).to(torch.float32)
    found = []
    for checkpoint, name in list(zip(checkpoints, names, strict=True))[1:]:
        delta = checkpoint.block(name, 0, rows * columns).to(torch.float32) - base
        found.append(_leading(delta.view(rows, columns), directions))
    pairs = list(itertools.combinations(found, 2))
    return Space(
        tensor=place.name,
        role=str(place.role),
        layer=place.layer,
        shape=place.shape,
        directions=directions,
        energy=tuple(None if f is None else f.energy for f in found),
        rank=tuple(None if f is None else f.rank for f in found),
        left=tuple(None if not (a and b) else overlap(a.left, b.left) for a, b in pairs),
        right=tuple(None if not (a and b) else overlap(a.right, b.right) for a, b in pairs),
        chance_left=directions / rows,
        chance_right=directions / columns,
    )


def _leading(delta: torch.Tensor, directions: int) -> _Leading | None:
    """What leads in a delta; None for one that is zero, or holds NaN or infinity."""
    square = float(delta.to(torch.float64).square().sum())
    if not 0.0 < square < float("inf"):
        return None
    left, values, right = leading(delta, _LOOKED_AT)
    shares = (values.square() / square).cumsum(0)
    enough = (shares >= _ENERGY).nonzero()
    real = int((values > 1e-6 * values[0]).sum())
    kept = min(directions, real)
    return _Leading(
        left=left[:, :kept],
        right=right[:, :kept],
        energy=min(1.0, float(shares[kept - 1])),
        rank=int(enough[0]) + 1 if len(enough) else None,
    )
