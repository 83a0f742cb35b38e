from __future__ import annotations

import torch
from jaxtyping import Float

from cermet.core.registry import method
from cermet.core.types import Place
from cermet.maths.combine import weighted_sum
from cermet.maths.lowrank import Triplets, complement, leading
from cermet.maths.polar import polar
from cermet.methods.matrices import Vocabulary, averaged, room, sides


def _ranks(size: int, count: int, common: float) -> tuple[int, int]:
    """How many directions are common, and how many each model has of its own."""
    own = round((size - int(size * common)) / count)
    own = min(own, size // count)
    return size - own * count, own


def _outside(
    delta: torch.Tensor, shared: torch.Tensor, rest: torch.Tensor | None, rank: int
) -> Triplets:
    """The leading triplets of what a delta does outside of a space of outputs.

    rest: an orthonormal basis of all other outputs, where it makes the delta smaller.
    """
    wide = delta.double()
    size = float(torch.linalg.norm(wide))
    if rest is None:
        return leading(wide - shared @ (shared.t() @ wide), rank, size)
    found = leading(rest.t() @ wide, rank, size)
    return Triplets(rest @ found.left, found.values, found.right)


@method(
    on="deltas",
    source="arXiv:2502.04959",
    grain="matrix",
    otherwise=averaged,
    limits={"common": (0.0, 1.0)},
    workspace=room(copies=10.0, short=12.0),
    properties=("permutation", "homogeneous", "odd", "equivariant"),
)
def iso_cts(
    deltas: Float[torch.Tensor, "models rows columns"],
    *,
    place: Place,
    common: float = 0.8,
    lambda_: float = 1.0,
    vocabulary: Vocabulary = "mean",
) -> Float[torch.Tensor, "rows columns"]:
    """The leading directions of the summed delta and some of each expert's own, all made equal.

    Maths       t = round((k − ⌊fk⌋)/T) directions of each expert, c = k − Tt in common;
                Uc, σc, Vc: the first c triplets of Σ τᵢ;  Uᵢ, σᵢ, Vᵢ: the first t of τᵢ − UcUcᵀτᵢ;
                U = polar [U₁ ... U_T Uc],  V = polar [V₁ ... V_T Vc],  σ̄ the mean of all these σ;
                θ = θ₀ + λσ̄ UVᵀ;  other tensors: θ₀ + λ · mean τᵢ.  Cost: all eigenvectors of
                one Gram matrix, a polar factor (see iso_c), and T times the t leading triplets of
                k − c rows, or of the whole delta where it has more rows than columns
    Inputs      deltas: expert minus base, a matrix at a time
    Parameters  common: f, the share of directions that are the sum's. lambda: factor of the merged
                delta; 1.5 to 1.9 in the paper for eight tasks. vocabulary: as in tsv_m
    Properties  model order does not matter; all singular values of the merged delta are equal;
                common 1 is iso_c
    When        as iso_c, with so many experts that what one alone has learnt is lost in the sum
    Example     >>> merge("iso_cts", [[0.0, 0.0]] * 2, [[[2, 0], [0, 0]], [[0, 0], [0, 1]]])
                [[1.5, 0.0], [0.0, 1.5]]
    Departures  As in iso_c. The number of directions for each expert is rounded half to even, as in
                the authors' code, but never to more than there are.
    """
    size = min(sides(place))
    most, own = _ranks(size, len(deltas), common)
    shared = leading(weighted_sum(deltas, [1.0] * len(deltas)).double(), most)
    rows, columns = deltas.shape[1:]
    rest = complement(shared.left[:, shared.values > 0]) if rows <= columns else None
    parts = [*(_outside(delta, shared.left, rest, own) for delta in deltas), shared]
    alone, _ = polar(torch.cat([part.left for part in parts[:-1]], dim=1))
    left = torch.cat([alone.float(), shared.left.float()], dim=1)  # orthogonal already
    right, _ = polar(torch.cat([part.right for part in parts]))
    values = torch.cat([part.values for part in parts])
    return (left @ right.float()).mul_(lambda_ * values.sum() / size)
