from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.core.registry import Bits, PerModel, method
from cermet.maths.combine import needed_by_each
from cermet.maths.select import Cutoff
from cermet.methods.masks import chosen
from cermet.methods.whole import agreeing_sum, global_balance, global_magnitudes, zero_sign


@method(
    on="deltas",
    source="arXiv:2405.07813",
    rounds=[global_magnitudes, global_balance],
    fit=zero_sign,
    fitted=["at_zero"],
    limits={"threshold": (0.0, None)},
    workspace=5.2,
    parts=[Bits("mask")],
    restore=chosen,
    properties=("permutation", "homogeneous"),
)
def tall_mask_ties(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    cutoff: Cutoff,
    at_zero: float,
    density: PerModel = (0.2,),
    threshold: PerModel = (0.4,),
) -> tuple[Float[torch.Tensor, "*block"], Mapping[str, torch.Tensor]]:
    """TALL-masks over the sum that TIES makes of the deltas instead of the plain one.

    Maths       τ: the sum (not the mean) that ties_official makes of the τᵢ;
                mᵢ = [|τᵢ| > tᵢ|τ − τᵢ|];  merged θ = θ₀ + τ;  of expert i, restored: θ₀ + mᵢτ
    Inputs      deltas: expert minus base
    Parameters  density: as in ties_official. threshold: tᵢ, chosen for each task from 0.2 to 0.6
                by validation; the smaller, the more entries are used
    Properties  model order does not matter
    When        as tall_mask, where experts pull in opposite directions
    Example     >>> merge("tall_mask_ties", [0.0] * 3, [[2, 4, 0], [2, -1, 1]], density=1, task=1)
                [4.0, 0.0, 1.0]
    Departures  as ties_official
    """
    total = agreeing_sum(deltas, cutoff, at_zero)
    return total, {"mask": needed_by_each(deltas, total, threshold)}
