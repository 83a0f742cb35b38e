from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import needed_by
from cermet.maths.select import Cutoff
from cermet.methods.whole import agreeing_sum, global_balance, global_magnitudes, zero_sign


@method(
    on="deltas",
    source="arXiv:2405.07813",
    rounds=[global_magnitudes, global_balance],
    fit=zero_sign,
    fitted=["at_zero"],
    limits={"threshold": (0.0, None), "agree": (0.0, None)},
    workspace=5.2,
    properties=("permutation", "homogeneous"),
)
def consensus_ties(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    cutoff: Cutoff,
    at_zero: float,
    density: PerModel = (0.2,),
    threshold: PerModel = (0.4,),
    agree: int = 2,
    lambda_: float = 0.5,
) -> Float[torch.Tensor, "*block"]:
    """TIES on the entries that several experts need, by their TALL-masks.

    Maths       τ: the sum (not the mean) that ties_official makes of the τᵢ;
                mᵢ = [|τᵢ| > tᵢ|τ − τᵢ|];  θ = θ₀ + λ τ[Σ mᵢ ≥ k]
    Inputs      deltas: expert minus base
    Parameters  density: as in ties_official. threshold: tᵢ, chosen for each task from 0.2 to 0.6
                by validation. agree: k, how many experts must need an entry; 0 is TIES.
                lambda: factor of the merged delta
    Properties  model order does not matter; entries that fewer than k experts need stay at the base
    When        as consensus_ta, where experts pull in opposite directions
    Example     >>> merge("consensus_ties", [0.0] * 3, [[2, 4, 0], [2, 0, 0]], density=1,
                ...       lambda_=1)
                [4.0, 0.0, 0.0]
    Departures  as ties_official
    """
    total = agreeing_sum(deltas, cutoff, at_zero)
    return needed_by(deltas, total, threshold, agree).mul_(total).mul_(lambda_)
