from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import agreeing_mean, elected, weighted_sum
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
def ties_official(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    cutoff: Cutoff,
    at_zero: float,
    density: PerModel = (0.2,),
    normalize: bool = True,
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """TIES as its authors run it: one threshold for each whole model, unweighted election.

    Maths       τ̂ᵢ: entries of τᵢ with |τᵢ| ≥ the (D−⌊dD⌋)-th smallest of all D of the model;
                s = sgn Σ τ̂ᵢ, where that is 0 the sign of the sum of all signs;
                θ = θ₀ + λ · mean of the τ̂ᵢ with sgn τ̂ᵢ = s (their sum without normalize)
    Inputs      deltas: expert minus base
    Parameters  density: share of a model's entries that is kept, of all tensors together (the
                authors' K; one entry more is kept, and all that equal it). normalize: divide by
                how many agree (dis-mean; dis-sum without). lambda: factor of the merged delta
    Properties  model order does not matter; tensors that moved little may be dropped whole
    When        to reproduce published TIES numbers; λ was searched in 0.8 to 2.5
    Example     >>> merge("ties_official", [0.0] * 5, [[5, 1, 0, 2, 0], [-3, 2, 0, 0, 0]],
                ...       density=0.2)
                [5.0, 2.0, 0.0, 2.0, 0.0]
    Departures  density 1 keeps everything; the authors' code asks for the 0-th value and fails.
                A K above 1, which they read as a percentage, is refused.
    """
    kept = trimmed_globally(deltas, cutoff)
    ones = [1.0] * len(kept)
    sign = elected(weighted_sum(kept, ones), at_zero)
    return agreeing_mean(kept, ones, sign, normalize=normalize).mul_(lambda_)
