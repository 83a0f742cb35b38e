from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.select import Cutoff
from cermet.methods.whole import global_magnitudes, trimmed_globally


@method(
    kind="transform",
    on="deltas",
    source="arXiv:2306.01708",
    rounds=[global_magnitudes],
    workspace=2.2,
    properties=("permutation", "homogeneous", "odd"),
)
def trim_globally(
    deltas: Float[torch.Tensor, "models *block"], *, cutoff: Cutoff, density: PerModel
) -> Float[torch.Tensor, "models *block"]:
    """Keep the largest entries of a delta, of all its tensors together.

    Maths       τ̂ᵢ: entries of τᵢ with |τᵢ| ≥ the (D−⌊dD⌋)-th smallest of all D of the model
    Inputs      deltas: of each model, or after a merge the merged one
    Parameters  density: share of a model's entries that is kept; one entry more is kept, and all
                that equal it. The same for every tensor
    Properties  density 1 changes nothing; tensors that moved little may be dropped whole
    When        as the authors of TIES trim; one number for the whole model
    Example     >>> merge([("trim_globally", {"density": 0.25}), ("ties", {"weight": 1})],
                ...       [0.0] * 4, [[4, 1, -2, 0]])
                [4.0, 0.0, -2.0, 0.0]
    Departures  as ties_official
    """
    return trimmed_globally(deltas, cutoff)
