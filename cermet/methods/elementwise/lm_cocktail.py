from __future__ import annotations

import math

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import weighted_sum


def _coefficients(*, loss: PerModel, temperature: float) -> PerModel:
    least = min(loss)
    shares = [math.exp((least - value) / temperature) for value in loss]
    return tuple(s / sum(shares) for s in shares)


@method(
    on="weights",
    base="none",
    source="arXiv:2311.13534",
    coefficients=_coefficients,
    limits={"temperature": (1e-6, None)},
    workspace=1.0,
    properties=("permutation", "idempotent", "elementwise"),
)
def lm_cocktail(
    weights: Float[torch.Tensor, "models *block"], *, loss: PerModel, temperature: float = 5.0
) -> Float[torch.Tensor, "*block"]:
    """Average models by how well each does on a few examples of the target task.

    Maths       wᵢ = exp(−Lᵢ/T) / Σₖ exp(−Lₖ/T);  θ = Σ wᵢθᵢ
    Inputs      weights: the models as they are (a base in the recipe is one of them)
    Parameters  loss: Lᵢ, the mean loss of each model on the examples. temperature: T, larger is
                flatter
    Properties  model order does not matter; a constant added to all losses changes nothing
    When        a new task with five examples and no training; with a model tuned for the task,
                merge the result with it half and half by linear
    Example     >>> merge("lm_cocktail", None, [[1.0], [3.0]], loss=[1.0, 1.0])
                [2.0]
    Departures  The losses are given; measuring them is not the merge's work. T is 5 as in the
                authors' signature; their docstring says 3.
    """
    return weighted_sum(weights, _coefficients(loss=loss, temperature=temperature))
