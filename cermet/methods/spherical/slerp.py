from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Gram, PerModel, method
from cermet.core.types import Doubles
from cermet.maths.combine import weighted_sum
from cermet.maths.sphere import arc, cosines

_PARALLEL = 0.9995  # beyond this cosine, either way, the arc is taken for its chord
_FLOOR = 1e-8


def _ends(*, gram: Doubles, t: float) -> dict[str, PerModel]:
    directed = bool((gram.diagonal() > _FLOOR**2).all())
    cosine = float(cosines(gram, _FLOOR)[0, 1]) if directed else 0.0
    return {"ends": arc(cosine, t, linear=abs(cosine) > _PARALLEL)}


def _coefficients(*, ends: PerModel) -> PerModel:
    return ends


@method(
    on="weights",
    base="first",
    models=(1, 1),
    source="Shoemake 1985; mergekit",
    rounds=[Gram("gram", arrays=True)],
    fit=_ends,
    fitted=["ends"],
    coefficients=_coefficients,
    workspace=1.0,
    properties=("idempotent",),
)
def slerp(
    weights: Float[torch.Tensor, "2 *block"], *, ends: PerModel, t: float
) -> Float[torch.Tensor, "*block"]:
    """Go the share t along the great circle from the base to the other model.

    Maths       φ = ∠(a, b) over the tensor;  θ = sin((1−t)φ)/sin φ · a + sin(tφ)/sin φ · b;
                (1−t)·a + t·b where |cos φ| > 0.9995
    Inputs      weights: base (a), other (b)
    Parameters  t: share of the other model; outside of [0, 1] it extrapolates
    Properties  t 0 gives the base, t 1 the other; equal norms are kept
    When        two models, with t by layer and filter
    Example     >>> merge("slerp", [1.0, 0.0], [[0.0, 1.0]], t=0.5)
                [0.7071, 0.7071]
    Departures  none; angles are computed in float64
    """
    return weighted_sum(weights, ends)
