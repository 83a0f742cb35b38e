from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import weighted_sum
from cermet.methods.whole import energy_shares, model_energy


def _coefficients(*, share: PerModel, lambda_: float) -> PerModel:
    return tuple(lambda_ * s for s in share)


@method(
    on="deltas",
    source="arXiv:2406.11385",
    rounds=[model_energy],
    fit=energy_shares,
    fitted=["share"],
    coefficients=_coefficients,
    workspace=1.0,
    properties=("permutation", "idempotent", "homogeneous", "odd", "equivariant"),
)
def metagpt(
    deltas: Float[torch.Tensor, "models *block"], *, share: PerModel, lambda_: float = 1.0
) -> Float[torch.Tensor, "*block"]:
    """Weigh each expert by its share of the squared size of all deltas; nothing to tune.

    Maths       λᵢ = ‖τᵢ‖² / Σₖ ‖τₖ‖² over all tensors of the model;  θ = θ₀ + λ Σ λᵢτᵢ
    Inputs      deltas: expert minus base
    Parameters  lambda: factor of the sum; 1 in the paper
    Properties  at λ = 1 every element lies between the smallest and largest of the experts; model
                order does not matter; the expert that moved furthest dominates
    When        task arithmetic without validation data, experts of similar length of training
    Example     >>> merge("metagpt", [0.0, 0.0], [[1, 2], [3, 4]])
                [2.6667, 3.6667]
    Departures  Experts that have not moved at all count equally; the formula is 0/0 there.
    """
    return weighted_sum(deltas, _coefficients(share=share, lambda_=lambda_))
