from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Kth, PerModel, method
from cermet.maths.combine import weighted_sum
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import magnitudes, trim


def _above(*, density: PerModel, numel: int) -> list[list[int]]:
    """The rank of the largest entry that is dropped; past the last one where none is."""
    dropped = [int(numel * (1.0 - d) + 1e-9) for d in density]
    return [[numel - count + 1] for count in dropped]


@method(
    on="deltas",
    source="arXiv:2311.03099",
    rounds=[Kth("cutoff", of=magnitudes, rank=_above, smallest=True)],
    workspace=2.2,
    properties=("permutation", "homogeneous", "odd"),
)
def dare_magnitude(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    cutoff: Cutoff,
    weight: PerModel = (1.0,),
    density: PerModel = (0.9,),
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """Drop the smallest entries of each tensor's deltas, divide the rest by the share kept, add.

    Maths       τ̂ᵢ: entries with |τᵢ| > the ⌊(1−d)n⌋-th smallest;  θ = θ₀ + λ Σ wᵢτ̂ᵢ/dᵢ
    Inputs      deltas: expert minus base
    Parameters  weight: factor of each delta. density: share of the entries of a tensor that is
                kept. rescale: divide by it. lambda: factor of the sum
    Properties  model order does not matter; of equal values at the threshold all are dropped
    When        the control of DARE: what its masks are worth beside the obvious choice
    Example     >>> merge("dare_magnitude", [0.0] * 4, [[1, -2, 4, 2]], density=0.5)
                [0.0, 0.0, 8.0, 0.0]
    Departures  Where nothing is to be dropped, nothing is; the authors' code fails there.
    """
    shares = [d if rescale and d > 0 else 1.0 for d in density]
    factors = [lambda_ * w / d for w, d in zip(weight, shares, strict=True)]
    return weighted_sum(trim(deltas, cutoff.without_ties()), factors)
