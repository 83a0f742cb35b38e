from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Kth, PerModel, method
from cermet.maths.combine import weighted_sum
from cermet.maths.select import Cutoff
from cermet.maths.sparsify import magnitudes
from cermet.methods.balance import balanced, clamped, dropped, inside, limits_of, relative

_CLIPPED = 1e-4  # share of the entries that are clamped at either end


def _limits(*, numel: int, count: int) -> list[list[int]]:
    return limits_of(ratio=_CLIPPED, numel=numel, count=count)


def _scores(
    deltas: Float[torch.Tensor, "models *block"], *, clamp: Cutoff
) -> Float[torch.Tensor, "models *block"]:
    """Competition inside a model, times that with the sum of all deltas."""
    total = weighted_sum(deltas, [1.0] * len(deltas))
    return inside(relative(clamped(deltas, clamp), clamp)).mul_((deltas * total).tanh_())


@method(
    on="deltas",
    source="arXiv:2410.02396",
    rounds=[
        Kth("clamp", of=magnitudes, rank=_limits, scope="model", smallest=True),
        Kth("drop", of=_scores, rank=dropped, scope="model", smallest=True),
    ],
    workspace=5.0,
    properties=("permutation", "odd"),
)
def pcb_merging(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    clamp: Cutoff,
    drop: Cutoff,
    weight: PerModel = (1.0,),
    density: float = 0.1,
    lambda_: float = 1.0,
) -> Float[torch.Tensor, "*block"]:
    """Parameter competition balancing: entries win by their size and by the others' assent.

    Maths       nᵢ: |τᵢ| clamped to its model's 0.01 % and 99.99 % values, on a scale of 0 to 1;
                βᵢ = exp(N nᵢ²) · tanh(τᵢ Σ τₖ);  Sᵢ: βᵢ above its (1−d) quantile, scaled to
                0 to 1;  θ = θ₀ + λ Σ wᵢSᵢτ̄ᵢ / Σ Sᵢ
    Inputs      deltas: expert minus base; every quantile is over all tensors of the model
    Parameters  weight: the λᵢ of the authors. density: share of a model's entries that is kept,
                0.05 to 0.2. lambda: factor of the merged delta
    Properties  model order does not matter; entries that the others oppose are dropped first
    When        experts that compete for the same entries; 0.8 to 2.2 for lambda
    Example     >>> merge("pcb_merging", [0.0] * 4, [[4, 0, 1, 0], [4, 0, -1, 2]], density=0.5)
                [1.5, 0.0, 0.0, 0.0]
    Departures  The form of the authors' top-level file; pcb_merging_es is that of their vision
                script. An expert that is the base takes no part; their code divides 0 by 0.
    """
    scores = _scores(deltas, clamp=clamp)
    return balanced(deltas, scores, clamp, drop, weight).mul_(lambda_)
