from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import elected, largest_agreeing, weighted_sum
from cermet.maths.select import Cutoff
from cermet.methods.whole import global_balance, global_magnitudes, trimmed_globally, zero_sign


@method(
    on="deltas",
    source="arXiv:2306.01708",
    rounds=[global_magnitudes, global_balance],
    fit=zero_sign,
    fitted=["at_zero"],
    workspace=4.2,
    properties=("permutation", "homogeneous"),
)
def ties_max(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    cutoff: Cutoff,
    at_zero: float,
    density: PerModel = (0.2,),
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """TIES with the largest of the deltas that agree instead of their mean (dis-max).

    Maths       τ̂ᵢ and s as in ties_official;  θ = θ₀ + λ s max |τ̂ᵢ| over sgn τ̂ᵢ = s
    Inputs      deltas: expert minus base
    Parameters  density: share of a model's entries that is kept, of all tensors together.
                lambda: factor of the merged delta
    Properties  model order does not matter; no entry is larger than in some expert
    When        experts that each move their own entries: a mean would not shrink them either,
                but where two agree the stronger one counts whole
    Example     >>> merge("ties_max", [0.0] * 5, [[5, 1, 0, 2, 0], [3, -2, 0, 0, 0]],
                ...       density=0.2)
                [5.0, -2.0, 0.0, 2.0, 0.0]
    Departures  as ties_official
    """
    kept = trimmed_globally(deltas, cutoff)
    sign = elected(weighted_sum(kept, [1.0] * len(kept)), at_zero)
    return largest_agreeing(kept, sign).mul_(lambda_)
