from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import PerModel
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum
from cermet.maths.select import Cutoff
from cermet.methods.joint import Side, aligned
from cermet.methods.knots import dared, knots_dares, trimmed
from cermet.methods.matrices import Vocabulary


@knots_dares()
def knots_dare(
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
    """DARE on the deltas in a basis that they share: drop entries at random, average the others.

    Maths       Rᵢ as in knots_ties;  each entry is kept with probability pᵢ and divided by it;
                R̂ᵢ = the dᵢ largest of the whole model;  R = mean of the R̂ᵢ that are not 0;
                θ = θ₀ + λUR.  Cost as that of knots_ties
    Inputs      deltas: expert minus base, a matrix at a time
    Parameters  keep: pᵢ, the probability with which an entry is kept. density, normalize, shared,
                floor, lambda and vocabulary: as in knots_ties; normalize takes the mean of the
                entries that are left instead of their sum
    Properties  keep 1 and density 1 with normalize off is the plain sum; a seed fixes every draw
    When        as knots_ties, where signs agree and entries are redundant
    Example     >>> merge("knots_dare", [[0.0, 0.0]] * 2,
                ...       [[[2, 0], [0, 0]], [[1, 0], [0, 1]]], keep=1)
                [[1.5, 0.0], [0.0, 1.0]]
    Departures  As in knots_ties. The draws are those of Cermet, not of torch's generator.
    """

    def fuse(values: torch.Tensor) -> torch.Tensor:
        kept, ones = trimmed(dared(values, mask, keep), cutoff), [1.0] * len(values)
        total = weighted_sum(kept, ones)
        if not normalize:
            return total
        count = weighted_sum(torch.ne(kept, 0.0, out=kept), ones)
        return total.div_(count.clamp_min_(1.0))

    return aligned(deltas, place, shared, floor, fuse).mul_(lambda_)
