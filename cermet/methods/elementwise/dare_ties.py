from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import consensus
from cermet.methods.rounds import keep_at_random, masked_election, masked_mass, restore_mass


@method(
    on="deltas",
    source="arXiv:2311.03099",
    mask=keep_at_random,
    rounds=[masked_mass],
    fit=restore_mass,
    fitted=["restored"],
    form=masked_election,
    noise=True,
    workspace=6.2,
    accepts={"int8_mask": "masks take no memory here"},
    properties=("homogeneous",),
)
def dare_ties(
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
    """Drop entries of the deltas at random, then sum those that have the elected sign.

    Maths       τ̂ᵢ = cᵢ mᵢ⊙τᵢ,  mᵢ ~ Bernoulli(dᵢ),  cᵢ = ‖τᵢ‖₁ / ‖mᵢ⊙τᵢ‖₁;
                s = sgn Σ wᵢτ̂ᵢ  (0 counts as +);  θ = θ₀ + λ Σ wᵢτ̂ᵢ[sgn wᵢτ̂ᵢ = s]
    Inputs      deltas: expert minus base; noise: uniform in [0, 1)
    Parameters  as dare_linear; normalize: divide by the weights that agree
    Properties  density 1 is ties without trimming and without normalize
    When        small deltas whose experts disagree
    Example     >>> merge("dare_ties", [0.0, 0.0], [[2, 4], [-1, 1]], weight=1)
                [2.0, 5.0]
    Departures  as dare_linear
    """
    return consensus(deltas, restored, weight, normalize=normalize, scale=lambda_, keep=mask)
