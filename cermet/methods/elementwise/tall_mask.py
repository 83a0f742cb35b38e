from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float

from cermet.core.registry import Bits, PerModel, method
from cermet.maths.combine import needed_by_each, weighted_sum
from cermet.methods.masks import chosen


@method(
    on="deltas",
    source="arXiv:2405.07813",
    limits={"threshold": (0.0, None)},
    workspace=3.2,
    parts=[Bits("mask")],
    restore=chosen,
    properties=("permutation", "homogeneous", "odd"),
)
def tall_mask(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    threshold: PerModel = (0.4,),
) -> tuple[Float[torch.Tensor, "*block"], Mapping[str, torch.Tensor]]:
    """The sum of all deltas, and for each expert one bit a weight that says what of it to use.

    Maths       τ = Σ τᵢ;  mᵢ = [|τᵢ| > tᵢ|τ − τᵢ|];  merged θ = θ₀ + τ;
                of expert i, restored: θ₀ + mᵢτ.  Cost for a matrix of m × n: 6Tmn operations
    Inputs      deltas: expert minus base
    Parameters  threshold: tᵢ, chosen for each task from 0.2 to 0.6 by validation; the smaller,
                the more entries are used
    Properties  model order does not matter; one expert alone is restored exactly
    When        the task of an input is known: nearly the accuracy of the experts in two models
                and a bit for each weight and expert. The merged model itself is the plain sum,
                which is rarely good: see task_arithmetic and consensus_ta for one model
    Example     >>> merge("tall_mask", [0.0] * 3, [[2, 4, 0], [2, -1, 1]], task=1)
                [4.0, 0.0, 1.0]
    Departures  none
    """
    total = weighted_sum(deltas, [1.0] * len(deltas))
    return total, {"mask": needed_by_each(deltas, total, threshold)}
