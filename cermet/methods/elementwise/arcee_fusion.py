from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float

from cermet.core.registry import Kth, method
from cermet.maths.select import Cutoff

_EPS = 1e-8


def _importance(
    weights: Float[torch.Tensor, "2 rows columns"],
) -> Float[torch.Tensor, "1 rows columns"]:
    """|θ₁ − θ₀| times the KL divergence between the rows' softmaxes."""
    chance = torch.softmax(weights, dim=-1) + _EPS
    divergence = (chance[1] * torch.log(chance[1] / chance[0])).sum(dim=-1, keepdim=True)
    return ((weights[1] - weights[0]).abs() * divergence)[None]


def _quartiles(*, numel: int) -> Sequence[Sequence[int]]:
    return [[numel - int(q * (numel - 1)) for q in (0.25, 0.5, 0.75)]]


def _threshold(*, quartiles: Cutoff) -> dict[str, float]:
    low, median, high = (torch.tensor(v) for v in quartiles.value[0])
    return {"threshold": float(median + 1.5 * (high - low))}


@method(
    on="weights",
    base="first",
    grain="row",
    models=(1, 1),
    source="arcee.ai (mergekit)",
    rounds=[Kth("quartiles", of=_importance, rank=_quartiles, smallest=True)],
    fit=_threshold,
    fitted=["threshold"],
    workspace=3.0,
)
def arcee_fusion(
    weights: Float[torch.Tensor, "2 rows columns"], *, threshold: float
) -> Float[torch.Tensor, "rows columns"]:
    """Take the other model's value where the change is important, else keep the base's.

    Maths       I = |θ₁ − θ₀| · KL(softmax θ₁ ‖ softmax θ₀), by row; θ₁ where
                I ≥ median I + 1.5·(Q₃ − Q₁), over the tensor; else θ₀
    Inputs      weights: base, other
    Parameters  none
    Properties  every element is the base's or the other's, bit for bit; not symmetric
    When        to move a model towards another only where they differ most
    Example     >>> merge("arcee_fusion", [0.0, 0.0, 0.0, 0.0], [[0.0, 0.1, 0.0, 5.0]])
                [0.0, 0.0, 0.0, 5.0]
    Departures  Quartiles are exact; mergekit samples a million values, unseeded, of larger
                tensors. All in float32; mergekit writes float32 files for bf16 models.
    """
    importance = _importance(weights)[0]
    taken = torch.ge(importance, threshold, out=torch.empty_like(importance))
    return weights[1] * taken + weights[0] * (1.0 - taken)
