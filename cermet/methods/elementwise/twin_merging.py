from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.core.registry import Numbers, method
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum
from cermet.maths.lowrank import truncated


def _sides(place: Place) -> tuple[int, int]:
    """Rows and columns of a tensor seen as a matrix."""
    rows = place.shape[0] if place.shape else 1
    return rows, math.prod(place.shape[1:])


def _rank(place: Place, density: float) -> int:
    return int(density * min(_sides(place)))


def _factored(*, place: Place, density: float) -> bool:
    """Whether two factors are smaller than their product; vectors are kept whole."""
    rows, columns = _sides(place)
    return len(place.shape) > 1 and _rank(place, density) * (rows + columns) < rows * columns


def _whole(*, place: Place, density: float) -> bool:
    return not _factored(place=place, density=density)


def _left(*, place: Place, density: float) -> tuple[int, ...]:
    return _sides(place)[0], _rank(place, density)


def _right(*, place: Place, density: float) -> tuple[int, ...]:
    return _rank(place, density), _sides(place)[1]


def _shape(*, place: Place) -> tuple[int, ...]:
    return place.shape


def _restored(
    merged: Float[torch.Tensor, "numel"],
    *,
    left: Float[torch.Tensor, "rows rank"] | None,
    right: Float[torch.Tensor, "rank columns"] | None,
    exclusive: Float[torch.Tensor, "*shape"] | None,
) -> Float[torch.Tensor, "numel"]:
    if exclusive is not None:
        return merged + exclusive.reshape(-1)
    assert left is not None
    assert right is not None
    return merged + (left @ right).reshape(-1)


@method(
    on="deltas",
    source="arXiv:2406.15479",
    grain="tensor",
    limits={"density": (0.0, 1.0)},
    workspace=12.0,
    parts=[
        Numbers("left", only=_factored, shape=_left),
        Numbers("right", only=_factored, shape=_right),
        Numbers("exclusive", only=_whole, shape=_shape),
    ],
    restore=_restored,
    properties=("permutation", "homogeneous", "odd"),
)
def twin_merging(
    deltas: Float[torch.Tensor, "models numel"],
    *,
    place: Place,
    lambda_: float = 0.3,
    density: float = 0.1,
) -> tuple[Float[torch.Tensor, "numel"], Mapping[str, torch.Tensor]]:
    """A shared model by task arithmetic, and of each expert what it lacks, in a low rank.

    Maths       shared θₛ = θ₀ + λ Σ τᵢ;  eᵢ = the best approximation of θᵢ − θₛ of rank
                ⌊d · min(rows, columns)⌋, matrix by matrix; vectors whole;
                of expert i, restored: θₛ + eᵢ;  of several with weights wᵢ: θₛ + Σ wᵢeᵢ
    Inputs      deltas: expert minus base
    Parameters  lambda: factor of the sum (0.29 to 0.3 in the paper). density: share of a matrix's
                rank that is kept of each expert
    Properties  model order does not matter; density 1 restores every expert to rounding
    When        the task of an input is known, or a router weighs the experts; the shared model is
                of use without them. A matrix of all experts must fit into the memory
    Example     >>> merge("twin_merging", [0.0, 0.0], [[1, 2], [3, 4]], lambda_=0.5, task=0)
                [1.0, 2.0]
    Departures  Tensors of more than two dimensions are matrices of their first by all others.
                Dropping entries by size or at random in place of the low rank, which the
                authors' code offers, is not; the router is trained elsewhere.
    """
    total = weighted_sum(deltas, [lambda_] * len(deltas))
    own = deltas.sub_(total)
    rank = _rank(place, density)
    if len(place.shape) < 2 or rank == min(_sides(place)):
        return total, {"exclusive": own}
    pairs = [truncated(delta.view(_sides(place)), rank) for delta in own]
    if _factored(place=place, density=density):
        left, right = (torch.stack(side) for side in zip(*pairs, strict=True))
        return total, {"left": left, "right": right}
    return total, {"exclusive": torch.stack([left @ right for left, right in pairs])}
