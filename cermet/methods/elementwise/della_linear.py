from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import mean_coefficients, weighted_sum
from cermet.methods.rounds import check_window, keep_by_rank, masked_mass, masked_sum, restore_mass


@method(
    on="deltas",
    grain="row",
    source="arXiv:2406.11617",
    mask=keep_by_rank,
    rounds=[masked_mass],
    fit=restore_mass,
    fitted=["restored"],
    form=masked_sum,
    noise=True,
    limits={"epsilon": (0.0, 1.0)},
    workspace=8.2,
    check=check_window,
    accepts={"int8_mask": "there is no sign mask"},
    properties=("homogeneous", "odd"),
)
def della_linear(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    mask: Float[torch.Tensor, "models rows columns"],
    restored: PerModel,
    weight: PerModel,
    density: PerModel = (1.0,),
    epsilon: PerModel = (0.15,),
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "rows columns"]:
    """Drop entries at random, small ones of each row more often, and add the deltas up.

    Maths       mᵢ as in della;  θ = θ₀ + λ Σ wᵢ cᵢ mᵢ⊙τᵢ,  cᵢ = ‖τᵢ‖₁ / ‖mᵢ⊙τᵢ‖₁
    Inputs      deltas: expert minus base, rows along the last dimension (a vector is one row)
    Parameters  as della; normalize: divide by the sum of weights
    Properties  density 1 is task arithmetic
    When        as dare_linear, where large entries should survive more often
    Example     >>> merge("della_linear", [1.0, 1.0], [[2, 4], [0, 2]], weight=1)
                [1.0, 5.0]
    Departures  as della
    """
    factors = mean_coefficients(restored, weight, normalize=normalize, scale=lambda_)
    return weighted_sum(deltas, factors, keep=mask)
