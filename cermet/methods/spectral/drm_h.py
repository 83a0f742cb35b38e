from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel
from cermet.core.types import Place
from cermet.maths.select import Cutoff
from cermet.methods.drm import drm, merged
from cermet.methods.matrices import Vocabulary


@drm()
def drm_h(
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
    """Decom-Renorm-Merge in one basis of outputs: normalise, prune, elect, average there.

    Maths       [τ₁ ... τ_T] = UΣ[V₁ ... V_T]ᵀ, the σ above σ₁/100;  Rᵢ = ΣVᵢᵀ, cᵢ the lengths of
                its rows, Ṽᵢ = Rᵢ/cᵢ;  R̂ᵢ = Rᵢ where |Ṽᵢ| is among the share d of all models'
                entries;  s = sgn Σ R̂ᵢ;  R = mean of the wᵢR̂ᵢ with sgn R̂ᵢ = s;  θ = θ₀ + UR.
                Other tensors: their largest entries, elected and averaged likewise. Cost for a
                matrix of m × n: T products of m²n, all eigenvectors of one of m (or of Tn), T + 1
                products
    Inputs      deltas: expert minus base, a matrix at a time
    Parameters  weight: factor of each model after the election. density: share of the entries kept,
                of all models together. others_density: the same of tensors that are no matrices,
                for each model and all of them. disjoint: divide by the number of models that have
                something in a place, not by that of all. elect: elect signs of the other tensors
                too. vocabulary: whether embeddings and heads are such others (mean) or matrices
    Properties  model order does not matter; twice the deltas, twice the result; the result
                lies in the space that all deltas span
    When        experts of different tasks, adapters or whole models, with sizes that differ:
                pruning looks at directions of length 1
    Example     >>> merge("drm_h", [[0.0, 0.0]] * 2,
                ...       [[[2, 0], [0, 0]], [[1, 0], [0, 1]]], density=0.5)
                [[1.5, 0.0], [0.0, 1.0]]
    Departures  At density 1 matrices are averaged without any of this, as in the authors' code. A
                model with nothing along a direction is left at zero there, where theirs divides by
                zero. The command line of their code cannot run; this is its function.
    """
    return merged(
        deltas, place, cutoff, density, weight,
        vertical=False, disjoint=disjoint, elect=elect, vocabulary=vocabulary,
    )  # fmt: skip
