from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import consensus
from cermet.maths.select import Cutoff
from cermet.methods.rounds import kept_magnitudes, restore_mass, trimmed_election, trimmed_mass


@method(
    on="deltas",
    source="arXiv:2306.01708",
    rounds=[kept_magnitudes, trimmed_mass],
    fit=restore_mass,
    fitted=["restored"],
    form=trimmed_election,
    workspace=4.2,
    accepts={"int8_mask": "masks take no memory here"},
    properties=("permutation", "homogeneous"),
)
def ties(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    cutoff: Cutoff,
    restored: PerModel,
    weight: PerModel,
    density: PerModel = (1.0,),
    normalize: bool = True,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """Trim the deltas, elect a sign for each element, average the deltas that have it.

    Maths       τ̂ᵢ = the ⌊dᵢn⌋ largest |τᵢ| of the tensor;  s = sgn Σ wᵢτ̂ᵢ  (0 counts as +)
                θ = θ₀ + λ Σ wᵢτ̂ᵢ[sgn wᵢτ̂ᵢ = s] / Σ wᵢ[sgn wᵢτ̂ᵢ = s]
    Inputs      deltas: expert minus base
    Parameters  weight: factor of each delta, before the election. density: share kept per
                model and tensor, in [0, 1]; a positive one keeps at least one entry.
                normalize: divide by the weights that agree. rescale: restore the L1 norm
                that trimming took. lambda: factor of the merged delta
    Properties  model order does not matter; density 1 and equal signs give the weighted mean
    When        experts that disagree; low densities when there are many
    Example     >>> merge("ties", [0.0] * 4, [[4, 1, -2, 0], [2, 3, 6, 1]], weight=1, density=0.5)
                [4.0, 3.0, 6.0, 0.0]
    Departures  Trimming is per tensor and the election weighted, as in mergekit; the
                authors' form trims globally. Of values equal at the threshold the first ones
                are kept, so that exactly ⌊dn⌋ remain.
    """
    return consensus(deltas, restored, weight, normalize=normalize, scale=lambda_, keep=cutoff)
