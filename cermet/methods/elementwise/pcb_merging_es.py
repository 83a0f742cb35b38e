from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Kth, PerModel, method
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import magnitudes
from cermet.methods.balance import balanced, clamped, dropped, inside, limits_of, relative

_CLIPPED = 0.01  # share of the entries that are clamped at either end


def _limits(*, numel: int, count: int) -> list[list[int]]:
    return limits_of(ratio=_CLIPPED, numel=numel, count=count)


def _scores(
    deltas: Float[torch.Tensor, "models *block"], *, clamp: Cutoff
) -> Float[torch.Tensor, "models *block"]:
    """Competition inside a model, times the sum of that with each model."""
    shares = relative(clamped(deltas, clamp), clamp)
    signed = shares * deltas.sign()
    between = torch.zeros_like(signed)
    for other in signed:
        between.add_((signed * other).tanh_())
    return inside(shares).mul_(between)


@method(
    on="deltas",
    source="arXiv:2410.02396",
    rounds=[
        Kth("clamp", of=magnitudes, rank=_limits, scope="model", smallest=True),
        Kth("drop", of=_scores, rank=dropped, scope="model", smallest=True),
    ],
    workspace=6.1,
    properties=("permutation", "homogeneous", "odd"),
)
def pcb_merging_es(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    clamp: Cutoff,
    drop: Cutoff,
    weight: PerModel = (1.2,),
    density: float = 0.05,
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """PCB-Merging as the authors' evolutionary search scores it: every pair of experts on its own.

    Maths       nᵢ: |τᵢ| clamped to its model's 1 % and 99 % values, on a scale of 0 to 1;
                τ̂ᵢ = nᵢ sgn τᵢ;  βᵢ = exp(N nᵢ²) · Σₖ tanh(τ̂ᵢτ̂ₖ);  then as pcb_merging
    Inputs      deltas: expert minus base; every quantile is over all tensors of the model
    Parameters  weight: the λᵢ that the authors search in 0.8 to 1.3. density: share of a model's
                entries that is kept. lambda: factor of the merged delta
    Properties  model order does not matter; the scale of the deltas does not change what is kept
    When        as pcb_merging; scores that do not depend on the size of the deltas
    Example     >>> merge("pcb_merging_es", [0.0] * 4, [[4, 0, 1, 0], [4, 0, -1, 2]],
                ...       density=0.5, weight=1)
                [1.5, 0.0, 0.0, 0.0]
    Departures  as pcb_merging
    """
    scores = _scores(deltas, clamp=clamp)
    return balanced(deltas, scores, clamp, drop, weight).mul_(lambda_)
