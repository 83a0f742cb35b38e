from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import mean_coefficients, weighted_sum


def _factors(*, weight: PerModel, normalize: bool, lambda_: float) -> PerModel:
    return mean_coefficients(weight, weight, normalize=normalize, scale=lambda_)


@method(
    on="deltas",
    source="arXiv:2212.04089",
    coefficients=_factors,
    workspace=1.0,
    accepts={
        "density": "nothing is sparsified",
        "rescale": "nothing is sparsified",
        "int8_mask": "there is no mask",
    },
    properties=("permutation", "elementwise", "homogeneous", "odd", "equivariant"),
)
def task_arithmetic(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    weight: PerModel,
    normalize: bool = False,
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """Add the weighted deltas to the base.

    Maths       θ = θ₀ + λ Σ wᵢ(θᵢ − θ₀)  (the sum divided by Σ wᵢ with normalize)
    Inputs      deltas: expert minus base
    Parameters  weight: factor of each delta; negative ones forget. lambda: factor of the sum.
                normalize: divide the sum by the sum of weights
    Properties  model order does not matter; linear in every delta; lambda 0 gives the base
    When        experts of one base with little conflict; weights that sum to more than 1
                often beat the average
    Example     >>> merge("task_arithmetic", [1.0, 1.0], [[2.0, 1.0], [1.0, 3.0]], weight=0.5)
                [1.5, 2.0]
    Departures  none
    """
    factors = _factors(weight=weight, normalize=normalize, lambda_=lambda_)
    return weighted_sum(deltas, factors)
