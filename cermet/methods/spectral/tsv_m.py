from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import method
from cermet.core.types import Place
from cermet.maths.lowrank import leading
from cermet.methods.matrices import Vocabulary, averaged_if_short, room, sides
from cermet.methods.whitening import whitened


@method(
    on="deltas",
    source="arXiv:2412.00081",
    grain="matrix",
    otherwise=averaged_if_short,
    workspace=room(copies=9.0, short=12.0),
    properties=("permutation", "homogeneous", "odd", "equivariant"),
)
def tsv_m(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    place: Place,
    lambda_: float = 1.0,
    vocabulary: Vocabulary = "mean",
) -> Float[torch.Tensor, "rows columns"]:
    """The leading singular vectors of each delta, whitened against those of the others.

    Maths       τᵢ = UᵢΣᵢVᵢᵀ, of which the first p = ⌊k/T⌋ triplets, k the shorter side;
                U = polar [U₁ ... U_T], V = polar [V₁ ... V_T];  θ = θ₀ + λ U diag(Σ₁ ... Σ_T) Vᵀ;
                other tensors: θ₀ + λ · mean τᵢ.  Cost for a matrix of M × k: T Gram matrices of
                Mk², the p leading of their eigenvectors, two polar factors (see iso_c)
    Inputs      deltas: expert minus base, a matrix at a time
    Parameters  lambda: factor of the merged delta. vocabulary: whether embeddings and heads are
                averaged, or are matrices like the rest
    Properties  model order does not matter; one expert comes back; experts that move different
                inputs and outputs are added, in rank p each; twice the deltas, twice the result
    When        experts of different tasks, as many as you like; a sum, so start with lambda 1
    Example     >>> merge("tsv_m", [[0.0, 0.0]] * 2, [[[2, 0], [0, 0]], [[0, 0], [0, 1]]])
                [[2.0, 0.0], [0.0, 1.0]]
    Departures  Directions that several experts share exactly are whitened by the partial isometry,
                so equal experts give their common part of rank p; the authors' decomposition makes
                up directions there. The vocabulary is averaged by default, and with vocabulary
                spectral it is as in the authors' code, where any matrix is. A matrix with fewer
                rows or columns than models is averaged; the authors leave the base.
    """
    rank = int(min(sides(place)) * (1 / len(deltas)))
    parts = [leading(delta, rank) for delta in deltas]
    return whitened(parts, [1.0] * len(parts), lambda_)
