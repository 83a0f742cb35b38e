from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.core.types import Place
from cermet.methods.parts import belongs


def _factors(*, place: Place, count: int, part: str) -> PerModel:
    return (1.0 if belongs(place, part) else 0.0,) * count


@method(
    kind="transform",
    on="deltas",
    source="arXiv:2505.12716 (linear); arXiv:2408.13656 (layers)",
    coefficients=_factors,
    workspace=1.0,
    properties=("permutation", "homogeneous", "odd"),
)
def keep(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    place: Place,
    part: Literal["linear", "attention", "feed_forward", "layers"],
) -> Float[torch.Tensor, "models *block"]:
    """Keep the deltas of one part of the network, and leave the rest at the base.

    Maths       τ̂ᵢ = τᵢ in the tensors of the part, 0 in all others
    Inputs      deltas: of each model, or after a merge the merged one
    Parameters  part: linear (the projections of attention and feed-forward layers), attention or
                feed_forward alone, or layers (all that stands inside the layers)
    Properties  what is not kept is the base's, bit for bit; [keep linear, task_arithmetic] is
                shadow_ft
    When        to graft a skill without norms, embeddings and head, or one half of each layer
    Example     >>> merge([("keep", {"part": "layers"}), ("task_arithmetic", {"weight": 1})],
                ...       [1.0, 2.0], [[3, 4]])
                [1.0, 2.0]
    Departures  Parts are found by role, so that fused projections take part; a projection's bias
                goes with it.
    """
    return deltas if belongs(place, part) else torch.zeros_like(deltas)
