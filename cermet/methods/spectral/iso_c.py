from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import method
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum
from cermet.maths.polar import polar
from cermet.methods.matrices import Vocabulary, averaged, room, sides


@method(
    on="deltas",
    source="arXiv:2502.04959",
    grain="matrix",
    otherwise=averaged,
    workspace=room(copies=5.0, short=12.0),
    properties=("permutation", "homogeneous", "odd", "equivariant"),
)
def iso_c(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    place: Place,
    lambda_: float = 1.0,
    vocabulary: Vocabulary = "mean",
) -> Float[torch.Tensor, "rows columns"]:
    """The sum of the deltas with all its singular values made equal.

    Maths       Σ τᵢ = UΣVᵀ;  σ̄ = mean of all k singular values;  θ = θ₀ + λσ̄ UVᵀ;
                other tensors: θ₀ + λ · mean τᵢ.  Cost for a matrix of M × k: a Gram matrix of Mk²
                and about ten products of that size; no singular value decomposition
    Inputs      deltas: expert minus base, a matrix at a time
    Parameters  lambda: factor of the merged delta; 1.3 to 1.5 in the paper for eight tasks.
                vocabulary: as in tsv_m
    Properties  model order does not matter; all singular values of the merged delta are equal, and
                their sum is that of the summed delta; one expert does not come back
    When        experts of different tasks that are many or small beside each other: no direction
                drowns another
    Example     >>> merge("iso_c", [[0.0, 0.0]] * 2, [[[2, 0], [0, 0]], [[0, 0], [0, 1]]])
                [[1.5, 0.0], [0.0, 1.5]]
    Departures  Directions in which nothing has moved (adapters of a low rank) stay unmoved, where
                the authors' decomposition makes some up; σ̄ divides by all k, as theirs. The
                vocabulary as in tsv_m.
    """
    factor, total = polar(weighted_sum(deltas, [1.0] * len(deltas)))
    return factor.mul_(lambda_ * total / max(1, min(sides(place)))).float()
