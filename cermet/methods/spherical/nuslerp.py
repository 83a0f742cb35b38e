from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import Gram, PerModel, method
from cermet.core.types import Doubles, Grain
from cermet.maths.combine import weighted_sum
from cermet.maths.sphere import arc, cosines

_FLOOR = 1e-7
_PARALLEL = 1e-16  # 1 - cos² at or below this: the arc is its chord


def _grain(*, nuslerp_flatten: bool, nuslerp_row_wise: bool) -> Grain:
    if nuslerp_flatten:
        return "element"
    return "column" if nuslerp_row_wise else "row"


def _share(weight: PerModel) -> float:
    total = sum(weight)
    return weight[1] / total if abs(total) >= 1e-6 else 0.5


def _flat(*, nuslerp_flatten: bool) -> bool:
    return nuslerp_flatten


def _ends(*, gram: Doubles | None, weight: PerModel) -> dict[str, PerModel | None]:
    if gram is None:
        return {"ends": None}
    cosine = float(cosines(gram, _FLOOR)[0, 1])
    return {"ends": arc(cosine, _share(weight), linear=1.0 - cosine**2 <= _PARALLEL)}


def _by_vector(
    deltas: Float[torch.Tensor, "2 vectors length"], t: float
) -> Float[torch.Tensor, "vectors length"]:
    """SLERP of each pair of vectors on its own."""
    first, second = deltas.unbind()
    norms = deltas.square().sum(dim=-1, keepdim=True).sqrt_().clamp_min_(_FLOOR)
    cosine = ((first / norms[0]) * (second / norms[1])).sum(dim=-1, keepdim=True).double()
    cosine = cosine.clamp(-1.0, 1.0)
    chord = 1.0 - cosine.square() <= _PARALLEL
    angle = torch.where(chord, torch.ones_like(cosine), cosine.acos())
    ends = (torch.sin((1.0 - t) * angle) / angle.sin(), torch.sin(t * angle) / angle.sin())
    near = torch.where(chord, torch.full_like(angle, 1.0 - t), ends[0]).float()
    far = torch.where(chord, torch.full_like(angle, t), ends[1]).float()
    result: torch.Tensor = first * near + second * far
    return result


def _coefficients(*, ends: PerModel | None) -> PerModel | None:
    return ends


@method(
    on="deltas",
    base="optional",
    grain=_grain,
    models=(2, 2),
    source="mergekit",
    rounds=[Gram("gram", arrays=True, when=_flat)],
    fit=_ends,
    fitted=["ends"],
    coefficients=_coefficients,
    workspace=1.5,
    properties=("permutation", "idempotent"),
)
def nuslerp(
    deltas: Float[torch.Tensor, "2 *block"],
    *,
    ends: PerModel | None,
    weight: PerModel,
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
) -> Float[torch.Tensor, "*block"]:
    """SLERP by weights, of two models or, with a base, of their deltas.

    Maths       t = w₂/(w₁+w₂);  as slerp, without its shortcut for near directions
    Inputs      deltas: expert minus base, or the models where there is no base
    Parameters  weight: share of each model (both are halves where they sum to 0).
                nuslerp_flatten: one angle for the tensor; without it one for each row, or
                with nuslerp_row_wise for each column (the name reads inverted; so it is)
    Properties  model order does not matter; scaling both weights changes nothing
    When        two experts of one base: their deltas are far from parallel
    Example     >>> merge("nuslerp", None, [[1.0, 0.0], [0.0, 1.0]], weight=1)
                [0.7071, 0.7071]
    Departures  none
    """
    if ends is not None:
        return weighted_sum(deltas, ends)
    return _by_vector(deltas, _share(weight))
