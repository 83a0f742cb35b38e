from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float

from cermet.core.registry import Sum, method
from cermet.core.types import Grain, Place, Role
from cermet.maths.combine import weighted_sum
from cermet.maths.lowrank import leading
from cermet.methods import lengths
from cermet.methods.matrices import covered, room

Tables = Literal["sum", "head", "spectral"]


def _grain(*, place: Place | None = None, vocabulary: str = "sum") -> Grain:
    if place is None:
        return "matrix"
    alone = vocabulary == "head" and place.role is not Role.HEAD
    tables = "mean" if vocabulary == "sum" or alone else "spectral"
    return "matrix" if covered(place, tables) else "element"


def _outside(
    delta: torch.Tensor, total: torch.Tensor, alpha: float, diagonal: bool
) -> torch.Tensor:
    """What a delta does outside of the leading directions of the total, and along no pair of it."""
    found = leading(total, min(total.shape))
    left, right = found.left.double(), found.right.double()
    most = int((found.values.cumsum(0) <= alpha * found.values.sum()).sum())
    image = delta.double() @ right.t()
    first = left[:, :most] @ (left[:, :most].t() @ image[:, :most]) @ right[:most]
    if diagonal:
        along = (left * image).sum(dim=0)[most:]
        first += (left[:, most:] * along) @ right[most:]
    return delta - first.float()


def _united(deltas: torch.Tensor, alpha: float, diagonal: bool, shrunk: float) -> torch.Tensor:
    """All deltas one after the other, each where those before it leave room."""
    if deltas.ndim < 3:
        return weighted_sum(deltas, [1.0 / shrunk, *[1.0] * (len(deltas) - 1)])
    total = deltas[0] / shrunk
    for delta in deltas[1:]:
        total += _outside(delta, total, alpha, diagonal)
    return total


def _squares(
    deltas: Float[torch.Tensor, "models *block"], *, alpha: float, diagonal: bool, shrunk: float
) -> Float[torch.Tensor, "count *block"]:
    found = torch.empty(len(deltas) + 1, *deltas.shape[1:], device=deltas.device)
    torch.square(deltas, out=found[:-1])
    torch.square(_united(deltas, alpha, diagonal, shrunk), out=found[-1])
    return found


def _check(*, shrunk: float) -> str | None:
    return None if shrunk else "shrunk is 0; what a merge was multiplied by is positive"


@method(
    on="deltas",
    source="arXiv:2501.09522",
    grain=_grain,
    rounds=[Sum("energy", of=_squares, scope="model")],
    fit=lengths.factor,
    fitted=["factor"],
    continues=lengths.state,
    check=_check,
    limits={"alpha": (0.0, 1.0), "merged": (1, None), "length": (0.0, None), "shrunk": (0.0, None)},
    workspace=room(each=2.0, copies=14.0, short=12.0),
    properties=("odd", "equivariant"),
)
def opcm(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    factor: float,
    alpha: float = 0.5,
    diagonal: bool = True,
    vocabulary: Tables = "sum",
    merged: int = 1,
    length: float | None = None,
    shrunk: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """One expert after another, each projected away from what is merged already.

    Maths       D₁ = τ₁;  Dₜ = Dₜ₋₁ + τₜ − U(Ω ∘ UᵀτₜV)Vᵀ with Dₜ₋₁ = UΣVᵀ, where Ω holds the
                leading q × q entries, whose σ sum to at most the share α, and the diagonal;
                θ = θ₀ + D · mean ‖τᵢ‖ / ‖D‖, the lengths over the whole model;  other tensors:
                Dₜ = Dₜ₋₁ + τₜ.  Cost for a matrix of M × k: twice T − 1 times a Gram matrix of Mk²
                with all its eigenvectors, and three products
    Inputs      deltas: expert minus base, a matrix at a time
    Parameters  alpha: the share of the merged spectrum that a new expert may not touch. diagonal:
                nor any pair of singular vectors of it. vocabulary: whether embeddings and heads
                are added (sum), or heads or both are projected like other matrices. merged: how
                many experts the first model is a merge of. length: the mean length of their deltas,
                by default that of the first model's. shrunk: the factor of that merge; `cermet
                merge --continue` finds all three in its record
    Properties  the order of the experts matters; one expert comes back; with the diagonal what an
                expert adds is orthogonal to what was there; the length of the merged delta is the
                mean of the experts'; one more expert can be added to a finished merge, which
                differs from merging all at once by the rounding of the finished one
    When        experts that come one after another, where the first ones must not be forgotten
    Example     >>> merge("opcm", [[0.0, 0.0]] * 2, [[[2, 0], [0, 0]], [[3, 0], [0, 2]]])
                [[1.9819, 0.0], [0.0, 1.9819]]
    Departures  Rescaling after every expert and once at the end are the same, so it is once.
                Directions that nothing has moved are not projected away. Alpha 1 leaves all of the
                spectrum alone, where the authors' code leaves nothing. Without the diagonal it is
                their paper's repository, with it FusionBench.
    """
    return _united(deltas, alpha, diagonal, shrunk).mul_(factor)
