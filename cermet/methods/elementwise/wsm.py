from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import weighted_sum

_HALF = 1.0 / math.sqrt(2.0)


def _decay(schedule: str, t: float) -> float:
    """The learning rate at share t of the decay that the merge stands for, 1 at first."""
    if schedule == "linear":
        return 1.0 - t
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * t))
    if schedule == "minus_sqrt":
        return 1.0 - math.sqrt(t)
    return (1.0 / math.sqrt(1.0 + t) - _HALF) / (1.0 - _HALF)


def _coefficients(*, schedule: str, count: int) -> PerModel:
    """cⱼ = wⱼ − wⱼ₊₁ with w₀ = 1 and nothing after the last."""
    curve = [_decay(schedule, i / count) for i in range(count)] + [0.0]
    return tuple(curve[j] - curve[j + 1] for j in range(count))


@method(
    on="weights",
    base="none",
    source="arXiv:2507.17634",
    coefficients=_coefficients,
    workspace=1.0,
    properties=("idempotent", "elementwise"),
)
def wsm(
    weights: Float[torch.Tensor, "models *block"],
    *,
    count: int,
    schedule: Literal["linear", "cosine", "minus_sqrt", "inverse_sqrt"] = "linear",
) -> Float[torch.Tensor, "*block"]:
    """Merge the checkpoints of a run at constant learning rate as if the rate had decayed.

    Maths       wᵢ = f(i/n);  cⱼ = wⱼ − wⱼ₊₁ (wₙ = 0);  θ = Σ cⱼθⱼ.  f: linear 1−t, cosine
                (1+cos πt)/2, minus_sqrt 1−√t, inverse_sqrt (1/√(1+t) − 1/√2)/(1 − 1/√2)
    Inputs      weights: n checkpoints of one run at equal distances, the oldest first
    Parameters  schedule: the decay that is imitated
    Properties  the coefficients are not negative and add up to one; linear is the plain mean
    When        warmup-stable-and-merge: in place of the decay phase; the span of the run that
                the checkpoints cover matters most
    Example     >>> merge("wsm", None, [[4.0], [0.0], [0.0], [8.0]], schedule="minus_sqrt")
                [3.0718]
    Departures  The paper's scale of the inverse square root is not published; ours ends at 0.
    """
    return weighted_sum(weights, _coefficients(schedule=schedule, count=count))
