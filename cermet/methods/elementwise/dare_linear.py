from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import mean_coefficients, weighted_sum
from cermet.methods.rounds import keep_at_random, masked_mass, masked_sum, restore_mass


@method(
    on="deltas",
    source="arXiv:2311.03099",
    mask=keep_at_random,
    rounds=[masked_mass],
    fit=restore_mass,
    fitted=["restored"],
    form=masked_sum,
    noise=True,
    workspace=5.6,
    accepts={"int8_mask": "there is no sign mask"},
    properties=("homogeneous", "odd"),
)
def dare_linear(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    mask: Float[torch.Tensor, "models *block"],
    restored: PerModel,
    weight: PerModel,
    density: PerModel = (1.0,),
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """Drop entries of the deltas at random, restore their size, and add them up.

    Maths       mᵢ ~ Bernoulli(dᵢ);  θ = θ₀ + λ Σ wᵢ cᵢ mᵢ⊙τᵢ,  cᵢ = ‖τᵢ‖₁ / ‖mᵢ⊙τᵢ‖₁
    Inputs      deltas: expert minus base; noise: uniform in [0, 1)
    Parameters  weight: factor of each delta. density: probability that an entry is kept.
                rescale: restore each delta's L1 norm per tensor (cᵢ = 1 without).
                normalize: divide by the sum of weights. lambda: factor of the sum
    Properties  density 1 is task arithmetic; the same seed gives the same mask on any machine
    When        small deltas (fine-tuning, not continued pre-training)
    Example     >>> merge("dare_linear", [0.0, 0.0], [[2, 4]], weight=1, density=0.5,
                ...       noise=[[0.2, 0.7]])
                [6.0, 0.0]
    Departures  cᵢ matches the L1 norm, as in mergekit; the authors divide by dᵢ. Probabilities
                are honoured to 1 part in 65,536.
    """
    factors = mean_coefficients(restored, weight, normalize=normalize, scale=lambda_)
    return weighted_sum(deltas, factors, keep=mask)
