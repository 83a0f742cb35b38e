from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Gram, PerModel, method
from cermet.core.types import Doubles
from cermet.maths.combine import weighted_sum
from cermet.maths.sphere import karcher_mean


def _shares(*, gram: Doubles, max_iter: int, tol: float) -> dict[str, PerModel]:
    if len(gram) == 1:
        return {"shares": (1.0,)}
    return {"shares": karcher_mean(gram, max_iter, tol)}


def _coefficients(*, shares: PerModel) -> PerModel:
    return shares


@method(
    on="weights",
    base="none",
    source="Karcher 1977; arXiv:2603.04972; mergekit",
    rounds=[Gram("gram", arrays=True)],
    fit=_shares,
    fitted=["shares"],
    coefficients=_coefficients,
    limits={"max_iter": (0.0, 10_000.0), "tol": (0.0, None)},
    workspace=2.0,
    properties=("permutation", "idempotent"),
)
def karcher(
    weights: Float[torch.Tensor, "models *block"],
    *,
    shares: PerModel,
    max_iter: int = 10,
    tol: float = 1e-5,
) -> Float[torch.Tensor, "*block"]:
    """Centre of mass of the models' directions on the sphere, times their mean norm.

    Maths       m: Σ log_m(uᵢ) = 0 on the unit sphere, uᵢ = xᵢ/‖xᵢ‖ over the tensor;
                θ = mean‖xᵢ‖ · m
    Inputs      weights: the models as they are (a base in the recipe is one of them)
    Parameters  max_iter: steps at most. tol: length of a step, or of a tensor, taken for zero
    Properties  model order does not matter; two models: slerp at t = 1/2
    When        several unrelated directions of equal standing
    Example     >>> merge("karcher", None, [[1.0, 0.0], [0.0, 1.0]])
                [0.7071, 0.7071]
    Departures  Iterates on coefficients in float64 instead of on tensors; the same mean.
    """
    return weighted_sum(weights, shares)
