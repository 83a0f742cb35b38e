from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import consensus
from cermet.maths.select import Cutoff
from cermet.methods.rounds import band_magnitudes, band_mass, restore_mass, trimmed_election


@method(
    on="deltas",
    source="arXiv:2312.06795",
    rounds=[band_magnitudes, band_mass],
    fit=restore_mass,
    fitted=["restored"],
    form=trimmed_election,
    limits={"gamma": (0.0, 1.0)},
    workspace=4.2,
    accepts={"int8_mask": "masks take no memory here"},
    properties=("permutation", "homogeneous"),
)
def breadcrumbs_ties(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    cutoff: Cutoff,
    restored: PerModel,
    weight: PerModel,
    density: PerModel = (1.0,),
    gamma: PerModel = (0.01,),
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """Drop the largest and the smallest entries, then sum those that have the elected sign.

    Maths       τ̂ᵢ as in breadcrumbs;  s = sgn Σ wᵢτ̂ᵢ  (0 counts as +);
                θ = θ₀ + λ Σ wᵢτ̂ᵢ[sgn wᵢτ̂ᵢ = s]
    Inputs      deltas: expert minus base
    Parameters  as breadcrumbs; normalize: divide by the weights that agree
    Properties  gamma 0 is ties without normalize
    When        as breadcrumbs, with experts that disagree
    Example     >>> merge("breadcrumbs_ties", [0.0, 0.0], [[2, 4], [-1, 1]], weight=1)
                [2.0, 5.0]
    Departures  as breadcrumbs
    """
    return consensus(deltas, restored, weight, normalize=normalize, scale=lambda_, keep=cutoff)
