from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Kth, PerModel, method
from cermet.maths.combine import elected_sign, scaled_, weighted_sum
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import magnitudes, trim


def _largest(*, density: PerModel, numel: int) -> list[list[int]]:
    return [[int(d * numel) if d < 1 else numel] for d in density]


@method(
    on="deltas",
    source="arXiv:2505.21226",
    rounds=[Kth("cutoff", of=magnitudes, rank=_largest)],
    workspace=5.2,
    properties=("permutation", "homogeneous"),
)
def rht(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    cutoff: Cutoff,
    weight: PerModel = (1.0,),
    density: PerModel = (0.7,),
    frequency: bool = False,
) -> Float[torch.Tensor, "*block"]:
    """Reparameterised heavy tails: keep the largest entries, enlarge them, elect, divide by count.

    Maths       τ̂ᵢ: the ⌊dn⌋ largest |τᵢ| of the tensor, divided by d;  s = sgn Σ τ̂ᵢ (0 counts
                as +), with frequency s = sgn Σ sgn τ̂ᵢ;
                θ = θ₀ + Σ wᵢτ̂ᵢ[sgn τ̂ᵢ = s] / max(1, #{i: sgn τ̂ᵢ = s})
                Cost for a matrix of m × n: T selections among mn, some ten passes over all
    Inputs      deltas: expert minus base (the authors apply it to the factors of adapters)
    Parameters  weight: factor of each delta. density: share of the entries of a tensor that is
                kept. frequency: elect by how many agree, not by how much
    Properties  model order does not matter
    When        the crossover of an evolutionary search over many experts, as published
    Example     >>> merge("rht", [0.0] * 4, [[4, 1, 0, -2], [2, 0, 1, 4]], density=0.5)
                [6.0, 0.0, 0.0, 8.0]
    Departures  The authors normalise random weights to a sum of one before; give such weights
                to get the same. Of values equal at the threshold the first ones are kept.
    """
    kept = trim(deltas, cutoff)
    scaled_(kept, [1.0 / d if 0 < d < 1 else 1.0 for d in density])
    votes = kept.sign() if frequency else kept
    sign = elected_sign(weighted_sum(votes, [1.0] * len(kept)))
    agree = (kept * sign).clamp_min_(0.0).sign_()
    count = weighted_sum(agree, [1.0] * len(kept)).clamp_min_(1.0)
    return weighted_sum(kept.mul_(agree), weight).div_(count)
