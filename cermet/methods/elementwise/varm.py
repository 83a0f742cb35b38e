from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel, method
from cermet.maths.combine import weighted_sum
from cermet.methods.whole import energy, energy_shares


def _coefficients(*, share: PerModel) -> PerModel:
    return share


@method(
    on="deltas",
    source="arXiv:2402.16107",
    rounds=[energy],
    fit=energy_shares,
    fitted=["share"],
    coefficients=_coefficients,
    workspace=1.0,
    properties=("permutation", "idempotent", "homogeneous", "odd", "equivariant"),
)
def varm(
    deltas: Float[torch.Tensor, "models *block"], *, share: PerModel
) -> Float[torch.Tensor, "*block"]:
    """FuseChat's variation ratio merge: each tensor's weights are the shares of its change.

    Maths       vᵢ = mean τᵢ² over the tensor;  θ = Σ vᵢθᵢ / Σ vᵢ
    Inputs      deltas: expert minus the pivot that all were tuned from
    Parameters  none
    Properties  every element lies between the smallest and largest of the experts; model order
                does not matter; for a model of one tensor it is metagpt
    When        experts that changed different parts of the network
    Example     >>> merge("varm", [0.0, 0.0], [[1, 2], [3, 4]])
                [2.6667, 3.6667]
    Departures  The paper's formula. The released script loads the same analysis for every model,
                which makes it a plain average. A tensor that no expert changed has equal weights.
    """
    return weighted_sum(deltas, share)
