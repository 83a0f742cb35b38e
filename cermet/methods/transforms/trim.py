from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths import sparsify
from cermet.maths.select import Cutoff
from cermet.methods.rounds import kept_magnitudes


@method(
    kind="transform",
    on="deltas",
    source="arXiv:2306.01708",
    rounds=[kept_magnitudes],
    workspace=2.2,
    properties=("permutation", "homogeneous", "odd"),
)
def trim(
    deltas: Float[torch.Tensor, "models *block"], *, cutoff: Cutoff, density: PerModel
) -> Float[torch.Tensor, "models *block"]:
    """Keep the largest entries of each tensor of a delta.

    Maths       τ̂ᵢ = the ⌊dᵢn⌋ largest |τᵢ| of a tensor of n entries, 0 elsewhere
    Inputs      deltas: of each model, or after a merge the merged one
    Parameters  density: share kept per model and tensor, in [0, 1]; a positive one keeps at
                least one entry
    Properties  density 1 changes nothing; [trim, ties] is ties at that density
    When        before a merge whose experts disagree; after one to leave small changes out
    Example     >>> merge([("trim", {"density": 0.5}), ("task_arithmetic", {"weight": 1})],
                ...       [0.0] * 4, [[4, 1, -2, 0]])
                [4.0, 0.0, -2.0, 0.0]
    Departures  Of values equal at the threshold the first ones are kept, so that exactly ⌊dn⌋
                remain; in a pipeline that works by columns, the first by columns.
    """
    return sparsify.trim(deltas, cutoff)
