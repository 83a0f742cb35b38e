from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import mean_coefficients, weighted_sum
from cermet.maths.select import Cutoff
from cermet.methods.rounds import band_magnitudes, band_mass, restore_mass, trimmed_sum


@method(
    on="deltas",
    source="arXiv:2312.06795",
    rounds=[band_magnitudes, band_mass],
    fit=restore_mass,
    fitted=["restored"],
    form=trimmed_sum,
    limits={"gamma": (0.0, 1.0)},
    workspace=3.1,
    accepts={"int8_mask": "there is no sign mask"},
    properties=("permutation", "homogeneous", "odd"),
)
def breadcrumbs(
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
    """Drop the largest and the smallest entries of the deltas, and add the rest.

    Maths       of each τᵢ drop the ⌊γᵢn⌋ largest |τᵢ|, keep the ⌊dᵢn⌋ next;  θ = θ₀ + λ Σ wᵢτ̂ᵢ
    Inputs      deltas: expert minus base
    Parameters  weight: factor of each delta. density: share kept. gamma: share of outliers
                dropped; it gives way where density + gamma > 1, and density 1 keeps all.
                rescale: restore the L1 norm. normalize: divide by the sum of weights.
                lambda: factor of the sum
    Properties  gamma 0 keeps the largest entries; density 1 is task arithmetic
    When        many experts; outliers that hurt
    Example     >>> merge("breadcrumbs", [0.0] * 4, [[9, 1, 3, 2]], weight=1, density=0.5,
                ...       gamma=0.25)
                [0.0, 0.0, 3.0, 2.0]
    Departures  Per tensor, as in mergekit; the authors' form works row by row. Of equal
                values the first ones count as larger.
    """
    factors = mean_coefficients(restored, weight, normalize=normalize, scale=lambda_)
    return weighted_sum(deltas, factors, keep=cutoff)
