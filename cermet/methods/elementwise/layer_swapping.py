from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum


def _coefficients(*, place: Place, bottom: int, top: int, transition: int) -> PerModel:
    """Shares of the task's expert and of the language's."""
    if place.layer is None:
        return 0.0, 1.0
    depth = min(place.layer - bottom, place.layers - 1 - top - place.layer)
    if depth < 0:
        return 0.0, 1.0
    return (0.5, 0.5) if depth < transition else (1.0, 0.0)


@method(
    on="weights",
    base="none",
    models=(2, 2),
    source="arXiv:2410.01335",
    coefficients=_coefficients,
    limits={"bottom": (0.0, None), "top": (0.0, None), "transition": (0.0, None)},
    workspace=1.0,
    properties=("idempotent", "elementwise"),
)
def layer_swapping(
    weights: Float[torch.Tensor, "2 *block"],
    *,
    place: Place,
    bottom: int = 5,
    top: int = 2,
    transition: int = 1,
) -> Float[torch.Tensor, "*block"]:
    """The middle layers of an expert for a task, the outer layers of an expert for a language.

    Maths       layers below b and the last u from the second model, t layers beside them the mean
                of both, the rest from the first
    Inputs      weights: the task's expert, then the language's, both tuned from one base
    Parameters  bottom, top: layers from the language's expert. transition: width of the mean on
                either side. The defaults are those of a model of 32 layers
    Properties  outside of the transition every element is one model's; equal models give that model
    When        a task learnt in English, for a language with little data
    Example     >>> merge("layer_swapping", None, [[1.0, 2.0], [3.0, 5.0]])
                [3.0, 5.0]
    Departures  No code was released. The mean in the transition, and embeddings and head from
                the language's expert, are the natural reading.
    """
    shares = _coefficients(place=place, bottom=bottom, top=top, transition=transition)
    return weighted_sum(weights, shares)
