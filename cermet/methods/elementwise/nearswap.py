from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import method


@method(
    on="deltas",
    models=(1, 1),
    source="huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    limits={"t": (0.0, None)},
    workspace=0.5,
    properties=("elementwise",),
)
def nearswap(deltas: Float[torch.Tensor, "1 *block"], *, t: float) -> Float[torch.Tensor, "*block"]:
    """Take the other model's value where it is near the base's, and less of it farther away.

    Maths       θ = (1−u)·θ₀ + u·θ₁,  u = min(1, t / |θ₁ − θ₀|)
    Inputs      deltas: the one other model minus the base
    Parameters  t: distance up to which the other's value is taken whole; at least 0
    Properties  no element moves farther than t from the base, unless it starts nearer
    When        to blend in a second model without leaving the first
    Example     >>> merge("nearswap", [0.0, 0.0], [[0.5, 4.0]], t=1.0)
                [0.5, 1.0]
    Departures  none; distances below 1e-6 count as 1e-6, as in mergekit
    """
    delta = deltas[0]
    share = delta.abs().clamp_min_(1e-6).reciprocal_().mul_(t).clamp_(0.0, 1.0)
    return share.mul_(delta)
