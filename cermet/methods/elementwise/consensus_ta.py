from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import needed_by, weighted_sum


@method(
    on="deltas",
    source="arXiv:2405.07813",
    limits={"threshold": (0.0, None), "agree": (0.0, None)},
    workspace=3.2,
    properties=("permutation", "homogeneous", "odd"),
)
def consensus_ta(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    threshold: PerModel = (0.4,),
    agree: int = 2,
    lambda_: float = 0.3,
) -> Float[torch.Tensor, "*block"]:
    """Task arithmetic on the entries that several experts need, by their TALL-masks.

    Maths       τ = Σ τᵢ;  mᵢ = [|τᵢ| > tᵢ|τ − τᵢ|];  θ = θ₀ + λ τ[Σ mᵢ ≥ k]
    Inputs      deltas: expert minus base
    Parameters  threshold: tᵢ, chosen for each task from 0.2 to 0.6 by validation. agree: k, how
                many experts must need an entry; 0 is task arithmetic. lambda: factor of the sum
    Properties  model order does not matter; entries that fewer than k experts need stay at the base
    When        many experts: drops what is of use to one alone and what is of use to none
    Example     >>> merge("consensus_ta", [0.0] * 3, [[2, 4, 0], [2, 0, 0]], lambda_=1)
                [4.0, 0.0, 0.0]
    Departures  none
    """
    total = weighted_sum(deltas, [1.0] * len(deltas))
    return needed_by(deltas, total, threshold, agree).mul_(total).mul_(lambda_)
