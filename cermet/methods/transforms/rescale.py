from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, Sum, method
from cermet.maths.combine import scaled_
from cermet.maths.sparsify import rescale_factors


def _sizes(
    deltas: Float[torch.Tensor, "models *block"], *, original: Float[torch.Tensor, "models *block"]
) -> Float[torch.Tensor, "2 models *block"]:
    both = torch.empty(2, *deltas.shape, dtype=deltas.dtype, device=deltas.device)
    torch.abs(original, out=both[0])
    torch.abs(deltas, out=both[1])
    return both


def _factors(*, mass: torch.Tensor) -> dict[str, PerModel]:
    return {"factors": rescale_factors(mass[0], mass[1])}


@method(
    kind="transform",
    on="deltas",
    source="mergekit (rescale_norm: l1)",
    rounds=[Sum("mass", of=_sizes)],
    fit=_factors,
    fitted=["factors"],
    workspace=3.2,
    properties=("permutation", "homogeneous", "odd"),
)
def rescale(
    deltas: Float[torch.Tensor, "models *block"], *, factors: PerModel
) -> Float[torch.Tensor, "models *block"]:
    """Give each tensor of a delta the size that it had before the transforms in front of it.

    Maths       τ̂ᵢ = τ'ᵢ ‖τᵢ‖₁ / ‖τ'ᵢ‖₁,  τᵢ: the delta before the transforms that stand in
                front, τ'ᵢ: as they leave it
    Inputs      deltas: of each model, or after a merge the merged one
    Parameters  none
    Properties  as the first step it changes nothing; after trim or drop it keeps the L1 norm
    When        after a transform that drops much, where the share that is kept says little of
                the size that is lost
    Example     >>> merge([("trim", {"density": 0.5}), "rescale", ("ties", {"weight": 1})],
                ...       [0.0] * 4, [[6, 2, -3, 1]])
                [8.0, 0.0, -4.0, 0.0]
    Departures  A norm below 1e-7 is taken for zero and not matched, as in mergekit.
    """
    return scaled_(deltas.clone(), factors)
