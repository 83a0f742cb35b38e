from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import mean_coefficients, weighted_sum


def _check(*, weight: PerModel, normalize: bool) -> str | None:
    if normalize and abs(sum(weight)) < 1e-8:
        return "the weights sum to zero, so they cannot be normalised (normalize: false sums them)"
    return None


def _shares(*, weight: PerModel, normalize: bool) -> PerModel:
    return mean_coefficients(weight, weight, normalize=normalize)


@method(
    on="weights",
    base="none",
    source="arXiv:2203.05482",
    coefficients=_shares,
    workspace=1.0,
    check=_check,
    properties=("permutation", "idempotent", "elementwise"),
)
def linear(
    weights: Float[torch.Tensor, "models *block"], *, weight: PerModel, normalize: bool = True
) -> Float[torch.Tensor, "*block"]:
    """Weighted average of the models.

    Maths       θ = Σ wᵢθᵢ / Σ wᵢ  (θ = Σ wᵢθᵢ without normalize)
    Inputs      weights: the models as they are; no base
    Parameters  weight: share of each model, any sign. normalize: divide by the sum of weights
    Properties  model order does not matter; equal models give that model; scaling every
                weight changes nothing with normalize
    When        the first thing to try, and the yardstick for everything else
    Example     >>> merge("linear", None, [[2.0, 4.0], [4.0, 0.0]], weight=[1, 3])
                [3.5, 1.0]
    Departures  Weights that sum to zero are refused; mergekit 0.1.5 divides by zero. Sums
                run in float32 whatever the dtype of the models.
    """
    return weighted_sum(weights, _shares(weight=weight, normalize=normalize))
