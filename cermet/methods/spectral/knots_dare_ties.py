from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel
from cermet.core.types import Place
from cermet.maths.select import Cutoff
from cermet.methods.joint import Side, aligned
from cermet.methods.knots import dared, knots_dares, ties_of, trimmed
from cermet.methods.matrices import Vocabulary


@knots_dares()
def knots_dare_ties(
    deltas: Float[torch.Tensor, "models *block"],
    *,
    place: Place,
    mask: Float[torch.Tensor, "models *block"],
    cutoff: Cutoff | None,
    keep: PerModel = (0.9,),
    density: PerModel = (1.0,),
    normalize: bool = True,
    shared: Side = "outputs",
    floor: float = 1e-5,
    lambda_: float = 1.0,
    vocabulary: Vocabulary = "mean",
) -> Float[torch.Tensor, "*block"]:
    """DARE, then TIES, on the deltas in a basis that they share.

    Maths       Rᵢ as in knots_ties;  each entry is kept with probability pᵢ and divided by it;
                R̂ᵢ = the dᵢ largest of the whole model;  s = sgn Σ R̂ᵢ;  R = mean of the R̂ᵢ with
                sgn R̂ᵢ = s;  θ = θ₀ + λUR.  Cost as that of knots_ties
    Inputs      deltas: expert minus base, a matrix at a time
    Parameters  keep: as in knots_dare. density, normalize, shared, floor, lambda and vocabulary: as
                in knots_ties
    Properties  keep 1 is knots_ties; a seed fixes every draw
    When        as knots_ties; the authors keep 0.9 for CLIP and 0.2 for Llama
    Example     >>> merge("knots_dare_ties", [[0.0, 0.0]] * 2,
                ...       [[[2, 0], [0, 0]], [[1, 0], [0, 1]]], keep=1, lambda_=0.5)
                [[0.75, 0.0], [0.0, 0.5]]
    Departures  As in knots_dare.
    """

    def fuse(values: torch.Tensor) -> torch.Tensor:
        return ties_of(trimmed(dared(values, mask, keep), cutoff), normalize=normalize)

    return aligned(deltas, place, shared, floor, fuse).mul_(lambda_)
