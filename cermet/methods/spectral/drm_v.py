from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel
from cermet.core.types import Place
from cermet.maths.select import Cutoff
from cermet.methods.drm import drm, merged
from cermet.methods.matrices import Vocabulary


@drm()
def drm_v(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    place: Place,
    cutoff: Cutoff | None,
    weight: PerModel = (1.0,),
    density: float = 0.2,
    others_density: float = 1.0,
    disjoint: bool = True,
    elect: bool = True,
    vocabulary: Vocabulary = "mean",
) -> Float[torch.Tensor, "*block"]:
    """Decom-Renorm-Merge in one basis of inputs: drm_h with outputs and inputs exchanged.

    Maths       [τ₁; ...; τ_T] = [U₁; ...; U_T]ΣVᵀ, one below the other, then as drm_h with columns
                of UᵢΣ for rows:  θ = θ₀ + RVᵀ.  Cost for a matrix of m × n: T products of mn², all
                eigenvectors of one of n (or of Tm), T + 1 products
    Inputs      deltas: expert minus base, a matrix at a time
    Parameters  weight, density, others_density, disjoint, elect and vocabulary: as in drm_h
    Properties  model order does not matter; twice the deltas, twice the result; of transposed
                matrices it is drm_h
    When        as drm_h; the authors' example takes this direction
    Example     >>> merge("drm_v", [[0.0, 0.0]] * 2,
                ...       [[[2, 0], [0, 0]], [[1, 0], [0, 1]]], density=0.5)
                [[1.5, 0.0], [0.0, 1.0]]
    Departures  As in drm_h.
    """
    return merged(
        deltas, place, cutoff, density, weight,
        vertical=True, disjoint=disjoint, elect=elect, vocabulary=vocabulary,
    )  # fmt: skip
