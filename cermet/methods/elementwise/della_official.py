from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.core.types import Grain
from cermet.maths.combine import consensus
from cermet.maths.sparsify import ranks
from cermet.methods.rounds import check_window


def _grain(*, by_tensor: bool) -> Grain:
    return "tensor" if by_tensor else "row"


@method(
    on="deltas",
    grain=_grain,
    source="arXiv:2406.11617",
    noise=True,
    limits={"epsilon": (0.0, 1.0)},
    workspace=9.2,
    check=check_window,
    properties=("homogeneous",),
)
def della_official(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    noise: Float[torch.Tensor, "models *block"],
    weight: PerModel,
    density: PerModel = (0.7,),
    epsilon: PerModel = (0.07,),
    normalize: bool = True,
    by_tensor: bool = False,
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """DELLA as its authors run it: each kept entry is divided by its own probability.

    Maths       q = d − ε + 2ε(ρ−1)/(R−1),  ρ: rank of |τ| in its row of length R, ascending;
                m ~ Bernoulli(q), τ̂ = mτ/q;  s = sgn Σ wᵢτ̂ᵢ (0 counts as +);
                θ = θ₀ + λ Σ wᵢτ̂ᵢ[sgn wᵢτ̂ᵢ = s] / Σ wᵢ[sgn wᵢτ̂ᵢ = s]
    Inputs      deltas: expert minus base, rows along the last dimension (a vector is one row)
    Parameters  weight: factor of each delta. density: mean probability that an entry is kept;
                1 keeps all. epsilon: half the authors' window. normalize: divide by the weights
                that agree. by_tensor: ranks over the whole tensor (their della_layer_norm), which
                has to fit into memory. lambda: factor of the merged delta
    Properties  the expected delta of one expert is its delta
    When        to reproduce published DELLA numbers: drop rate 0.3, window 0.14, λ 1.1
    Example     >>> merge("della_official", [0.0, 0.0], [[2, 4]], weight=1, density=0.5,
                ...       epsilon=0.25, noise=[[0.2, 0.8]])
                [8.0, 0.0]
    Departures  λ is one number, not that of the first expert. Equal magnitudes rank in order. A
                row of one entry has probability d; the authors' code computes 0/0 there.
    """
    kept = deltas.clone()
    for delta, draw, share, half in zip(kept, noise, density, epsilon, strict=True):
        if share >= 1:
            continue
        columns = delta.shape[-1] if delta.ndim else 1
        chance = torch.full_like(delta, share)
        if columns > 1 and half > 0 and share > 0:
            step = 2.0 * half / (columns - 1)
            chance = ranks(delta.abs()).mul_(step).add_(share - half)
        delta.mul_(torch.lt(draw, chance, out=torch.empty_like(delta)))
        delta.div_(chance.clamp_min_(torch.finfo(torch.float32).tiny))
    return consensus(kept, weight, weight, normalize=normalize, scale=lambda_)
