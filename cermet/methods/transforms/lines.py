from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.core.types import Place
from cermet.maths.combine import scaled_


def _growing(place: Place, alpha: float, beta: float) -> float:
    if place.layer is None:
        return alpha
    return alpha + beta * (place.layer / (place.layers - 1) if place.layers > 1 else 1.0)


def _factors(*, place: Place, alpha: PerModel, beta: PerModel) -> PerModel:
    return tuple(_growing(place, a, b) for a, b in zip(alpha, beta, strict=True))


@method(
    kind="transform",
    on="deltas",
    source="arXiv:2410.17146",
    coefficients=_factors,
    workspace=1.2,
    properties=("permutation", "homogeneous", "odd"),
)
def lines(
    deltas: Float[torch.Tensor, "models *block"], *, place: Place, alpha: PerModel, beta: PerModel
) -> Float[torch.Tensor, "models *block"]:
    """Scale a delta by a factor that grows with depth: shallow layers stay general.

    Maths       τ̂ᵢ = γᵢτᵢ,  γᵢ = αᵢ + βᵢ·ℓ/(L−1) in layer ℓ of L, αᵢ outside of the layers
    Inputs      deltas: of each model, or after a merge the merged one
    Parameters  alpha: factor of the first layer and of everything outside. beta: what the last
                layer has more than the first
    Properties  beta 0 is a plain factor; [task_arithmetic, lines] is the method lines
    When        after any merge of deltas, in place of one lambda; before one for an expert that
                forgot what the base knew
    Example     >>> merge([("ties", {"weight": 1}), ("lines", {"alpha": 0.5, "beta": 1})],
                ...       [0.0, 0.0], [[1, 2], [3, 4]])
                [1.0, 1.5]
    Departures  Layers are found by the architecture, as in the method of the same name. The
                authors derive alpha from the norms of merged deltas; here it is given.
    """
    return scaled_(deltas.clone(), _factors(place=place, alpha=alpha, beta=beta))
