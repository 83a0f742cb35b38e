from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import weighted_sum


def _factor(*, scale: PerModel | None) -> PerModel:
    return (1.0,) if scale is None else scale


@method(
    on="weights",
    base="none",
    models=(1, 1),
    source="mergekit (frankenmerge); arXiv:2312.15166 (depth up-scaling)",
    coefficients=_factor,
    workspace=1.0,
    properties=("idempotent", "elementwise"),
)
def passthrough(
    weights: Float[torch.Tensor, "1 *block"], *, scale: PerModel | None = None
) -> Float[torch.Tensor, "*block"]:
    """Copy the one model, layer by layer; the method of layer stacking.

    Maths       θ = s·θ₁
    Inputs      weights: the one model
    Parameters  scale: factor; none copies the bytes
    Properties  without scale the output is the input, bit for bit
    When        to stack, drop or repeat layers with `slices`; scale 0 on the output
                projections of repeated layers makes them do nothing at first
    Example     >>> merge("passthrough", None, [[1.0, -2.0]], scale=2.0)
                [2.0, -4.0]
    Departures  none
    """
    return weighted_sum(weights, _factor(scale=scale))
