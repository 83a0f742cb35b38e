from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel
from cermet.core.types import Place
from cermet.maths.select import Cutoff
from cermet.methods.joint import Side, aligned
from cermet.methods.knots import knots, ties_of, trimmed
from cermet.methods.matrices import Vocabulary


@knots(properties=("permutation", "odd"))
def knots_ties(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    place: Place,
    cutoff: Cutoff | None,
    density: PerModel = (1.0,),
    normalize: bool = True,
    shared: Side = "outputs",
    floor: float = 1e-5,
    lambda_: float = 1.0,
    vocabulary: Vocabulary = "mean",
) -> Float[torch.Tensor, "*block"]:
    """TIES on the deltas in a basis that they share, so that what they do alike stands alike.

    Maths       [τ₁ ... τ_T] = UΣ[V₁ ... V_T]ᵀ, the σ above a floor;  Rᵢ = ΣVᵢᵀ = Uᵀτᵢ;
                R̂ᵢ = the dᵢ largest |Rᵢ| of the whole model;  s = sgn Σ R̂ᵢ;  R = mean of the R̂ᵢ with
                sgn R̂ᵢ = s;  θ = θ₀ + λUR;  norms and biases as diagonal matrices, the
                vocabulary: the mean.  Cost for a matrix of m × n: T products of m²n, all
                eigenvectors of one of m (or of Tn), T + 1 products; four times that at densities
                below 1
    Inputs      deltas: expert minus base, a matrix at a time
    Parameters  density: share kept of each model, over all its tensors. normalize: the mean of what
                agrees instead of its sum. shared: whether the basis is of the outputs or of the
                inputs. floor: singular values up to this are dropped. lambda: factor of the merged
                delta. vocabulary: whether embeddings and heads are averaged, or are matrices too
    Properties  model order does not matter; one expert at density 1 comes back. Sums and means do
                not see the basis, so KnOTS with a linear merge is task_arithmetic, exactly
    When        LoRA adapters of different tasks, whose weights have little in common entry by entry
    Example     >>> merge("knots_ties", [[0.0, 0.0]] * 2, [[[2, 0], [0, 0]], [[1, 0], [0, 1]]])
                [[1.5, 0.0], [0.0, 1.0]]
    Departures  Scales of adapters are applied before (the authors' code leaves them out, as theirs
                are 1). Where the R̂ᵢ cancel, plus is elected. The vocabulary is averaged by default.
    """

    def fuse(values: torch.Tensor) -> torch.Tensor:
        return ties_of(trimmed(values, cutoff), normalize=normalize)

    return aligned(deltas, place, shared, floor, fuse).mul_(lambda_)
