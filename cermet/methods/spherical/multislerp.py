from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.errors import DataError
from cermet.core.registry import Gram, PerModel, method
from cermet.core.types import Doubles
from cermet.maths.combine import weighted_sum
from cermet.maths.sphere import directional_mean


def _check(*, weight: PerModel, normalize_weights: bool) -> str | None:
    if normalize_weights and abs(sum(weight)) < 1e-8:
        return "the weights sum to zero, so they cannot be normalised"
    return None


def _shares(
    *, gram: Doubles, weight: PerModel, normalize_weights: bool, eps: float
) -> dict[str, PerModel]:
    total = sum(weight) if normalize_weights else 1.0
    weights = tuple(w / total for w in weight)
    if len(weights) == 1:
        return {"shares": (1.0,)}
    shares = directional_mean(gram, weights, eps)
    if shares is not None:
        return {"shares": shares}
    if len(weights) == 2 or not gram.any():
        return {"shares": weights}
    raise DataError(
        "the weighted directions of the models cancel, so they have no mean direction; "
        "change the weights"
    )


def _coefficients(*, shares: PerModel) -> PerModel:
    return shares


@method(
    on="deltas",
    base="optional",
    source="goddard.blog (mergekit)",
    rounds=[Gram("gram", arrays=True)],
    fit=_shares,
    fitted=["shares"],
    coefficients=_coefficients,
    limits={"eps": (0.0, None)},
    workspace=2.0,
    check=_check,
    properties=("permutation", "idempotent"),
)
def multislerp(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    shares: PerModel,
    weight: PerModel,
    normalize_weights: bool = True,
    eps: float = 1e-8,
) -> Float[torch.Tensor, "*block"]:
    """Weighted mean direction of the models (or deltas), with their weighted mean norm.

    Maths       uᵢ = xᵢ/(‖xᵢ‖+ε) over the tensor;  θ = (Σ wᵢ‖xᵢ‖) · Σ wᵢuᵢ / ‖Σ wᵢuᵢ‖
    Inputs      deltas: expert minus base, or the models where there is no base
    Parameters  weight: share of each model. normalize_weights: divide by their sum. eps: ε
    Properties  model order does not matter; the norm is the weighted mean of the norms
    When        more than two models, where averaging shrinks the deltas too much
    Example     >>> merge("multislerp", None, [[2.0, 0.0], [0.0, 2.0]], weight=1)
                [1.4142, 1.4142]
    Departures  mergekit's steps through the tangent space cancel exactly; this is their
                closed form. Deltas that are all zero give the base instead of an error.
    """
    return weighted_sum(deltas, shares)
