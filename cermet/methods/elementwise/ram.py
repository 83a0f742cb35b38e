from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import method
from cermet.maths.combine import changed_mean


@method(
    on="deltas",
    source="arXiv:2601.13572",
    limits={"epsilon": (0.0, None)},
    workspace=4.0,
    properties=("permutation", "idempotent", "elementwise", "odd"),
)
def ram(
    deltas: Float[torch.Tensor, "models *block"], *, epsilon: float = 1e-5
) -> Float[torch.Tensor, "*block"]:
    """Average each element over the experts that changed it.

    Maths       θ = θ₀ + Σ τᵢ[|τᵢ| > ε] / max(1, #{i: |τᵢ| > ε})
    Inputs      deltas: expert minus base
    Parameters  epsilon: a change of at most this much is none
    Properties  an element that one expert changed keeps that expert's value
    When        experts that changed different parts (reinforcement-tuned agents)
    Example     >>> merge("ram", [0.0, 0.0], [[2, 4], [0, 2]])
                [2.0, 3.0]
    Departures  none
    """
    return changed_mean(deltas, epsilon, None)
