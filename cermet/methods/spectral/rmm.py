from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.core.registry import Numbers, method
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum
from cermet.maths.lowrank import FLOOR


def _kept(*, place: Place, count: int, directions: int) -> int:
    """Deltas minus their mean have a rank of less than their number."""
    return min(directions, count - 1, place.shape[-1] if place.shape else 1)


def _any(*, place: Place, count: int, directions: int) -> bool:
    return _kept(place=place, count=count, directions=directions) > 0


def _basis(*, place: Place, count: int, directions: int) -> tuple[int, ...]:
    kept = _kept(place=place, count=count, directions=directions)
    return kept, place.shape[-1] if place.shape else 1


def _shares(*, place: Place, count: int, directions: int) -> tuple[int, ...]:
    return (_kept(place=place, count=count, directions=directions),)


def _restored(
    merged: Float[torch.Tensor, "numel"],
    *,
    basis: Float[torch.Tensor, "rows kept length"] | None,
    coefficients: Float[torch.Tensor, "rows kept"] | None,
) -> Float[torch.Tensor, "numel"]:
    if basis is None or coefficients is None:
        return merged
    found = merged.reshape(len(basis), -1).clone()
    for direction in range(basis.shape[1]):
        found.addcmul_(basis[:, direction], coefficients[:, direction, None])
    return found.reshape(-1)


def _divided(
    own: Float[torch.Tensor, "models rows length"], kept: int
) -> tuple[Float[torch.Tensor, "rows kept length"], Float[torch.Tensor, "models rows kept"]]:
    """The leading directions of the deltas of each row, and how much of them each delta has."""
    rows = own.double().transpose(0, 1)
    values, vectors = torch.linalg.eigh(rows @ rows.transpose(1, 2))
    values, vectors = values.flip(-1)[:, :kept], vectors.flip(-1)[:, :, :kept]
    lengths = values.clamp_min(0.0).sqrt()
    there = lengths > FLOOR * lengths[:, :1]
    basis = (vectors / torch.where(there, lengths, math.inf)[:, None]).transpose(1, 2) @ rows
    shares = vectors * torch.where(there, lengths, 0.0)[:, None]
    return basis.float(), shares.transpose(0, 1).float()


@method(
    on="deltas",
    source="arXiv:2510.14163",
    base="optional",
    grain="row",
    limits={"directions": (1, None)},
    workspace=8.0,
    parts=[
        Numbers("basis", only=_any, shape=_basis, shared=True, by_row=True),
        Numbers("coefficients", only=_any, shape=_shares, exact=True, by_row=True),
    ],
    restore=_restored,
    properties=("permutation", "homogeneous", "odd"),
)
def rmm(
    deltas: Float[torch.Tensor, "models rows length"],
    *,
    place: Place,
    directions: int = 1,
) -> tuple[Float[torch.Tensor, "rows length"], Mapping[str, torch.Tensor]]:
    """The mean model, a few directions for each row that all share, and coefficients that undo it.

    Maths       merged θ = θ₀ + mean τᵢ;  of row j of every tensor X = [τ₁ⱼ − mean, …, τ_Tⱼ − mean]
                = U Σ Vᵀ, W = the first p of U, αᵢ = Wᵀ(τᵢⱼ − mean);  of expert i, restored:
                θᵢⱼ = θⱼ + Wαᵢ.  Cost for a matrix of m × n: T²mn for the Gram matrices of the
                rows, m eigenproblems of T, pTmn for the basis
    Inputs      deltas: expert minus base, or the models themselves where there is no base
    Parameters  directions: p; kept are p + 1 models and T p numbers for each row, so p of T − 1
                or more restores every expert to the rounding of what is stored
    Properties  model order does not matter; the squared error of all experts together is that of
                the singular values that are left out, the least that p directions can have
    When        the task of an input is known, and the experts are alike enough that a few models
                hold them all: the merged model is their plain mean
    Example     >>> merge("rmm", [0.0, 0.0], [[1, 2], [3, 1], [2, 4]], directions=2, task=1)
                [3.0, 1.0]
    Departures  The paper takes the rows of A and the columns of B of LoRA adapters, where another
                choice of the factors, with the same products, gives another result; here they are
                rows of whole deltas, and adapters are given as base+adapter. Whether it subtracts
                the mean could not be told; here that is the merged model. Vectors are one row.
    """
    mean = weighted_sum(deltas, [1.0 / len(deltas)] * len(deltas))
    kept = _kept(place=place, count=len(deltas), directions=directions)
    if kept < 1:
        return mean, {}
    basis, shares = _divided(deltas.sub_(mean), kept)
    return mean, {"basis": basis, "coefficients": shares}
